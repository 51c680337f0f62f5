// @ts-check
/** How images come in: choosing, dropping anywhere on the page, pasting; and the gallery of examples. */

import { button, byId, make } from "./dom.js";
import { named, text } from "./i18n.js";

/** @typedef {import("./prediction.js").Example} Example */

/**
 * Listen for files.
 * @param {(files: File[]) => void} give
 */
export function listenForFiles(give) {
  const field = /** @type {HTMLInputElement} */ (byId("files"));
  const cover = byId("cover");
  field.addEventListener("change", () => {
    const files = [...(field.files ?? [])];
    field.value = ""; // or the same file could not be chosen twice
    if (files.length) give(files);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    give(files);
  });
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  const dropping = (/** @type {boolean} */ on) => {
    cover.hidden = !on;
    document.body.classList.toggle("dropping", on);
  };
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // an image would otherwise replace the page
    dropping(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) dropping(false);
  });
  // A drag that was given up ends without a word; while one lasts, pointers do not move.
  document.addEventListener("pointermove", () => cover.hidden || dropping(false));
  document.addEventListener("drop", (event) => {
    dropping(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) give(files);
  });
}

/**
 * Buttons with thumbnails.
 * @param {HTMLElement} element
 * @param {Example[]} examples
 * @param {(file: string) => void} pick
 * @param {boolean} wrong whether these are examples that the model gets wrong
 */
export function showGallery(element, examples, pick, wrong = false) {
  element.replaceChildren(
    ...examples.map(({ file, truth, label, status, thumbnail }, i) => {
      const doubt = status === "uncertain" ? ` (${text("verdict_uncertain")})` : "";
      const answer = label ? `${named("short", label)}${doubt}` : text("verdict_rejected");
      const number = text("example", { number: i + 1, label: named("label", truth) });
      const caption = wrong ? text("failure", { truth: named("short", truth), answer }) : named("short", truth);
      const one = button(make("img", { src: thumbnail, alt: "", loading: "lazy" }), () => pick(file), {
        "aria-label": wrong ? `${number} ${caption}` : number,
      });
      one.append(make("span", { "aria-hidden": "true" }, caption));
      return make("li", {}, one);
    }),
  );
}
