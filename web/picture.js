// @ts-check
/** The viewer: the image beside its saliency map, the toolbar, the keys of OHIF, the captions. */

import { button, make, wrapping } from "./dom.js";
import { named, percent, probability, text } from "./i18n.js";
import { colourTable } from "./overlay.js";
import { probabilityOf } from "./prediction.js";
import { settings } from "./settings.js";
import { Picture, Stage } from "./stage.js";
import { stepLine } from "./steps.js";
import { isMirrored } from "./view.js";

/** @typedef {import("./prediction.js").Row} Row */
/** @typedef {import("./prediction.js").Info} Info */
/** @typedef {import("./prediction.js").Prediction} Prediction */

const ZOOM_STEP = 1.25;
const PAN_STEP = 40; // CSS pixels
const NARROW = "(max-width: 700px)";

/** Icons as paths in a square of 24: drawn here so that nothing is fetched for them. */
const ICONS = {
  map: "M12 3 3 8l9 5 9-5zM3 13l9 5 9-5",
  invert: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  contrast: "M12 3v3M12 18v3M3 12h3M18 12h3M12 8a4 4 0 1 0 0 8z",
  move: "M12 3v18M3 12h18M9 6l3-3 3 3M9 18l3 3 3-3M6 9l-3 3 3 3M18 9l3 3-3 3",
  in: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12M20 20l-4.5-4.5M8 11h6M11 8v6",
  out: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12M20 20l-4.5-4.5M8 11h6",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  layout: "M4 5h16v14H4zM12 5v14",
  full: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  reset: "M4 5v5h5M5 10a8 8 0 1 1-1 5",
};

/** @param {string} path @returns {SVGElement} */
function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
  shape.setAttribute("d", path);
  for (const [name, value] of Object.entries({ viewBox: "0 0 24 24", "aria-hidden": "true" }))
    svg.setAttribute(name, value);
  svg.append(shape);
  return svg;
}

export class PictureView {
  /** @type {Row | null} */
  row = null;
  /** @type {Prediction | null} */
  prediction = null;
  target = "";

