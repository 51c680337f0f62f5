// @ts-check
/** The page's row of one image, as `pneumocam.service.page.row` makes it. */

import { inert } from "../scores.js";
import { gradCam } from "./gradcam.js";
import { outline } from "./outline.js";
import { calibrated, decide } from "./predict.js";
import { inputBox, networkInput } from "./preprocess.js";
import { described } from "./regions.js";
import { resize } from "./resample.js";

const PICTURE_SIDE = 1024;
const THUMBNAIL_SIDE = 160;

/**
 * @typedef {import("./decode.js").Radiograph} Radiograph
 *
 * @typedef {object} Model model/model.json, which `pneumocam static` writes
 * @property {{id: string, revision: string}} model
 * @property {number} schema_version
 * @property {string} disclaimer
 * @property {string[]} labels
 * @property {number} temperature
 * @property {number | null} prevalence for which predictions are stated
 * @property {number} shift what that adds to the calibrated log-odds of pneumonia
 * @property {Record<string, import("./predict.js").OperatingPoint>} points
 * @property {string} point
 * @property {import("./preprocess.js").Preprocessing} preprocessing
 * @property {string} weights the head's, labels x channels float32 in base64
 * @property {import("./download.js").Part[]} parts ONNX Runtime, the network and the guard's network, if there is one
 * @property {{thresholds: Record<string, any>, centre: string, whitening: string} | null} guard float32 in base64
 *
 * @typedef {{features: Float32Array, logits: Float32Array, shape: number[]}} Output
 * @typedef {(input: Float32Array) => Promise<Output>} Run
 */

/**
 * @param {Model} model
 * @param {string} name
 * @param {Radiograph} radiograph
 * @param {Run} run
 * @param {{code: string, message: string}[]} warnings of the guard: each makes the prediction uncertain
 * @param {Float32Array | null} lungs what the guard found of them
 */
export async function classified(model, name, radiograph, run, warnings, lungs) {
  const { pixels, width, height, format, steps } = radiograph;
  const { features, logits, shape } = await run(networkInput(pixels, width, height, model.preprocessing));
  const probabilities = calibrated(logits, model.labels, model.temperature, model.shift);
  const named = Object.fromEntries(model.labels.map((label, i) => [label, probabilities[i]]));
  const head = { labels: model.labels, weights: floats(model.weights) };
  /** @type {[number, number]} */
  const size = [width, height];
  const covered = { box: inputBox(model.preprocessing, width, height), size };
  const cams = gradCam(features, logits, head, shape[0], shape[1]);
  /** @type {Record<string, ReturnType<typeof described>>} */
  const facts = Object.fromEntries(
    Object.entries(cams).map(([target, cam]) => [target, described(target, { ...cam, ...covered }, lungs)]),
  );
  const answers = each(model, (point) => {
    const decided = decide(model.labels, probabilities, point);
    const doubt = decided.reason || !warnings.length ? {} : { status: "uncertain", reason: warnings[0] };
    return { ...decided, ...doubt, probabilities: named, warnings, map: rounded(facts[decided.label]) };
  });
  const image = { format, width, height, steps };
  return {
    ...row(model, name, answers, image),
    image,
    picture: await picture(radiograph, PICTURE_SIDE),
    thumbnail: await picture(radiograph, THUMBNAIL_SIDE),
    maps: mapped(facts, ({ target, quality }) => (quality === "empty" ? null : cams[target].cells)),
    map_quality: mapped(facts, ({ quality, inside_lungs, expected_inside_lungs }) => ({
      word: quality,
      inside: inside_lungs,
      expected: expected_inside_lungs,
    })),
    ...(lungs ? { lungs: outline(lungs, size) } : {}),
    ...covered,
  };
}

/**
 * @template T, U
 * @param {Record<string, T>} values
 * @param {(value: T) => U} change
 */
const mapped = (values, change) =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, change(value)]));

/** With four decimals at most. @param {any} value of any nesting @returns {any} */
function rounded(value) {
  if (typeof value === "number") return Math.round(10_000 * value) / 10_000;
  if (Array.isArray(value)) return value.map(rounded);
  return value && typeof value === "object" ? mapped(value, rounded) : value;
}

/**
 * @param {Model} model
 * @param {string} name
 * @param {import("./refusal.js").Refusal} refusal
 */
export function rejected(model, name, { code, message, border }) {
  const nothing = { label: null, probabilities: {}, p_pneumonia: null, warnings: [] };
  const answer = { status: "rejected", ...nothing, reason: { code, message }, map: null };
  const answers = each(model, () => answer);
  return { ...row(model, name, answers), force: border };
}

/**
 * @param {Model} model
 * @param {(point: import("./predict.js").OperatingPoint) => object} answer
 */
const each = (model, answer) =>
  Object.fromEntries(Object.entries(model.points).map(([name, point]) => [name, answer(point)]));

/**
 * @param {Model} model
 * @param {string} name
 * @param {Record<string, any>} answers
 * @param {{steps: string[]} | null} image
 */
function row(model, name, answers, image = null) {
  const { schema_version, prevalence, disclaimer } = model;
  /** @type {Record<string, any>} */
  const points = {};
  /** @type {Record<string, any>} */
  const table = {};
  for (const [point, { status, label, probabilities, p_pneumonia, reason, warnings, map }] of Object.entries(answers)) {
    const said = { schema_version, status, label, probabilities, p_pneumonia, prevalence, reason, warnings, image };
    const operating_point = { name: point, threshold: model.points[point].threshold };
    points[point] = { ...said, map, operating_point, model: model.model, disclaimer };
    table[point] = cells(name, points[point]);
  }
  return { name, point: model.point, points, table };
}

/**
 * The cells of `pneumocam score`, by column.
 * @param {string} name
 * @param {any} prediction
 */
function cells(name, { status, label, probabilities, p_pneumonia, reason, image }) {
  const fixed = (/** @type {number | null} */ p) => p?.toFixed(6) ?? "";
  return {
    path: inert(name),
    status,
    label: label ?? "",
    p_normal: fixed(probabilities.NORMAL),
    p_bacterial: fixed(probabilities.BACTERIAL),
    p_viral: fixed(probabilities.VIRAL),
    p_pneumonia: fixed(p_pneumonia),
    code: reason?.code ?? "",
    reason: reason?.message ?? "",
    steps: image?.steps.join("; ") ?? "",
  };
}

/**
 * The image as a data: URI of a grey JPEG, in its own aspect, no side longer than `side` pixels.
 * @param {Radiograph} radiograph
 * @param {number} side
 */
async function picture({ pixels, width, height }, side) {
  const scale = Math.min(1, side / Math.max(width, height));
  const [toWidth, toHeight] = [width, height].map((x) => Math.max(1, Math.round(x * scale)));
  const small = resize(pixels, width, height, toWidth, toHeight);
  const canvas = new OffscreenCanvas(toWidth, toHeight);
  const data = new ImageData(toWidth, toHeight);
  const colours = new Uint32Array(data.data.buffer);
  for (let i = 0; i < small.length; i++) colours[i] = 0xff000000 | (small[i] * 0x010101);
  canvas.getContext("2d")?.putImageData(data, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.88 });
  return dataUri(blob);
}

/** @param {Blob} blob @returns {Promise<string>} */
function dataUri(blob) {
  const reader = new FileReader();
  return new Promise((resolve, reject) => {
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** @param {string} base64 of float32 */
export const floats = (base64) => new Float32Array(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer);
