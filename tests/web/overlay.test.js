// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  blend,
  colourTable,
  draggedWindow,
  heat,
  plain,
  samples,
  WHOLE_WINDOW,
  windowTable,
} from "../../web/overlay.js";

const MAP = [
  [0, 1 / 8, 4 / 8],
  [2 / 8, 1, 1 / 8],
];

test("a map is enlarged as `Saliency.heatmap` does it, and blind where the network saw nothing", () => {
  // pneumocam.saliency.Saliency(cam, "X", box=(-1, 1, 7, 5), size=(6, 6)).heatmap(), with rows of a 6 x 6 image
  const expected = [
    [0, 0, 0, 0, 0, 0],
    [0.0078, 0.0547, 0.1016, 0.1953, 0.3359, 0.4766],
    [0.0801, 0.1855, 0.291, 0.3555, 0.3789, 0.4023],
    [0.2246, 0.4473, 0.6699, 0.6758, 0.4648, 0.2539],
    [0.2969, 0.5781, 0.8594, 0.8359, 0.5078, 0.1797],
    [0, 0, 0, 0, 0, 0],
  ].flat();
  const found = heat(MAP, [-1, 1, 7, 5], [6, 6], 6, 6);
  found.forEach((value, i) => assert.ok(Math.abs(value - expected[i]) < 1e-4, `${i}: ${value}, not ${expected[i]}`));
});

test("an empty map is zero everywhere", () => {
  assert.deepEqual([...heat(null, [0, 0, 2, 2], [2, 2], 2, 2)], [0, 0, 0, 0]);
});

test("a pixel lies between two cells, and at the edges on one", () => {
  const [first, , , last] = samples(4, 4, 0, 4, 2);
  assert.deepEqual(first, { seen: true, first: 0, second: 1, weight: 0 });
  assert.deepEqual(last, { seen: true, first: 1, second: 1, weight: 0 });
  assert.deepEqual(
    samples(4, 4, 1, 3, 2).map(({ seen }) => seen),
    [false, true, true, false],
  );
});

test("the whole window changes nothing, and inverting turns it round", () => {
  const levels = Array.from({ length: 256 }, (_, i) => i);
  assert.deepEqual([...windowTable(WHOLE_WINDOW)], levels);
  assert.deepEqual([...windowTable({ ...WHOLE_WINDOW, inverted: true })], levels.toReversed());
});

test("a narrow window is black below and white above", () => {
  const table = windowTable({ centre: 100, width: 50, inverted: false });
  assert.deepEqual([table[74], table[75], table[100], table[125], table[126]], [0, 0, 128, 255, 255]);
});

test("dragging to the right widens the window, dragging down darkens the image", () => {
  assert.deepEqual(draggedWindow(WHOLE_WINDOW, 20, 10), { centre: 132.5, width: 275, inverted: false });
  assert.deepEqual(draggedWindow(WHOLE_WINDOW, -9999, -9999), { centre: 0, width: 2, inverted: false });
});

test("colour is as opaque as the map is strong", () => {
  const colours = Uint8Array.from({ length: 768 }, (_, i) => (i % 3 ? 0 : Math.floor(i / 3))); // red, as bright as warm
  const target = new Uint8ClampedArray(12);
  blend(
    new Uint8Array([100, 100, 100]),
    windowTable(WHOLE_WINDOW),
    new Float32Array([0, 0.5, 1]),
    colours,
    0.6,
    target,
  );
  assert.deepEqual([...target], [100, 100, 100, 255, 108, 70, 70, 255, 193, 40, 40, 255]);
});

test("without a map a pixel is grey", () => {
  const target = new Uint8ClampedArray(4);
  plain(new Uint8Array([30]), windowTable({ ...WHOLE_WINDOW, inverted: true }), target);
  assert.deepEqual([...target], [225, 225, 225, 255]);
});

test("a colour table is read from base64", () => {
  assert.deepEqual([...colourTable("AAH/")], [0, 1, 255]);
});
