// @ts-check
/** The modules of the page without a server against values of Pillow, timm, Captum and the Python package. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { inflateSync } from "node:zlib";

import { gradCam } from "../../web/static/gradcam.js";
import { checkContrast, toGrey } from "../../web/static/grey.js";
import { withoutBorder } from "../../web/static/border.js";
import { inspect } from "../../web/static/guard.js";
import { readHeader } from "../../web/static/header.js";
import { toGreyLevels } from "../../web/static/levels.js";
import { outline } from "../../web/static/outline.js";
import { readPng16 } from "../../web/static/png16.js";
import { calibrated, decide } from "../../web/static/predict.js";
import { inputBox, networkInput } from "../../web/static/preprocess.js";
import { described } from "../../web/static/regions.js";
import { resize, shrunk } from "../../web/static/resample.js";

const values = JSON.parse(readFileSync(new URL("values.json", import.meta.url), "utf8"));

/** @param {string} base64 */
const bytes = (base64) => new Uint8Array(inflateSync(Buffer.from(base64, "base64")));

/** @param {string} base64 */
const floats = (base64) => new Float32Array(bytes(base64).buffer);

/** @param {number} found @param {number} expected @param {number} tolerance */
function near(found, expected, tolerance) {
  assert.ok(Math.abs(found - expected) <= tolerance, `${found} is not within ${tolerance} of ${expected}`);
}

for (const { sizes, pixels, expected } of values.resize)
  test(`a resize of ${sizes} equals Pillow's`, () => {
    const [width, height, toWidth, toHeight] = sizes;
    assert.deepEqual(resize(bytes(pixels), width, height, toWidth, toHeight), bytes(expected));
  });

test("a resize to the same size is a copy", () => {
  const pixels = bytes(values.resize[0].pixels);
  const copy = resize(pixels, 97, 61, 97, 61);
  assert.deepEqual(copy, pixels);
  assert.notEqual(copy.buffer, pixels.buffer);
});

for (const { size, pixels, expected } of values.shrunk)
  test(`the guard's thumbnail of ${size} equals Pillow's`, () => {
    assert.deepEqual(shrunk(bytes(pixels), size[0], size[1], 64), bytes(expected));
  });

/**
 * The network of `tests.web.values.Eye`.
 * @param {Int8Array} weights
 * @param {Float32Array} thumbnail
 */
function eye(weights, thumbnail) {
  const blocks = new Float64Array(64);
  thumbnail.forEach((x, i) => (blocks[(i >> 9) * 8 + ((i & 63) >> 3)] += x / 64));
  const squares = blocks.map((x) => (x + 0.5) ** 2);
  const outputs = Array.from({ length: 31 }, (_, k) => squares.reduce((sum, x, i) => sum + x * weights[i * 31 + k], 0));
  return { lungs: outputs.slice(0, 16), heads: outputs.slice(16, 25), features: outputs.slice(25) };
}

for (const [i, { weights, thresholds, centre, whitening, ...expected }] of values.guard.cases.entries())
  test(`guard ${i} corrects, refuses and doubts as the Python package's`, async () => {
    const { width, height } = values.guard;
    const radiograph = { pixels: bytes(values.guard.pixels), width, height, format: "PNG", steps: [] };
    const guard = { thresholds, centre: floats(centre), whitening: floats(whitening) };
    const network = new Int8Array(bytes(weights).buffer);
    const found = await inspect(radiograph, guard, async (images) => images.map((image) => eye(network, image)));
    const { refusal, warnings, measures } = found;
    assert.deepEqual(refusal && [refusal.code, refusal.message, refusal.border], expected.refusal);
    assert.deepEqual(warnings, expected.warnings);
    assert.deepEqual([found.radiograph.width, found.radiograph.height], expected.size);
    assert.deepEqual(found.radiograph.steps, expected.steps);
    assert.deepEqual(found.radiograph.pixels, bytes(expected.pixels ?? values.guard.pixels));
    assert.deepEqual(Object.keys(measures).sort(), Object.keys(expected.measures).sort());
    for (const [name, value] of Object.entries(expected.measures)) near(measures[name], Number(value), 1e-3);
  });

test("colour becomes grey as in Pillow", () => {
  const rgb = bytes(values.grey.rgb);
  const rgba = new Uint8ClampedArray((rgb.length / 3) * 4).map((_, i) => (i % 4 === 3 ? 255 : rgb[(i >> 2) * 3 + (i % 4)]));
  const grey = new Uint8Array(rgb.length / 3);
  toGrey(rgba, grey, 0);
  assert.deepEqual(grey, bytes(values.grey.expected));
});

test("an image of nearly one grey level is blank", () => {
  const pixels = new Uint8Array(10_000).fill(7);
  pixels.fill(255, 0, 50);
  assert.throws(() => checkContrast(pixels), { code: "blank", message: /grey level 7 of 255/ });
  checkContrast(pixels.map((level, i) => (i % 2 ? level : 11)));
});

