// @ts-check
/** What stands around the results: texts of the document, galleries, the words about the model, the footer. */

import { byId, make } from "./dom.js";
import { LANGUAGES, language, named, text } from "./i18n.js";
import { showGallery } from "./intake.js";

/** @typedef {import("./prediction.js").Info} Info */

/**
 * @param {Info} info
 * @param {string | undefined} api address of its description
 * @param {(file: string) => void} pick an example
 */
export function showFrame(info, api, pick) {
  const values = { images: info.limits.images, megabytes: Math.floor(info.limits.bytes / 1e6) };
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-text]")))
    element.replaceChildren(...marked(text(element.dataset.text ?? "", values)));
  byId("files").setAttribute("aria-label", `${text("drop_title")}, ${text("drop_hint", values)}`);
  document.title = `PneumoCAM: ${text("title")}`;
  const { notice } = info;
  byId("notice").hidden = !notice;
  if (notice)
    byId("notice").replaceChildren(make("strong", {}, text("note")), " ", make("span", { lang: "en" }, notice));
  const gallery = info.examples.filter((example) => example.gallery);
  const wrong = info.examples.filter(({ label, truth }) => label !== truth).slice(0, 4);
  showGallery(byId("examples"), gallery, pick);
  showGallery(byId("failures"), wrong, pick, true);
  byId("examples-part").hidden = !gallery.length;
  byId("failures-part").hidden = !wrong.length;
  const missing = info.labels.filter((label) => !info.examples.some(({ truth }) => truth === label));
  byId("missing").textContent = missing.length
    ? text("missing", { label: missing.map((label) => named("short", label)).join(", ") })
    : "";
  byId("languages").setAttribute("aria-label", text("languages"));
  const link = /** @type {HTMLAnchorElement} */ (byId("api-link"));
  if (api) Object.assign(link, { href: api, hidden: false });
  showFooter(info);
}

/** `**strong**` in a text. @param {string} source */
function marked(source) {
  return source.split("**").map((part, i) => (i % 2 ? make("strong", {}, part) : part));
}

/** @param {Info} info */
function showFooter({ model: { id, revision } }) {
  const onHub = /^[\w.-]+\/[\w.-]+$/.test(id);
  const card = /** @type {HTMLAnchorElement} */ (byId("card-link"));
  if (onHub) card.href = `https://huggingface.co/${id}`;
  byId("revision").replaceChildren(
    make("summary", {}, text("model_line", { id, revision: short(revision) })),
    make("code", {}, revision),
  );
  byId("languages").replaceChildren(
    ...Object.entries(LANGUAGES).map(([name, own]) =>
      make("a", { href: `?lang=${name}`, lang: name, "aria-current": name === language() ? "true" : null }, own),
    ),
  );
}

/** @param {string} revision */
const short = (revision) => revision.replace(/^sha256:/, "").slice(0, 7);
