// @ts-check
/**
 * Grad-CAM (Selvaraju et al. 2017) without gradients: for a head of global average pooling and one linear layer, the
 * gradient of a logit is that layer's row of weights over the number of cells.
 */

import { softmax } from "./predict.js";

/**
 * @typedef {object} Head of the network
 * @property {string[]} labels
 * @property {Float32Array} weights labels x channels
 */

/**
 * The map of one class, ReLU applied, divided by its peak.
 * @param {Float32Array} features channels x height x width
 * @param {number[]} row (channels,) the gradient of what is explained with respect to the pooled features
 * @param {number} height
 * @param {number} width
 * @returns {number[][] | null} height x width in [0, 1]; null if no part of the image speaks for the class
 */
function relativeMap(features, row, height, width) {
  const cells = height * width;
  const cam = new Float64Array(cells);
  row.forEach((weight, channel) => {
    for (let cell = 0; cell < cells; cell++) cam[cell] += weight * features[channel * cells + cell];
  });
  const peak = cam.reduce((a, b) => Math.max(a, b), 0);
  if (peak <= 0) return null;
  return Array.from({ length: height }, (_, y) =>
    Array.from({ length: width }, (_, x) => Math.max(cam[y * width + x], 0) / peak),
  );
}

/**
 * The maps of every class that can be explained: the labels, and PNEUMONIA for its kinds together against NORMAL.
 * @param {Float32Array} features channels x height x width
 * @param {ArrayLike<number>} logits
 * @param {Head} head
 * @param {number} height
 * @param {number} width
 * @returns {Record<string, number[][] | null>}
 */
export function gradCam(features, logits, { labels, weights }, height, width) {
  const channels = weights.length / labels.length;
  const rows = labels.map((_, i) => Array.from(weights.subarray(i * channels, (i + 1) * channels)));
  const normal = labels.indexOf("NORMAL");
  const kinds = labels.map((_, i) => i).filter((i) => i !== normal);
  const shares = softmax(
    kinds.map((i) => logits[i]),
    1,
  );
  const pneumonia = rows[normal].map((weight, d) => kinds.reduce((sum, i, k) => sum + shares[k] * rows[i][d], -weight));
  /** @type {Record<string, number[]>} */
  const named = Object.fromEntries(labels.map((label, i) => [label, rows[i]]));
  named.PNEUMONIA = pneumonia; // in a model of two labels as well: the log-odds are the better-posed question
  return Object.fromEntries(
    Object.entries(named).map(([label, row]) => [label, relativeMap(features, row, height, width)]),
  );
}
