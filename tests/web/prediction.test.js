// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import { at, pneumonia, probabilityOf, shift, verdict } from "../../web/prediction.js";

const POINTS = {
  balanced: { threshold: 0.5, band: [0.1, 0.9], measured: null },
  screening: { threshold: 0.15, band: [0.05, 0.4], measured: null },
};

const prediction = (point, probabilities, status, label) => ({
  status,
  label,
  probabilities,
  p_pneumonia: pneumonia(probabilities),
  reason: null,
  operating_point: { name: point, threshold: POINTS[point].threshold },
  prevalence: 0.5,
  model: { id: "m", revision: "r" },
});

const PROBABILITIES = { NORMAL: 0.2, BACTERIAL: 0.5, VIRAL: 0.3 };
const ROW = {
  name: "a.png",
  point: "balanced",
  points: {
    balanced: prediction("balanced", PROBABILITIES, "uncertain", "BACTERIAL"),
    screening: prediction("screening", PROBABILITIES, "ok", "BACTERIAL"),
  },
};
const INFO = { labels: Object.keys(PROBABILITIES), points: POINTS, prevalence: 0.5 };
const close = (found, expected) => assert.ok(Math.abs(found - expected) < 1e-12, `${found} is not ${expected}`);

test("another prevalence changes the odds of pneumonia and keeps the ratio of its kinds", () => {
  const shifted = shift(PROBABILITIES, 0.5, 0.1);
  close(shifted.NORMAL, 9 / 13); // 0.2 : 0.8 / 9
  close(shifted.BACTERIAL, 5 / 26);
  close(shifted.VIRAL, 3 / 26);
  const back = shift(shifted, 0.1, 0.5);
  for (const [name, p] of Object.entries(PROBABILITIES)) close(back[name], p);
});

test("certain predictions stay certain, and a sum stays 1", () => {
  assert.deepEqual(shift({ NORMAL: 0, BACTERIAL: 1 }, 0.3, 0.01), { NORMAL: 0, BACTERIAL: 1 });
  assert.equal(pneumonia({ NORMAL: 0, BACTERIAL: 0.7, VIRAL: 0.30000000000000004 }), 1);
});

test("an operating point that exists is used, another one is not", () => {
  assert.equal(at(ROW, INFO, { point: "screening", prevalence: null }), ROW.points.screening);
  assert.equal(at(ROW, INFO, { point: "unknown", prevalence: null }), ROW.points.balanced);
  assert.equal(at(ROW, INFO, { point: null, prevalence: 0.5 }), ROW.points.balanced);
});

test("threshold and uncertainty are those of the shifted probability", () => {
  const rare = at(ROW, INFO, { point: null, prevalence: 0.01 });
  close(rare.p_pneumonia, 4 / 103);
  assert.deepEqual([rare.status, rare.label, rare.reason, rare.prevalence], ["ok", "NORMAL", null, 0.01]);
  const some = at(ROW, INFO, { point: "screening", prevalence: 0.1 });
  assert.deepEqual([some.status, some.label, some.reason?.code], ["uncertain", "BACTERIAL", "near_threshold"]);
  assert.equal(some.reason?.message, "Uncertain, leaning pneumonia (31%).");
  const points = { ...POINTS, screening: { ...POINTS.screening, uncertain_error: 0.19 } };
  const tested = at(ROW, { ...INFO, points }, { point: "screening", prevalence: 0.1 });
  assert.match(tested.reason?.message ?? "", /In testing, 19% of such predictions were wrong\.$/);
  const often = at(ROW, INFO, { point: null, prevalence: 0.9 });
  assert.deepEqual([often.status, often.label], ["ok", "BACTERIAL"]);
});

test("a doubt about the image itself stays", () => {
  const reason = { code: "lateral_view", message: "From the side." };
  const row = { ...ROW, points: { balanced: { ...ROW.points.balanced, reason, warnings: [reason] } } };
  const rare = at(row, INFO, { point: null, prevalence: 0.01 });
  assert.deepEqual([rare.status, rare.label, rare.reason], ["uncertain", "NORMAL", reason]);
  const near = { ...ROW.points.balanced, reason: { code: "near_threshold", message: "" }, warnings: [reason] };
  assert.equal(at({ ...ROW, points: { balanced: near } }, INFO, { point: null, prevalence: 0.01 }).reason, reason);
});

test("a refused image has no other prevalence", () => {
  const rejected = { ...ROW.points.balanced, status: "rejected", label: null, probabilities: {}, p_pneumonia: null };
  const row = { ...ROW, points: { balanced: rejected } };
  assert.equal(at(row, INFO, { point: null, prevalence: 0.1 }), rejected);
});

test("a model that states no prevalence is shown as it is", () => {
  const unstated = { ...ROW.points.balanced, prevalence: undefined };
  const row = { ...ROW, points: { balanced: unstated } };
  assert.equal(at(row, { ...INFO, prevalence: null }, { point: null, prevalence: 0.1 }), unstated);
});

test("what is told apart at a glance", () => {
  assert.equal(verdict({ status: "ok", label: "NORMAL" }), "normal");
  assert.equal(verdict({ status: "ok", label: "VIRAL" }), "pneumonia");
  assert.equal(verdict({ status: "uncertain", label: "VIRAL" }), "uncertain");
  assert.equal(verdict({ status: "rejected", label: null }), "rejected");
});

test("the probability of a class, and of all kinds together", () => {
  assert.equal(probabilityOf(ROW.points.balanced, "VIRAL"), 0.3);
  close(probabilityOf(ROW.points.balanced, "PNEUMONIA"), 0.8);
});
