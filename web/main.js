// @ts-check
/** The page: what the reader has asked for, what came back, what is shown. */

import { Compare } from "./compare.js";
import { bringIntoView, button, byId, save } from "./dom.js";
import { EngineError } from "./engine.server.js";
import { showFrame } from "./frame.js";
import { chooseLanguage, load, named, text } from "./i18n.js";
import { listenForFiles } from "./intake.js";
import { problem } from "./problem.js";
import { Result } from "./result.js";
import { csv } from "./scores.js";
import { settings } from "./settings.js";

/** @typedef {import("./engine.server.js").Engine} Engine */
/** @typedef {import("./engine.server.js").Source} Source */
/** @typedef {import("./prediction.js").Row} Row */
/** @typedef {import("./prediction.js").Info} Info */
/** @typedef {import("./compare.js").Session} Session */

const AT_ONCE = 3; // images that are sent at the same time

/**
 * Build the page and show the first example.
 * @param {Engine} engine what classifies
 */
export async function start(engine) {
  const wanted = new URLSearchParams(location.search).get("lang");
  const asked = engine.info();
  asked.catch(() => {}); // it is told below, in the reader's language
  try {
    await load(chooseLanguage(wanted ? [wanted, ...navigator.languages] : navigator.languages));
    new App(engine, await asked);
  } catch (error) {
    const again = button(text("try_again"), () => location.reload());
    byId("problem").replaceChildren(problem(text("failed"), [failure(error)], [again], { role: "alert" }));
    byId("waiting").hidden = true;
    if (!(error instanceof EngineError)) throw error;
  }
}

/** What went wrong, in the reader's language if it is known. @param {unknown} error */
function failure(error) {
  if (error instanceof EngineError) return named("notice", error.code, error.message);
  return error instanceof Error ? error.message : String(error);
}

class App {
  /** @type {Session | null} */
  session = null;
  index = 0;
  #turn = new AbortController();

