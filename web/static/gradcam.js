// @ts-check
/**
 * Grad-CAM (Selvaraju et al. 2017) without gradients: for a head of global average pooling and one linear layer, the
 * gradient of a logit is that layer's row of weights over the number of cells. As `pneumocam.gradcam`.
 */

import { softmax } from "./predict.js";

const SPLITS = 8; // of the channels into halves

/**
 * @typedef {object} Head of the network
 * @property {string[]} labels
 * @property {Float32Array} weights labels x channels
 *
 * @typedef {object} Cam the map of one class
 * @property {number[][]} cells height x width in [0, 1], on the scale of all classes
 * @property {number | null} steadiness
 */

/**
 * The gradient of each class that can be explained with respect to the pooled features: the labels, and PNEUMONIA for
 * its kinds together against NORMAL.
 * @param {ArrayLike<number>} logits
 * @param {Head} head
 * @returns {Record<string, number[]>}
 */
function gradients(logits, { labels, weights }) {
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
  return named;
}

/**
 * The map of one class from the channels that a mask has, before its ReLU.
 * @param {Float32Array} features channels x height x width
 * @param {number[]} gradient (channels,)
 * @param {number} cells height x width
 * @param {(channel: number) => boolean} chosen
 */
function camOf(features, gradient, cells, chosen = () => true) {
  const cam = new Float64Array(cells);
  gradient.forEach((weight, channel) => {
    if (!chosen(channel)) return;
    for (let cell = 0; cell < cells; cell++) cam[cell] += weight * features[channel * cells + cell];
  });
  return cam;
}

/**
 * How far a map depends on which channels of the network it is made of, as `pneumocam.regions.agreement`.
 * @param {Float32Array} features
 * @param {number[]} gradient
 * @param {Float64Array} whole the map of all channels, before its ReLU
 */
function agreement(features, gradient, whole) {
  const bits = Math.min(SPLITS, Math.ceil(Math.log2(gradient.length)));
  let sum = 0;
  for (let bit = 0; bit < bits; bit++) {
    const one = camOf(features, gradient, whole.length, (channel) => Boolean((channel >> bit) & 1));
    const other = whole.map((value, cell) => value - one[cell]);
    sum += correlation(rectified(one), rectified(other));
  }
  return bits ? sum / bits : null;
}

/** @param {Float64Array} cam */
const rectified = (cam) => cam.map((value) => Math.max(value, 0));

/** Pearson's; 0 if one of them is constant. @param {Float64Array} one @param {Float64Array} other */
function correlation(one, other) {
  const [a, b] = [one, other].map((values) => {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    return values.map((value) => value - mean);
  });
  const product = (/** @type {Float64Array} */ x, /** @type {Float64Array} */ y) =>
    x.reduce((sum, value, i) => sum + value * y[i], 0);
  const size = Math.sqrt(product(a, a) * product(b, b));
  return size > 0 ? product(a, b) / size : 0;
}

/**
 * The maps of every class that can be explained.
 * @param {Float32Array} features channels x height x width
 * @param {ArrayLike<number>} logits
 * @param {Head} head
 * @param {number} height
 * @param {number} width
 * @returns {Record<string, Cam>}
 */
export function gradCam(features, logits, head, height, width) {
  const named = Object.entries(gradients(logits, head));
  const wholes = named.map(([, gradient]) => camOf(features, gradient, height * width));
  const peaks = wholes.map((cam) => cam.reduce((a, b) => Math.max(a, b), 0));
  const strongest = Math.max(...peaks.slice(0, head.labels.length));
  return Object.fromEntries(
    named.map(([label, gradient], i) => {
      const scale = Math.max(strongest, peaks[i]) || 1;
      const cam = Array.from(rectified(wholes[i]), (value) => value / scale);
      const cells = Array.from({ length: height }, (_, y) => cam.slice(y * width, (y + 1) * width));
      return [label, { cells, steadiness: agreement(features, gradient, wholes[i]) }];
    }),
  );
}
