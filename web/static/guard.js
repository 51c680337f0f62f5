// @ts-check
/** Is this a frontal chest radiograph, upright and whole? `pneumocam.guard` in JavaScript; the network comes as ONNX. */

import { Refusal } from "./refusal.js";
import { shrunk } from "./resample.js";

const SIDE = 64; // px, of the thumbnail
const DETAIL_SIDE = 192; // px, of the larger thumbnail that sharpness and noise are measured on
const EDGES = ["top_edge", "bottom_edge", "left_edge", "right_edge"];
const HEADS = { inverted: 4, chest: 5, lateral: 6, cut_off: 7, poor_quality: 8 }; // after four of the rotation

/** @type {Record<string, string>} */
const WARNINGS = {
  lateral_view:
    "This looks like a view from the side. The model knows frontal views only: send the frontal one.",
  cut_off: "Part of the lungs is outside of the image. Send the whole radiograph.",
  poor_quality: "The image is too blurred, noisy or badly exposed to rely on. Send the original file.",
  unlike_training:
    "This radiograph is unlike those that the model was trained on, so its figures may not hold.",
};
const REFUSAL =
  "This does not look like a frontal chest radiograph. Send one whole, frontal radiograph of a chest, with nothing " +
  "else in the picture.";

/**
 * @typedef {import("./decode.js").Radiograph} Radiograph
 *
 * @typedef {object} Guard of the bundle
 * @property {Record<string, any>} thresholds see `pneumocam.bundle.GuardThresholds`
 * @property {Float32Array} centre mean of the features over training radiographs
 * @property {Float32Array} whitening features x features
 *
 * @typedef {object} Output of the network for one image
 * @property {ArrayLike<number>} lungs logits of cells x cells
 * @property {ArrayLike<number>} heads
 * @property {ArrayLike<number>} features
 *
 * @typedef {(images: Float32Array[]) => Promise<Output[]>} Look runs the network on normalised thumbnails
 *
 * @typedef {object} Inspection
 * @property {Radiograph} radiograph turned upright and to bright bones; its steps name each correction
 * @property {Refusal | null} refusal
 * @property {{code: string, message: string}[]} warnings
 * @property {Float32Array} lungs cells x cells, the probability that a cell of the corrected image lies in a lung field
 * @property {Record<string, number>} measures what was compared with the thresholds, by name
 */

/**
 * Correct an image and say what speaks against a prediction for it.
 * @param {Radiograph} radiograph
 * @param {Guard} guard
 * @param {Look} look
 * @returns {Promise<Inspection>}
 */
export async function inspect(radiograph, guard, look) {
  const { thresholds } = guard;
  const { pixels, width, height } = radiograph;
  const image = shrunk(pixels, width, height, SIDE);
  let [output] = await look([normalised(image)]);
  let pose = { turns: 0, inverted: false };
  if (!plainlyUpright(output.heads, thresholds)) {
    pose = await findPose(image, thresholds.pose, look);
    if (pose.turns || pose.inverted) [output] = await look([normalised(corrected(image, SIDE, SIDE, pose))]);
  }
  const larger = shrunk(pixels, width, height, DETAIL_SIDE, 1.5);
  const measures = { ...measured(output, guard), detail: detail(larger, DETAIL_SIDE) };
  const refusal = refused(measures, thresholds);
  const lungs = Float32Array.from(output.lungs, (logit) => 1 / (1 + Math.exp(-logit)));
  if (refusal) return { radiograph, refusal, warnings: [], lungs, measures };
  const warnings = doubts(measures, thresholds);
  return { radiograph: correctRadiograph(radiograph, pose), refusal, warnings, lungs, measures };
}

/**
 * @param {Output} output
 * @param {Guard} guard
 * @returns {Record<string, number>}
 */
function measured({ lungs, heads, features }, { centre, whitening }) {
  const inside = Array.from(lungs, (logit) => Number(logit > 0));
  const mean = (/** @type {number[]} */ cells) => cells.reduce((a, b) => a + b, 0) / cells.length;
  const side = Math.sqrt(inside.length);
  const edges = [
    inside.slice(0, side),
    inside.slice(-side),
    inside.filter((_, i) => i % side === 0),
    inside.filter((_, i) => i % side === side - 1),
  ];
  const offset = Array.from(centre, (middle, i) => features[i] - middle);
  const white = offset.map((_, j) => offset.reduce((sum, x, i) => sum + x * whitening[i * offset.length + j], 0));
  const named = Object.fromEntries(Object.entries(HEADS).map(([name, i]) => [name, heads[i]]));
  const shares = Object.fromEntries(EDGES.map((name, i) => [name, mean(edges[i])]));
  return { ...named, ...shares, lung_area: mean(inside), distance: Math.hypot(...white) };
}

/**
 * @param {Record<string, number>} measures
 * @param {Record<string, any>} thresholds
 */
function refused({ chest, lung_area: area, distance }, thresholds) {
  const [least, most] = thresholds.lung_area;
  if (chest >= thresholds.chest && least <= area && area <= most && distance <= thresholds.far) return null;
  const border = chest >= thresholds.forced && distance <= 2 * thresholds.far;
  return new Refusal("not_a_chest_radiograph", REFUSAL, border);
}

/**
 * @param {Record<string, number>} measures
 * @param {Record<string, any>} thresholds
 */
