// @ts-check
/** The steps that were applied to an image, in the reader's language. */

import { make } from "./dom.js";
import { text } from "./i18n.js";

/** The sentences of the Python package, and the texts that say the same. @type {[RegExp, string][]} */
const KNOWN = [
  [/^inverted, because its bones were dark$/, "step_bones"],
  [/^rotated by (?<degrees>\d+) degrees clockwise, because it was not upright$/, "step_turned"],
  [/^rotated by EXIF orientation$/, "step_exif"],
  [/^inverted \((?<why>\w+)\)$/, "step_inverted"],
  [
    /^cut off a flat border: (?<top>\d+) px above, (?<bottom>\d+) below, (?<left>\d+) left, (?<right>\d+) right$/,
    "step_border",
  ],
  [/^(?<depth>\d+) bit scaled to 8 bit$/, "step_depth"],
  [/^colour converted to grey$/, "step_colour"],
  [/^transparency laid on black$/, "step_transparency"],
];

/**
 * A step in the reader's language; null for a rare one, which has English words alone.
 * @param {string} step in the words of the Python package
 */
export function translated(step) {
  for (const [pattern, key] of KNOWN) {
    const found = pattern.exec(step);
    if (found) return text(key, found.groups);
  }
  return null;
}

/**
 * All steps as one line.
 * @param {string[]} steps
 * @returns {(Node | string)[]}
 */
export const stepLine = (steps) =>
  steps.flatMap((step, i) => [i ? "; " : "", translated(step) ?? make("span", { lang: "en" }, step)]);
