// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  clamped,
  fitScale,
  isMirrored,
  MOST_ZOOM,
  panned,
  transform,
  turned,
  wholeView,
  zoomed,
} from "../../web/view.js";

const PANE = [400, 300];
const IMAGE = [1000, 500];

/** Where a pixel of the image is, from the middle of the pane. */
function onScreen(view, [x, y]) {
  const [a, b, c, d, e, f] = transform(view, PANE, IMAGE, [0, 0], 1);
  return [a * x + c * y + e, b * x + d * y + f];
}

const near = (found, expected) =>
  found.forEach((x, i) => assert.ok(Math.abs(x - expected[i]) < 1e-9, `${found} is not ${expected}`));

test("the whole image fits and is in the middle", () => {
  const view = wholeView();
  near([fitScale(view, PANE, IMAGE)], [0.4]);
  near(onScreen(view, [0, 0]), [-200, -100]);
  near(onScreen(view, [1000, 500]), [200, 100]);
});

test("zooming keeps what is under the pointer", () => {
  const place = [50, -20];
  const pixel = [500 + 50 / 0.4, 250 - 20 / 0.4];
  near(onScreen(zoomed(wholeView(), 4, place, PANE, IMAGE), pixel), place);
});

test("zooming has bounds: actual size or the whole image, and a maximum", () => {
  assert.equal(zoomed(wholeView(), 100, [0, 0], PANE, IMAGE).zoom, MOST_ZOOM);
  assert.equal(zoomed(wholeView(), 0.01, [0, 0], PANE, IMAGE).zoom, 1);
  near([zoomed(wholeView(), 0.01, [0, 0], PANE, [100, 50]).zoom], [0.25]); // smaller than the pane
});

test("the image follows the pointer and does not leave the pane", () => {
  const close = zoomed(wholeView(), 4, [0, 0], PANE, IMAGE);
  near(onScreen(panned(close, [30, 40], PANE, IMAGE), [500, 250]), [30, 40]);
  near(onScreen(panned(close, [9999, 0], PANE, IMAGE), [0, 250]), [-200, 0]);
  assert.deepEqual(panned(wholeView(), [30, 40], PANE, IMAGE).centre, [0.5, 0.5]);
});

test("turns and flips are of what is on screen", () => {
  const right = turned(wholeView(), "right");
  near([fitScale(right, PANE, IMAGE)], [0.3]);
  near(onScreen(right, [0, 0]), [75, -150]); // upper left goes to the upper right
  near(onScreen(turned(right, "left"), [0, 0]), [-200, -100]);
  near(onScreen(turned(wholeView(), "horizontal"), [0, 0]), [200, -100]);
  near(onScreen(turned(wholeView(), "vertical"), [0, 0]), [-200, 100]);
  assert.equal(isMirrored(wholeView()), false);
  assert.equal(isMirrored(right), false);
  assert.equal(isMirrored(turned(right, "horizontal")), true);
});

test("a turned image follows the pointer too", () => {
  const close = clamped(zoomed(turned(wholeView(), "right"), 4, [0, 0], PANE, IMAGE), PANE, IMAGE);
  near(onScreen(panned(close, [30, 40], PANE, IMAGE), [500, 250]), [30, 40]);
});