function doubts(measures, thresholds) {
  const [least, most] = thresholds.detail;
  const found = {
    lateral_view: measures.lateral > thresholds.lateral,
    cut_off:
      measures.cut_off > thresholds.cut_off || EDGES.some((name, i) => measures[name] > thresholds.edges[i]),
    poor_quality:
      measures.poor_quality > thresholds.poor_quality || measures.detail < least || measures.detail > most,
    unlike_training: measures.distance > thresholds.distance,
  };
  return Object.entries(found).flatMap(([code, doubtful]) => (doubtful ? [{ code, message: WARNINGS[code] }] : []));
}

/**
 * How strong the finest detail of a thumbnail is: low in a blurred image, high in a noisy one.
 * @param {Uint8Array} small
 * @param {number} side
 */
function detail(small, side) {
  const mean = small.reduce((sum, x) => sum + x, 0) / small.length;
  const deviation = Math.sqrt(small.reduce((sum, x) => sum + (x - mean) ** 2, 0) / small.length);
  const laplacian = new Uint16Array((side - 2) ** 2);
  for (let y = 1; y < side - 1; y++)
    for (let x = 1; x < side - 1; x++) {
      const i = y * side + x;
      const around = small[i - side] + small[i + side] + small[i - 1] + small[i + 1];
      laplacian[(y - 1) * (side - 2) + x - 1] = Math.abs(4 * small[i] - around);
    }
  laplacian.sort();
  return laplacian[Math.trunc(0.95 * laplacian.length)] / (deviation + 1);
}

/** @param {ArrayLike<number>} heads @param {Record<string, any>} thresholds */
function plainlyUpright(heads, thresholds) {
  const sure = Math.min(heads[0] - Math.max(heads[1], heads[2], heads[3]), -heads[HEADS.inverted]);
  return sure > thresholds.pose && heads[HEADS.chest] > thresholds.chest;
}

/**
 * Quarter turns (counter-clockwise) and inversion, from all eight views of the image: each is a vote.
 * @param {Uint8Array} image
 * @param {number} margin by how much another pose has to be likelier
 * @param {Look} look
 */
async function findPose(image, margin, look) {
  const poses = [false, true].flatMap((inverted) => [0, 1, 2, 3].map((turns) => ({ turns, inverted })));
  const views = await look(poses.map((pose) => normalised(corrected(image, SIDE, SIDE, pose))));
  const votes = new Float64Array(8);
  views.forEach(({ heads }, i) => {
    const { turns: undone, inverted } = poses[i];
    const highest = Math.max(heads[0], heads[1], heads[2], heads[3]);
    const sum = [0, 1, 2, 3].reduce((total, k) => total + Math.exp(heads[k] - highest), 0);
    for (let flip = 0; flip < 2; flip++) {
      const seen = inverted ? 1 - flip : flip; // what this view shows if the image itself is inverted by `flip`
      const inversion = -Math.log1p(Math.exp(seen ? -heads[HEADS.inverted] : heads[HEADS.inverted]));
      for (let turns = 0; turns < 4; turns++) {
        const rotation = heads[(turns - undone + 4) % 4] - highest - Math.log(sum);
        votes[4 * flip + turns] += (inversion + rotation) / 8;
      }
    }
  });
  const best = votes.indexOf(Math.max(...votes));
  if (votes[best] - votes[0] <= margin) return { turns: 0, inverted: false };
  return { turns: best % 4, inverted: best >= 4 };
}

/**
 * Grey values with the 2nd percentile at -1 and the 98th at 1.
 * @param {Uint8Array} thumbnail
 */
function normalised(thumbnail) {
  const ranks = thumbnail.slice().sort();
  const low = ranks[Math.trunc(0.02 * ranks.length)];
  const high = ranks[Math.trunc(0.98 * ranks.length)];
  return Float32Array.from(thumbnail, (x) => Math.min(Math.max((x - low) / (high - low + 4), -0.5), 1.5) * 2 - 1);
}

/**
 * Turned clockwise by quarter turns, and inverted.
 * @param {Uint8Array} pixels
 * @param {number} width
 * @param {number} height
 * @param {{turns: number, inverted: boolean}} pose
 */
function corrected(pixels, width, height, { turns, inverted }) {
  let [from, columns, rows] = [pixels, width, height];
  for (let turn = 0; turn < turns; turn++) {
    const to = new Uint8Array(from.length);
    for (let y = 0; y < rows; y++)
      for (let x = 0; x < columns; x++) to[x * rows + rows - 1 - y] = from[y * columns + x];
    [from, columns, rows] = [to, rows, columns];
  }
  return inverted ? from.map((level) => 255 - level) : from;
}

/**
 * @param {Radiograph} radiograph
 * @param {{turns: number, inverted: boolean}} pose
 * @returns {Radiograph}
 */
function correctRadiograph(radiograph, pose) {
  const { pixels, width, height, steps } = radiograph;
  if (!pose.turns && !pose.inverted) return radiograph;
  const done = [...steps];
  if (pose.inverted) done.push("inverted, because its bones were dark");
  if (pose.turns) done.push(`rotated by ${90 * pose.turns} degrees clockwise, because it was not upright`);
  const [newWidth, newHeight] = pose.turns % 2 ? [height, width] : [width, height];
  return {
    ...radiograph,
    pixels: corrected(pixels, width, height, pose),
    width: newWidth,
    height: newHeight,
    steps: done,
  };
}
