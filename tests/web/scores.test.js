// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import { cells, csv, inert } from "../../web/scores.js";

const PREDICTION = {
  status: "ok",
  label: "VIRAL",
  probabilities: { NORMAL: 0.125, BACTERIAL: 0.25, VIRAL: 0.625 },
  p_pneumonia: 0.875,
  reason: null,
  operating_point: { name: "balanced", threshold: 0.5 },
  prevalence: 0.5,
  model: { id: "m", revision: "r" },
};
const ROW = { name: 'a, "b".png', point: "balanced", points: { balanced: PREDICTION } };
const INFO = { labels: ["NORMAL", "BACTERIAL", "VIRAL"], points: { balanced: { threshold: 0.5, band: [0.4, 0.6] } } };
const DEFAULT = { point: null, prevalence: null };

test("the table has the columns of `pneumocam score`, quoted where needed", () => {
  const reason = { code: "blank", message: "It is blank." };
  const rejected = { ...PREDICTION, status: "rejected", label: null, probabilities: {}, p_pneumonia: null, reason };
  const rows = [ROW, { ...ROW, name: "b.png", points: { balanced: rejected } }];
  assert.equal(
    csv(rows, INFO, DEFAULT),
    "path,status,label,p_normal,p_bacterial,p_viral,p_pneumonia,code,reason,steps\n" +
      '"a, ""b"".png",ok,VIRAL,0.125000,0.250000,0.625000,0.875000,,,\n' +
      "b.png,rejected,,,,,,blank,It is blank.,\n",
  );
});

test("the server's own cells are taken as they are, and its columns", () => {
  const table = { balanced: { path: "x", status: "ok", steps: "inverted", p_pneumonia: 0.875 } };
  const info = { ...INFO, columns: ["path", "steps", "p_pneumonia"] };
  assert.equal(csv([{ ...ROW, table }], info, DEFAULT), "path,steps,p_pneumonia\nx,inverted,0.875\n");
});

test("another prevalence changes what depends on it", () => {
  const table = { balanced: { path: "x", steps: "inverted", prevalence: 0.5, p_pneumonia: "0.875000" } };
  const changed = cells({ ...ROW, table }, INFO, { point: null, prevalence: 0.1 });
  assert.deepEqual(
    [changed.steps, changed.prevalence, changed.p_pneumonia, changed.p_normal, changed.label],
    ["inverted", 0.1, "0.437500", "0.562500", "NORMAL"], // odds 7 / 9
  );
});

test("no name is a formula to a spreadsheet", () => {
  assert.equal(inert("=1+1.png"), "'=1+1.png");
  assert.equal(inert("@a"), "'@a");
  assert.equal(inert("\ta\n-b"), "a -b");
  assert.equal(inert("\n-b"), "'-b");
});