  /**
   * @param {Info} info
   * @param {(by: number | "first" | "last") => void} go to another image
   */
  constructor(info, go) {
    this.info = info;
    this.go = go;
    this.colours = Object.fromEntries(Object.entries(info.colours).map(([name, x]) => [name, colourTable(x)]));
    this.divider = make("div.divider", {
      ...{ role: "slider", tabindex: "0", "aria-label": text("divider"), "aria-valuemin": 0, "aria-valuemax": 100 },
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#divide(event),
    });
    this.canvas = make("canvas", { role: "img" });
    this.element = make(
      "div.stage",
      { tabindex: "0", role: "group", "aria-label": text("viewer"), "aria-describedby": "viewer-help" },
      this.canvas,
      this.divider,
    );
    this.captions = make("div.captions");
    this.help = make("p.help.unseen", { id: "viewer-help" }, text("viewer_help"));
    this.section = make(
      "div.reading",
      { role: "region", "aria-label": text("picture_title") },
      this.#toolbar(),
      this.element,
      this.captions,
      this.help,
    );
    this.stage = new Stage(this.element, () => this.#changed());
    const narrow = matchMedia(NARROW);
    const follow = () => this.#layout(narrow.matches ? "divider" : "beside");
    narrow.addEventListener("change", follow);
    follow();
    document.addEventListener("fullscreenchange", () => this.#changed());
  }

  #toolbar() {
    const { ...actions } = this.actions();
    const tool = (
      /** @type {keyof typeof ICONS} */ name,
      /** @type {() => void} */ action,
      key = "",
      label = text(`tool_${name}`),
    ) => button(icon(ICONS[name]), action, { title: key ? `${label} (${key})` : label, "aria-label": label });
    this.mapButton = tool("map", actions.m, "M");
    this.mapButton.append(make("span", { "aria-hidden": "true" }, text("tool_map_short")));
    this.invertButton = tool("invert", actions.i, "I");
    this.contrastButton = tool("contrast", actions.w, "W");
    this.moveButton = tool("move", actions.p, "P");
    this.layoutButton = tool("layout", () => this.#layout(this.stage.layout === "beside" ? "divider" : "beside"));
    this.fullButton = tool("full", actions.f, "F");
    const fit = tool("fit", actions["="], "=");
    fit.classList.add("fit");
    const actual = button("1:1", actions[1], {
      title: `${text("tool_actual")} (1)`,
      "aria-label": text("tool_actual"),
    });
    return make(
      "div.toolbar",
      { role: "group", "aria-label": text("toolbar") },
      this.mapButton,
      this.layoutButton,
      make("span.space"),
      this.contrastButton,
      this.moveButton,
      this.invertButton,
      make("span.space"),
      tool("out", actions["-"], "-"),
      tool("in", actions["+"], "+"),
      fit,
      actual,
      tool("reset", actions[" "], text("key_space")),
      make("span.space.wide"),
      this.#keys(),
      this.fullButton,
    );
  }

  /** The button that shows what mouse and keys do; without it only screen readers are told. */
  #keys() {
    const label = text("keys");
    const shown = button("?", () => shown.setAttribute("aria-expanded", String(!this.help.classList.toggle("unseen"))), {
      ...{ title: label, "aria-label": label, "aria-controls": "viewer-help", "aria-expanded": "false", class: "keys" },
    });
    return shown;
  }

  /** What each key does: OHIF's default keys, and M, W, P, 1 and F. @returns {Record<string, () => void>} */
  actions() {
    const zoom = (/** @type {number} */ factor) => this.stage.zoomTo(this.stage.view.zoom * factor);
    const tool = (/** @type {"contrast" | "move"} */ name) => {
      this.stage.tool = this.stage.tool === name ? null : name;
      this.stage.draw(false);
    };
    const arrow = (/** @type {number} */ x, /** @type {number} */ y) => {
      if (this.stage.movesImage) this.stage.panBy(x * PAN_STEP, y * PAN_STEP);
      else this.go(x + y > 0 ? -1 : 1);
    };
    return {
      m: () => this.toggleMap(),
      i: () => this.stage.invert(),
      h: () => this.stage.turn("horizontal"),
      v: () => this.stage.turn("vertical"),
      r: () => this.stage.turn("right"),
      l: () => this.stage.turn("left"),
      w: () => tool("contrast"),
      p: () => tool("move"),
      f: () => this.#full(),
      1: () => this.stage.actualSize(),
      "+": () => zoom(ZOOM_STEP),
      "-": () => zoom(1 / ZOOM_STEP),
      "=": () => this.stage.whole(),
      " ": () => this.stage.reset(),
      ArrowLeft: () => arrow(1, 0),
      ArrowRight: () => arrow(-1, 0),
      ArrowUp: () => arrow(0, 1),
      ArrowDown: () => arrow(0, -1),
      PageUp: () => this.go(-1),
      PageDown: () => this.go(1),
      Home: () => this.go("first"),
      End: () => this.go("last"),
    };
  }

  /** @param {KeyboardEvent} event of the result's section */
  key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || !this.row?.picture) return;
    if (target.matches("input, select, textarea, summary, pre, [role=slider]")) return;
    if (event.key === " " && target.matches("button, a")) return;
    const action = this.actions()[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  /** @param {KeyboardEvent} event */
  #divide(event) {
    const { split } = this.stage;
    /** @type {Record<string, number>} */
    const places = {
      ...{ ArrowLeft: split - 0.05, ArrowDown: split - 0.05, ArrowRight: split + 0.05, ArrowUp: split + 0.05 },
      ...{ PageUp: split + 0.2, PageDown: split - 0.2, Home: 0, End: 1 },
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    event.stopPropagation();
    this.stage.divide(places[event.key]);
  }

  toggleMap() {
    this.stage.map = !this.stage.map;
    this.stage.draw();
  }

  /** @param {"beside" | "divider"} layout */
  #layout(layout) {
    this.stage.layout = layout;
    this.stage.draw(false);
  }

