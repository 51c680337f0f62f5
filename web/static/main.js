// @ts-check
/** The page without a server: its engine, the model's download, and the service worker for later visits. */

import { button, byId, make } from "../dom.js";
import { BrowserEngine } from "../engine.browser.js";
import { language, text } from "../i18n.js";
import { start } from "../main.js";
import { isCached } from "./download.js";

const engine = new BrowserEngine();
await start(engine);
const [{ download }, { parts }] = await Promise.all([engine.info(), description()]);
showDownload(download);
if (await isCached(parts, new URL("../model/", import.meta.url))) engine.load().catch(() => {});
// Pages from a file system or over plain HTTP have none; they work, but not offline.
await navigator.serviceWorker?.register(new URL("../sw.js", import.meta.url)).catch(() => {});

/** @returns {Promise<{parts: import("./download.js").Part[]}>} */
async function description() {
  return (await fetch(new URL("../model/model.json", import.meta.url))).json();
}

/**
 * The size of the model before its download, the progress, and what is possible then.
 * @param {number} total bytes
 */
function showDownload(total) {
  const said = make("span");
  const bar = make("progress", { max: total, value: 0, "aria-label": text("download_label"), hidden: true });
  const now = button(text("download_now"), () => engine.load().catch(() => {}));
  const panel = make("div", { id: "download" }, make("p.quiet", {}, said, " ", now), bar);
  byId("drop").after(make("p.quiet", { id: "private" }, text("nothing_uploaded")), panel);
  const megabytes = (/** @type {number} */ bytes) =>
    new Intl.NumberFormat(language(), { maximumFractionDigits: 0 }).format(bytes / 1e6);
  engine.changed = (bytes) => {
    panel.dataset.state = engine.state;
    now.hidden = engine.state !== "absent";
    bar.hidden = engine.state !== "loading";
    bar.value = bytes;
    const arrived = engine.state === "loading" && bytes >= total ? "starting" : engine.state;
    said.textContent = text(`download_${arrived}`, { done: megabytes(bytes), megabytes: megabytes(total) });
  };
  engine.changed(0);
}