  /**
   * @param {Engine} engine
   * @param {Info} info
   */
  constructor(engine, info) {
    this.engine = engine;
    this.info = info;
    const { report, archive } = engine;
    this.result = new Result(byId("result"), info, {
      go: (by) => this.#go(by),
      back: () => this.#back(),
      force: () => this.#force(),
      report: report && ((format, prediction, target) => this.#report(format, prediction, target)),
    });
    this.compare = new Compare(byId("compare"), info, {
      open: (index) => this.#open(index),
      clear: () => this.#clear(),
      csv: () => this.#csv(),
      zip: archive && (() => this.#zip()),
    });
    showFrame(info, engine.api, (name) => this.read([{ name, example: true }]));
    listenForFiles((files) => this.read(files.map((file) => ({ name: file.name, file }))));
    const shown = info.examples.find(({ first }) => first);
    if (shown) this.read([{ name: shown.file, example: true }], { quiet: true });
    else byId("waiting").hidden = true;
  }

  /**
   * Classify images and show what comes.
   * @param {Source[]} sources
   * @param {{quiet?: boolean}} options quiet: without announcing it
   */
  async read(sources, { quiet = false } = {}) {
    const { images } = this.info.limits;
    /** @type {Session} */
    const session = {
      sources: sources.slice(0, images),
      rows: sources.slice(0, images).map(() => null),
      leftOut: Math.max(sources.length - images, 0),
      finished: false,
    };
    this.#turn.abort();
    this.#turn = new AbortController();
    await this.#work(session, this.#turn.signal, quiet);
  }

  /**
   * @param {Session} session
   * @param {AbortSignal} signal of a later request
   * @param {boolean} quiet without announcing it
   */
  async #work(session, signal, quiet) {
    this.#busy(true, quiet);
    const waiting = session.rows.flatMap((row, i) => (row ? [] : [i]));
    const work = async () => {
      for (let index = waiting.shift(); index !== undefined; index = waiting.shift()) {
        const row = await this.#classify(session.sources[index], signal).catch((error) => {
          waiting.length = 0;
          throw error;
        });
        if (signal.aborted) return;
        session.rows[index] = row;
        this.#arrived(session, quiet);
      }
    };
    try {
      // All of them: what arrives after a failure would take its message away.
      const ends = await Promise.allSettled(Array.from({ length: Math.min(AT_ONCE, waiting.length) }, work));
      const failed = ends.find((end) => end.status === "rejected");
      if (failed) throw failed.reason;
      if (signal.aborted) return;
      session.finished = true;
      this.#arrived(session, quiet, true);
      this.#busy(false);
    } catch (error) {
      if (signal.aborted) return;
      this.#busy(false);
      this.#tell(error, () => {
        this.#turn.abort();
        this.#turn = new AbortController();
        this.#work(session, this.#turn.signal, false);
      });
    }
  }

  /**
   * @param {Source} source
   * @param {AbortSignal} signal
   * @returns {Promise<Row>}
   */
  async #classify(source, signal) {
    if (!source.file) return this.engine.example(source.name, { signal });
    const { file } = source;
    if (file.size > this.info.limits.bytes) return this.#refused(file.name, "too_large", text("remedy_too_large"));
    try {
      return await this.engine.predict(file, { signal });
    } catch (error) {
      // What is wrong with one image must not stop the others.
      const about = error instanceof EngineError && named("reason", error.code, "");
      if (about && error instanceof EngineError) return this.#refused(file.name, error.code, error.message);
      throw error;
    }
  }

  /**
   * A row as the server makes it of an image that it refuses.
   * @param {string} name
   * @param {string} code
   * @param {string} message
   * @returns {Row}
   */
  #refused(name, code, message) {
    const { points, model } = this.info;
    const rejected = (/** @type {string} */ point) => ({
      status: /** @type {const} */ ("rejected"),
      label: null,
      probabilities: {},
      p_pneumonia: null,
      reason: { code, message },
      operating_point: { name: point, threshold: points[point].threshold },
      model,
    });
    const names = Object.keys(points);
    return {
      name,
      point: this.info.point ?? names[0],
      points: Object.fromEntries(names.map((point) => [point, rejected(point)])),
    };
  }

  /**
   * @param {Session} session
   * @param {boolean} quiet
   * @param {boolean} last
   */
  #arrived(session, quiet, last = false) {
    const first = this.session !== session;
    this.session = session;
    byId("problem").replaceChildren();
    // Before anything is scrolled to, because what lies below moves up.
    for (const name of ["waiting", "reading"]) byId(name).hidden = true;
    if (session.sources.length === 1) {
      if (first || !last) this.#open(0, quiet);
      return;
    }
    this.compare.show(session);
    if (last || session.rows.filter(Boolean).length % 8 === 0)
      byId("status").textContent = this.compare.note.textContent ?? "";
    if (!first) return this.#step();
    this.#see("compare");
    bringIntoView(byId("compare"));
    this.#focus(byId("compare-title"));
  }

  /** The position in a table that grows. */
  #step() {
    if (!byId("result").hidden) this.result.step(this.#position(), this.compare.order().length);
  }

  #position() {
    return this.compare.order().indexOf(this.index);
  }

  /** @param {"compare" | "result" | ""} shown */
  #see(shown) {
    for (const name of ["compare", "result"]) byId(name).hidden = name !== shown;
  }

  /**
   * @param {number} index
   * @param {boolean} quiet
   */
  async #open(index, quiet = false) {
    const { session } = this;
    const row = session?.rows[index];
    if (!session || !row) return;
    this.index = index;
    const many = session.sources.length > 1;
    const place = many ? { position: this.#position(), total: session.rows.length } : { position: 0, total: 1 };
    this.#see("result");
    const shown = this.result.show(row, { example: Boolean(session.sources[index].example), ...place });
    if (!quiet) {
      byId("status").textContent = this.result.spoken();
      bringIntoView(byId("result"));
      this.#focus(this.result.heading);
    }
    await shown;
  }

  /**
   * Keys act on what has the focus: it goes along, unless the reader is choosing by keyboard elsewhere.
   * @param {HTMLElement} element
   */
  #focus(element) {
    const active = document.activeElement;
    const choosing = byId("entry").contains(active) && active?.matches(":focus-visible");
    if (!choosing) element.focus({ preventScroll: true });
  }

  /** @param {number | "first" | "last"} by */
  #go(by) {
    const { session } = this;
    if (!session || session.sources.length < 2) return;
    const order = this.compare.order().filter((index) => session.rows[index]);
    const at = order.indexOf(this.index);
    const to = by === "first" ? 0 : by === "last" ? order.length - 1 : at + by;
    if (to !== at && order[to] !== undefined) this.#open(order[to]);
  }

  #back() {
    this.#see("compare");
    this.compare.fill();
    this.compare.focus(this.index);
  }

  /** Classify the image that was refused, in its place. */
  async #force() {
    const { session, index } = this;
    const source = session?.sources[index];
    if (!session || !source?.file) return;
    this.#busy(true);
    try {
      session.rows[index] = await this.engine.predict(source.file, { force: true });
      source.force = true;
      if (this.session === session) this.#open(index);
    } catch (error) {
      this.#tell(error, () => this.#force());
    }
    this.#busy(false);
  }

  #clear() {
    this.#turn.abort();
    this.session = null;
    this.#busy(false);
    this.#see("");
    byId("files").focus();
  }

  /** @param {boolean} on @param {boolean} quiet */
  #busy(on, quiet = false) {
    const results = byId("results");
    results.setAttribute("aria-busy", String(on));
    results.classList.toggle("busy", on);
    byId("reading").hidden = !on || quiet;
    if (on && !quiet) byId("status").textContent = text("reading");
    if (!on) byId("waiting").hidden = true;
  }

  /** A failure; what was shown stays. @param {unknown} error @param {() => void} again */
  #tell(error, again) {
    const retry = button(text("try_again"), () => {
      byId("problem").replaceChildren();
      again();
    });
    byId("problem").replaceChildren(problem(text("failed"), [failure(error)], [retry], { role: "alert" }));
    bringIntoView(byId("problem"));
  }

  /**
   * Make a file on the server and download it.
   * @param {() => Promise<import("./engine.server.js").Made>} make
   */
  async #download(make) {
    byId("status").textContent = text("making");
    try {
      const { blob, name } = await make();
      save(blob, name);
      byId("problem").replaceChildren();
      byId("status").textContent = text("saved");
    } catch (error) {
      this.#tell(error, () => this.#download(make));
    }
  }

  /** @param {string} point */
  #drawing(point) {
    const { opacity, colours, prevalence } = settings;
    return { operating_point: point, opacity, colour_map: colours, prevalence: prevalence ?? undefined };
  }

  /**
   * @param {"pdf" | "png"} format
   * @param {import("./prediction.js").Prediction} prediction
   * @param {string} target
   */
  async #report(format, prediction, target) {
    const source = this.session?.sources[this.index];
    const options = { ...this.#drawing(prediction.operating_point.name), format, target, force: source?.force };
    if (source) await this.#download(async () => this.engine.report?.(source, options) ?? Promise.reject());
  }

  /** @returns {Row[]} */
  get #rows() {
    return (this.session?.rows ?? []).filter((row) => row !== null);
  }

  #csv() {
    save(new Blob([csv(this.#rows, this.info, settings)], { type: "text/csv" }), "pneumocam.csv");
    byId("status").textContent = text("saved");
  }

  async #zip() {
    const { sources = [] } = this.session ?? {};
    const limit = this.info.limits.bytes;
    // Of a file that is too large no more is sent than shows it.
    const bounded = sources.map(({ name, file, example }) =>
      file && file.size > limit ? { name, file: new File([file.slice(0, limit + 1)], name) } : { name, file, example },
    );
    const options = this.#drawing(settings.point ?? this.#rows[0].point);
    const force = sources.some((source) => source.force) || undefined;
    await this.#download(async () => this.engine.archive?.(bounded, { ...options, force }) ?? Promise.reject());
  }
}
