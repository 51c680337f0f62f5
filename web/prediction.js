// @ts-check
/** Probability, threshold and prevalence: the arithmetic of `pneumocam.predict` after the network has run. */

/**
 * @typedef {"ok" | "uncertain" | "rejected"} Status
 *
 * @typedef {object} Prediction as `Prediction.to_dict` in Python
 * @property {Status} status
 * @property {string | null} label
 * @property {Record<string, number>} probabilities
 * @property {number | null} p_pneumonia
 * @property {{code: string, message: string} | null} reason
 * @property {{code: string, message: string}[]} [warnings] doubts about the image
 * @property {{name: string, threshold: number}} operating_point
 * @property {number} [prevalence] for which the probabilities hold
 * @property {{id: string, revision: string}} model
 *
 * @typedef {object} Point an operating point
 * @property {number} threshold of P(pneumonia)
 * @property {[number, number]} band between which P(pneumonia) a prediction is uncertain
 * @property {Measured | null} measured
 * @property {number | null} [uncertain_error] share of wrong predictions among the uncertain ones of held-out images
 *
 * @typedef {object} Measured shares in [0, 1]
 * @property {number} sensitivity
 * @property {number} specificity
 * @property {number} uncertain
 *
 * @typedef {[number, number, number, number]} Box left, top, right, bottom
 *
 * @typedef {object} Row all that is known of one image
 * @property {string} name
 * @property {string} point the default operating point
 * @property {Record<string, Prediction>} points
 * @property {{format: string, width: number, height: number, steps: string[]}} [image]
 * @property {string} [picture] data URI
 * @property {string} [thumbnail] data URI
 * @property {Record<string, number[][] | null>} [maps] Grad-CAM of each class, in [0, 1] on one scale; null if empty
 * @property {Box} [box] what the maps cover, in pixels of an image of `size`
 * @property {[number, number]} [size] width and height
 * @property {Record<string, Record<string, string | number | null>>} [table] cells of `pneumocam score` at each point
 * @property {string} [truth] of an example
 * @property {[number, number][][]} [lungs] outlines in pixels of an image of `size`
 * @property {Record<string, MapQuality>} [map_quality] of each class
 * @property {boolean} [force] whether the refusal may be overruled
 *
 * @typedef {object} MapQuality
 * @property {"steady" | "unsteady" | "outside_lungs" | "empty"} word
 * @property {number | null} [inside] share of the map inside the lung fields
 * @property {number | null} [expected] share of the image inside the lung fields
 *
 * @typedef {object} Example
 * @property {string} file
 * @property {string} truth
 * @property {boolean} gallery
 * @property {boolean} first whether the page opens with it
 * @property {string | null} label
 * @property {Status} status
 * @property {string} thumbnail address
 *
 * @typedef {object} Info
 * @property {string[]} labels
 * @property {string[]} targets
 * @property {string} [point]
 * @property {Record<string, Point>} points
 * @property {number | null} [prevalence] the default; null if the model states none
 * @property {number | null} [images] that were measured
 * @property {number | null} [patients]
 * @property {{id: string, revision: string}} model
 * @property {string | null} [notice]
 * @property {Record<string, string>} colours base64 of 256 RGB triples
 * @property {{images: number, bytes: number}} limits
 * @property {string[]} [columns] of the table
 * @property {Example[]} examples
 */

const odds = (/** @type {number} */ p) => p / (1 - p);

/**
 * Probabilities for another prevalence of pneumonia (Saerens et al. 2002): the odds of pneumonia against NORMAL change
 * by the ratio of the odds before the image; the kinds of pneumonia keep their ratio.
 * @param {Record<string, number>} probabilities by label, with a sum of 1
 * @param {number} from the prevalence for which they hold, in (0, 1)
 * @param {number} to the other one
 * @returns {Record<string, number>}
 */
export function shift(probabilities, from, to) {
  const factor = odds(to) / odds(from);
  const weighed = Object.entries(probabilities).map(([name, p]) => [name, name === "NORMAL" ? p : p * factor]);
  const sum = weighed.reduce((total, [, p]) => total + Number(p), 0);
  return Object.fromEntries(weighed.map(([name, p]) => [name, Number(p) / sum]));
}

/**
 * P(any kind of pneumonia).
 * @param {Record<string, number>} probabilities
 */
export function pneumonia(probabilities) {
  const kinds = Object.entries(probabilities).filter(([name]) => name !== "NORMAL");
  return Math.min(
    1,
    kinds.reduce((total, [, p]) => total + p, 0),
  );
}

/**
 * The prediction at an operating point and for a prevalence; the network does not run.
 * @param {Row} row
 * @param {Info} info
 * @param {{point: string | null, prevalence: number | null}} settings null: the default
 * @returns {Prediction}
 */
export function at(row, info, { point, prevalence }) {
  const name = point !== null && point in row.points ? point : row.point;
  const prediction = row.points[name];
  const from = prediction.prevalence ?? info.prevalence;
  if (prediction.status === "rejected" || prevalence === null || from == null || prevalence === from) return prediction;
  const probabilities = shift(prediction.probabilities, from, prevalence);
  const p = pneumonia(probabilities);
  const { threshold, band } = info.points[name];
  // A doubt about the image itself stays, whatever the probability.
  const doubt = prediction.warnings?.[0] ?? null;
  const reason = band[0] < p && p < band[1] ? nearThreshold(p, info.points[name]) : doubt;
  return {
    ...prediction,
    status: reason ? "uncertain" : "ok",
    label: p >= threshold ? mostProbableKind(probabilities) : "NORMAL",
    probabilities,
    p_pneumonia: p,
    reason,
    prevalence,
  };
}

/**
 * The reason in Python's words.
 * @param {number} p of pneumonia
 * @param {Point} point
 */
function nearThreshold(p, { threshold, uncertain_error: error }) {
  const percent = (/** @type {number} */ share) => `${(100 * share).toFixed(0)}%`;
  const leaning = p >= threshold ? `pneumonia (${percent(p)})` : `normal (${percent(1 - p)})`;
  const tested = error == null ? "" : ` In testing, ${percent(error)} of such predictions were wrong.`;
  return { code: "near_threshold", message: `Uncertain, leaning ${leaning}.${tested}` };
}

/** @param {Record<string, number>} probabilities */
function mostProbableKind(probabilities) {
  const kinds = Object.keys(probabilities).filter((name) => name !== "NORMAL");
  return kinds.reduce((best, name) => (probabilities[name] > probabilities[best] ? name : best));
}

/**
 * Of one label, or of `PNEUMONIA` for all its kinds together.
 * @param {Prediction} prediction
 * @param {string} target
 */
export function probabilityOf(prediction, target) {
  return target === "PNEUMONIA" ? (prediction.p_pneumonia ?? 0) : prediction.probabilities[target];
}

/**
 * What a reader must distinguish at a glance.
 * @param {Prediction} prediction
 * @returns {"pneumonia" | "normal" | "uncertain" | "rejected"}
 */
export function verdict({ status, label }) {
  if (status !== "ok") return status;
  return label === "NORMAL" ? "normal" : "pneumonia";
}
