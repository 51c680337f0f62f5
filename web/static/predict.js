// @ts-check
/** Logits -> calibrated probabilities, label and status, as `pneumocam.predict` has them. */

/**
 * @typedef {object} OperatingPoint
 * @property {number} threshold of P(pneumonia)
 * @property {number} uncertain_log_odds a prediction nearer to the threshold than this is uncertain
 * @property {number | null} [uncertain_error] share of wrong predictions among the uncertain ones
 *
 * @typedef {object} Calibration of the bundle
 * @property {string[]} labels in the order of the logits
 * @property {number} temperature the logits are divided by it
 * @property {Record<string, OperatingPoint>} points by name
 * @property {string} point the default one's name
 */

/**
 * @param {ArrayLike<number>} logits
 * @param {number} temperature
 * @returns {number[]} with a sum of 1
 */
export function softmax(logits, temperature) {
  const scaled = Array.from(logits, (logit) => logit / temperature);
  const highest = Math.max(...scaled);
  const shares = scaled.map((logit) => Math.exp(logit - highest));
  const sum = shares.reduce((a, b) => a + b);
  return shares.map((share) => share / sum);
}

/**
 * Calibrated probabilities for the prevalence in use.
 * @param {ArrayLike<number>} logits
 * @param {string[]} labels
 * @param {number} temperature
 * @param {number} shift what the prevalence adds to the log-odds of pneumonia
 * @returns {number[]} in the order of the labels
 */
export function calibrated(logits, labels, temperature, shift) {
  const shifted = labels.map((label, i) => logits[i] / temperature + (label === "NORMAL" ? 0 : shift));
  return softmax(shifted, 1);
}

/**
 * Label, status and reason at one operating point.
 * @param {string[]} labels
 * @param {number[]} probabilities
 * @param {OperatingPoint} point
 */
export function decide(labels, probabilities, point) {
  const normal = probabilities[labels.indexOf("NORMAL")];
  const kinds = labels.map((label, i) => ({ label, p: probabilities[i] })).filter(({ label }) => label !== "NORMAL");
  const pneumonia = kinds.reduce((sum, { p }) => sum + p, 0);
  const distance = Math.log(pneumonia / normal) - Math.log(point.threshold / (1 - point.threshold));
  const uncertain = Math.abs(distance) < point.uncertain_log_odds;
  const likeliest = kinds.reduce((best, kind) => (kind.p > best.p ? kind : best));
  return {
    status: uncertain ? "uncertain" : "ok",
    label: pneumonia >= point.threshold ? likeliest.label : "NORMAL",
    p_pneumonia: Math.min(pneumonia, 1),
    reason: uncertain ? { code: "near_threshold", message: nearThreshold(pneumonia, point) } : null,
  };
}

/**
 * @param {number} p P(pneumonia)
 * @param {OperatingPoint} point
 */
function nearThreshold(p, { threshold, uncertain_error: error }) {
  const percent = (/** @type {number} */ share) => `${(100 * share).toFixed(0)}%`;
  const leaning = p >= threshold ? `pneumonia (${percent(p)})` : `normal (${percent(1 - p)})`;
  const tested = error == null ? "" : ` In testing, ${percent(error)} of such predictions were wrong.`;
  return `Uncertain, leaning ${leaning}.${tested}`;
}