  #full() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.section.requestFullscreen?.();
  }

  /**
   * Show another image.
   * @param {Row} row
   * @param {Prediction} prediction
   */
  async show(row, prediction) {
    this.row = row;
    this.section.hidden = !row.picture;
    if (!row.picture) return;
    const picture = await Picture.load(row);
    if (this.row !== row) return; // another one has come in the meantime
    this.target = prediction.label ?? "";
    this.update(prediction);
    this.stage.show(picture);
  }

  /**
   * The same image, with other settings.
   * @param {Prediction} prediction
   */
  update(prediction) {
    if (!this.row) return;
    this.prediction = prediction;
    const { stage } = this;
    stage.target = this.row.maps ? this.target : null;
    stage.colours = this.colours[settings.colours];
    stage.opacity = settings.opacity;
    stage.draw();
    this.#caption();
  }

  /** Buttons say what is on. */
  #changed() {
    const { stage } = this;
    const pressed = (/** @type {HTMLElement | undefined} */ element, /** @type {boolean} */ on) =>
      element?.setAttribute("aria-pressed", String(on));
    pressed(this.mapButton, stage.hasMap);
    pressed(this.invertButton, stage.window.inverted);
    pressed(this.contrastButton, !stage.movesImage);
    pressed(this.moveButton, stage.movesImage);
    pressed(this.layoutButton, stage.layout === "beside");
    pressed(this.fullButton, document.fullscreenElement === this.section);
    this.mapButton?.toggleAttribute("disabled", stage.target === null);
    this.layoutButton?.toggleAttribute("disabled", !stage.hasMap);
    this.captions.dataset.panes = stage.panes;
    const mirrored = this.captions.querySelector(".mirrored");
    if (mirrored) mirrored.hidden = !isMirrored(stage.view);
    if (this.note) this.note.hidden = !stage.hasMap;
    this.canvas.setAttribute("aria-label", stage.hasMap ? text("stage", { label: this.#label }) : text("stage_plain"));
  }

  get #label() {
    return named("label", this.target);
  }

  #caption() {
    const { row, prediction } = this;
    if (!row || !prediction) return;
    const steps = row.image?.steps ?? [];
    this.note = row.maps ? make("div.caption", {}, ...this.#legend(row, prediction)) : null;
    this.captions.replaceChildren(
      make(
        "div.caption",
        {},
        make("strong", {}, steps.length ? text("corrected") : text("original")),
        make("span.mirrored", { hidden: true }, text("mirrored")),
        steps.length ? make("p", {}, ...stepLine(steps)) : make("p.file-name", {}, ...wrapping(row.name)),
      ),
      ...(this.note ? [this.note] : []),
    );
    this.#changed();
  }

  /** @param {Row} row @param {Prediction} prediction */
  #legend(row, prediction) {
    const values = { label: this.#label, p: probability(probabilityOf(prediction, this.target)) };
    const title = make("strong", {}, text("map_of", values));
    if (!row.maps?.[this.target]) return [title, make("p.warning", {}, text("map_empty", values))];
    const { word, inside, expected } = row.map_quality?.[this.target] ?? {};
    const shares = inside == null || expected == null ? null : { inside: percent(inside), expected: percent(expected) };
    return [
      title,
      make("p.legend", {}, text("legend_none"), this.#ramp(), text("legend_most")),
      word ? make(word === "steady" ? "p" : "p.warning", {}, named("quality", word)) : null,
      shares ? make("p", {}, text("map_inside", shares)) : null,
    ].filter((x) => x !== null);
  }

  #ramp() {
    const ramp = make("canvas", { width: 256, height: 1, "aria-hidden": "true" });
    const context = ramp.getContext("2d");
    const image = context.createImageData(256, 1);
    const colours = this.colours[settings.colours];
    for (let i = 0; i < 256; i++) image.data.set([colours[3 * i], colours[3 * i + 1], colours[3 * i + 2], 255], 4 * i);
    context.putImageData(image, 0, 0);
    return ramp;
  }
}
