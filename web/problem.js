// @ts-check
/** How whatever went wrong is told: what it is, and what to do. */

import { make } from "./dom.js";
import { named, text } from "./i18n.js";

/** @typedef {import("./dom.js").Child} Child */

/**
 * @param {Child} title
 * @param {Child[]} lines
 * @param {HTMLButtonElement[]} buttons
 * @param {Record<string, any>} attributes
 * @returns {HTMLElement}
 */
export const problem = (title, lines, buttons = [], attributes = {}) =>
  make(
    "div.problem",
    attributes,
    make("strong", {}, title),
    ...lines.map((line) => make("p", {}, line)),
    buttons.length ? make("div.choices", {}, ...buttons) : null,
  );

/** Why an image has no prediction, in a few words. @param {{code: string}} reason */
export const reasonTitle = ({ code }) => named("reason", code, text("reason_other"));

/**
 * What to do about it: translated, or the server's own English sentence.
 * @param {{code: string, message: string}} reason
 * @returns {Child}
 */
export function remedy({ code, message }) {
  const known = named("remedy", code, "");
  return known || make("span", { lang: "en" }, message);
}
