// @ts-check
/** The table as CSV, under the columns of `pneumocam score`. */

import { at } from "./prediction.js";

/** @typedef {import("./prediction.js").Row} Row */
/** @typedef {import("./prediction.js").Info} Info */

const fixed = (/** @type {number | null | undefined} */ p) => (p == null ? "" : p.toFixed(6));

/**
 * A cell as RFC 4180 has it.
 * @param {unknown} value
 */
function cell(value) {
  const written = value == null ? "" : String(value);
  return /[",\r\n]/.test(written) ? `"${written.replaceAll('"', '""')}"` : written;
}

/**
 * The cells of one image at the chosen operating point and prevalence.
 * @param {Row} row
 * @param {Info} info
 * @param {{point: string | null, prevalence: number | null}} settings
 * @returns {Record<string, unknown>}
 */
export function cells(row, info, settings) {
  const prediction = at(row, info, settings);
  const corrected = { path: inert(row.name), steps: row.image?.steps.join("; ") ?? "" };
  const made = row.table?.[prediction.operating_point.name] ?? corrected;
  if (prediction === row.points[prediction.operating_point.name] && row.table) return made;
  const changed = {
    status: prediction.status,
    label: prediction.label ?? "",
    ...Object.fromEntries(Object.entries(prediction.probabilities).map(([k, p]) => [`p_${k.toLowerCase()}`, fixed(p)])),
    p_pneumonia: fixed(prediction.p_pneumonia),
    code: prediction.reason?.code ?? "",
    reason: prediction.reason?.message ?? "",
    prevalence: prediction.prevalence ?? "",
  };
  return { ...made, ...changed };
}

/**
 * A name that no spreadsheet takes for a formula.
 * @param {string} name
 */
export function inert(name) {
  const printable = name.replace(/\p{Cc}+/gu, " ").trim();
  return /^[=+\-@]/.test(printable) ? `'${printable}` : printable;
}

const COLUMNS = [
  "path",
  "status",
  "label",
  "p_normal",
  "p_bacterial",
  "p_viral",
  "p_pneumonia",
  "code",
  "reason",
  "steps",
];

/**
 * @param {Row[]} rows
 * @param {Info} info
 * @param {{point: string | null, prevalence: number | null}} settings
 */
export function csv(rows, info, settings) {
  const columns = info.columns ?? COLUMNS;
  const lines = rows.map((row) => cells(row, info, settings)).map((one) => columns.map((name) => cell(one[name])));
  return [columns, ...lines].map((line) => `${line.join(",")}\n`).join("");
}
