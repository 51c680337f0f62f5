// @ts-check

/** An upload that cannot be used as a radiograph: the codes and sentences are those of `pneumocam.image.errors`. */
export class Refusal extends Error {
  /**
   * @param {string} code the same as in Python, or `unsupported_here` for what only the Python package reads
   * @param {string} message what came, what is accepted, and what to do
   * @param {boolean} border whether this is a border case, for which a prediction can be forced
   */
  constructor(code, message, border = false) {
    super(message);
    this.name = "Refusal";
    this.code = code;
    this.border = border;
  }
}
