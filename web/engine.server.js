// @ts-check
/** The engine behind a server: plain HTTP. The server keeps nothing of an upload; the page sends it again if needed. */

/** @typedef {import("./prediction.js").Row} Row */
/** @typedef {import("./prediction.js").Info} Info */

/**
 * @typedef {object} Source an image that the reader has chosen
 * @property {string} name
 * @property {File} [file]
 * @property {boolean} [example]
 * @property {boolean} [force] whether its refusal was overruled
 *
 * @typedef {object} Drawing how downloads are drawn
 * @property {string} operating_point
 * @property {number} opacity
 * @property {string} colour_map
 * @property {number} [prevalence]
 * @property {boolean} [force] whether refusals that may be overruled are
 *
 * @typedef {object} Engine
 * @property {() => Promise<Info>} info
 * @property {(file: File, options: {force?: boolean, signal?: AbortSignal}) => Promise<Row>} predict
 * @property {(name: string, options: {signal?: AbortSignal}) => Promise<Row>} example
 * @property {(source: Source, options: Drawing & {format: "pdf" | "png", target: string}) => Promise<Made>} [report]
 * @property {(sources: Source[], options: Drawing) => Promise<Made>} [archive]
 * @property {string} [api] address of its description for programs
 *
 * @typedef {{blob: Blob, name: string}} Made a file for download
 */

/** A request that failed; `code` as in the service's errors, or `connection`. */
export class EngineError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {number} retry seconds after which it may be tried again; 0: the service says nothing about it
   */
  constructor(code, message, retry = 0) {
    super(message);
    this.code = code;
    this.retry = retry;
  }
}

const PATIENCE = 3; // how often a busy server is asked again

/** @implements {Engine} */
export class ServerEngine {
  api = "openapi.json";

  /** @param {URL} base what all addresses are relative to */
  constructor(base = new URL("./", document.baseURI)) {
    this.base = base;
  }

  /** @returns {Promise<Info>} */
  async info() {
    return (await this.#ask("page/info")).json();
  }

  /**
   * @param {File} file
   * @param {{force?: boolean, signal?: AbortSignal}} options
   * @returns {Promise<Row>}
   */
  async predict(file, { force = false, signal } = {}) {
    const headers = { "X-File-Name": encodeURIComponent(file.name), "Content-Type": "application/octet-stream" };
    const path = force ? "page/predict?force=true" : "page/predict";
    return (await this.#ask(path, { method: "POST", body: file, headers, signal })).json();
  }

  /**
   * @param {string} name
   * @param {{signal?: AbortSignal}} options
   * @returns {Promise<Row>}
   */
  async example(name, { signal } = {}) {
    return (await this.#ask(`page/example/${encodeURIComponent(name)}`, { signal })).json();
  }

  /**
   * @param {Source} source
   * @param {Drawing & {format: "pdf" | "png", target: string}} options
   */
  async report(source, options) {
    const headers = { "X-File-Name": encodeURIComponent(source.name), "Content-Type": "application/octet-stream" };
    const body = await this.#bytes(source);
    const response = await this.#ask(`page/report?${query(options)}`, { method: "POST", body, headers });
    return { blob: await response.blob(), name: fileName(response) ?? `${source.name}.${options.format}` };
  }

  /**
   * @param {Source[]} sources
   * @param {Drawing} options
   */
  async archive(sources, options) {
    const body = new FormData();
    for (const source of sources) body.append("images", await this.#bytes(source), source.name);
    const response = await this.#ask(`page/archive?${query(options)}`, { method: "POST", body });
    return { blob: await response.blob(), name: fileName(response) ?? "pneumocam.zip" };
  }

  /** @param {Source} source @returns {Promise<Blob>} */
  async #bytes({ name, file }) {
    return file ?? (await this.#ask(`examples/${encodeURIComponent(name)}`)).blob();
  }

  /**
   * @param {string} path
   * @param {RequestInit} options
   */
  async #ask(path, options = {}) {
    for (let tries = 0; ; tries++) {
      const answer = await this.#once(path, options);
      if (!(answer instanceof EngineError)) return answer;
      if (!answer.retry || tries >= PATIENCE) throw answer;
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(answer.retry, 2 ** tries)));
      options.signal?.throwIfAborted();
    }
  }

  /**
   * @param {string} path
   * @param {RequestInit} options
   */
  async #once(path, options) {
    let response;
    try {
      response = await fetch(new URL(path, this.base), options);
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new EngineError("connection", String(error));
    }
    if (response.ok) return response;
    const { error } = await response.json().catch(() => ({}));
    const retry = Number(response.headers.get("Retry-After")) || 0;
    return new EngineError(error?.code ?? "other", error?.message ?? `Status ${response.status}.`, retry);
  }
}

/** @param {Record<string, string | number | boolean | undefined>} options */
function query(options) {
  const given = Object.entries(options).flatMap(([key, x]) => (x === undefined ? [] : [[key, String(x)]]));
  return new URLSearchParams(given).toString();
}

/** The name that the server gives a file. @param {Response} response */
function fileName(response) {
  const header = response.headers.get("Content-Disposition") ?? "";
  const [, encoded] = /filename\*=UTF-8''([^;]+)/i.exec(header) ?? [];
  if (encoded) return decodeURIComponent(encoded);
  return /filename="([^"]+)"/i.exec(header)?.[1];
}