for (const [i, { data, header, code }] of values.files.entries())
  test(`file ${i} is ${code ?? `a ${header.format} of ${header.channels} channels`}`, () => {
    if (code) assert.throws(() => readHeader(bytes(data)), { code });
    else assert.deepEqual(readHeader(bytes(data)), header);
  });

for (const { kind, png, expected, steps } of values.deep)
  test(`a PNG of 16 bits (${kind}) becomes what the Python package reads in it`, async () => {
    const deep = await readPng16(bytes(png));
    const found = toGreyLevels(deep);
    assert.deepEqual(found.steps, steps);
    assert.deepEqual(found.pixels, bytes(expected));
  });

test("a PNG of 16 bits that is cut off is an error", async () => {
  const png = bytes(values.deep[0].png);
  await assert.rejects(readPng16(png.slice(0, -400)));
});

for (const [i, value] of values.prediction.entries()) {
  const { preprocessing, pixels, labels } = value;
  const [depth, height, width] = value.features.shape;

  test(`network input ${i} equals timm's`, () => {
    const input = networkInput(bytes(pixels.data), pixels.width, pixels.height, preprocessing);
    const expected = floats(value.input);
    assert.equal(input.length, expected.length);
    input.forEach((found, at) => near(found, expected[at], 1e-6));
    inputBox(preprocessing, pixels.width, pixels.height).forEach((side, at) => near(side, value.box[at], 1e-9));
  });

  test(`prediction ${i} equals the Python package's at every operating point`, () => {
    const probabilities = calibrated(value.logits, labels, value.temperature, value.shift);
    for (const [name, point] of Object.entries(value.points)) {
      const expected = value.expected[name];
      const found = decide(labels, probabilities, /** @type {any} */ (point));
      assert.deepEqual([found.status, found.label, found.reason], [expected.status, expected.label, expected.reason]);
      near(found.p_pneumonia, expected.p_pneumonia, 1e-7);
      labels.forEach((/** @type {string} */ label, /** @type {number} */ k) =>
        near(probabilities[k], expected.probabilities[label], 1e-7),
      );
    }
  });

  test(`maps ${i} equal Captum's, and what is said of them the Python package's`, () => {
    const features = floats(value.features.data);
    assert.equal(features.length, depth * height * width);
    const maps = gradCam(features, value.logits, { labels, weights: floats(value.weights) }, height, width);
    assert.deepEqual(Object.keys(maps), Object.keys(value.maps));
    const size = /** @type {[number, number]} */ ([pixels.width, pixels.height]);
    for (const [label, { cells, steadiness }] of Object.entries(maps)) {
      cells.forEach((row, y) => row.forEach((cell, x) => near(cell, value.maps[label][y][x], 1e-5)));
      const found = described(label, { cells, steadiness, size, box: value.box }, floats(value.lungs));
      alike(found, value.facts[label], preprocessing.crop_pct < 1 ? 0.01 : 6e-5); // the package rounds a narrow box
    }
  });

  test(`outlines ${i} have the corners of those of contourpy`, () => {
    const found = outline(floats(value.lungs), [pixels.width, pixels.height]);
    assert.equal(found.length, value.outline.length);
    found.forEach((polygon, k) => {
      assert.deepEqual(polygon[0], polygon.at(-1));
      alike(inOrder(polygon.slice(1)), inOrder(value.outline[k].slice(1)), 0.11); // rounded to a tenth
    });
  });
}

/** Corners from left to right and from the top down. @param {[number, number][]} corners */
const inOrder = (corners) => corners.sort(([a, b], [c, d]) => a - c || b - d);

/**
 * The same, but for numbers that differ by `tolerance` at most.
 * @param {any} found
 * @param {any} expected
 * @param {number} tolerance
 */
function alike(found, expected, tolerance) {
  if (typeof expected === "number") near(found, expected, tolerance);
  else if (expected === null || typeof expected !== "object") assert.equal(found, expected);
  else {
    assert.deepEqual(Object.keys(found), Object.keys(expected));
    for (const key of Object.keys(expected)) alike(found[key], expected[key], tolerance);
  }
}

test("a flat border is cut off and said, with its blurred edge", () => {
  const image = (/** @type {number} */ margin) => {
    const side = 100 + 2 * margin;
    const pixels = new Uint8Array(side * side).fill(7);
    for (let y = 0; y < 100; y++)
      for (let x = 0; x < 100; x++) pixels[(margin + y) * side + margin + x] = (37 * x + 16 * y) % 256;
    return { pixels, width: side, height: side, format: "PNG", steps: ["before"] };
  };
  const found = withoutBorder(image(10));
  assert.deepEqual([found.width, found.height], [100, 100]);
  assert.deepEqual(found.pixels, image(0).pixels);
  assert.deepEqual(found.steps, ["before", "cut off a flat border: 10 px above, 10 below, 10 left, 10 right"]);
  const blurred = image(10);
  for (let x = 10; x < 110; x++) blurred.pixels[10 * 120 + x] = 7 + (blurred.pixels[11 * 120 + x] - 7) / 9;
  assert.equal(withoutBorder(blurred).height, 99);
  const plain = image(0);
  assert.equal(withoutBorder(plain), plain);
});
