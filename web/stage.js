// @ts-check
/** The canvas with the image and its saliency map: panes, pointers, wheel. Nothing here asks the server. */

import * as overlay from "./overlay.js";
import * as views from "./view.js";

/** @typedef {import("./view.js").Pair} Pair */
/** @typedef {import("./prediction.js").Row} Row */

const GRIP = 24; // CSS pixels around the divider in which it can be caught
const GAP = 8; // CSS pixels between two panes

/** The picture of a row, its grey levels, and what is drawn from them. */
export class Picture {
  /** @param {Row} row */
  static async load(row) {
    const image = new Image();
    image.src = row.picture ?? row.thumbnail ?? "";
    await image.decode();
    return new Picture(image, row);
  }

  /**
   * @param {HTMLImageElement} image
   * @param {Row} row
   */
  constructor(image, row) {
    this.row = row;
    this.width = image.naturalWidth;
    this.height = image.naturalHeight;
    this.plain = this.#canvas();
    this.mapped = this.#canvas();
    const context = /** @type {CanvasRenderingContext2D} */ (this.plain.getContext("2d", { willReadFrequently: true }));
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, this.width, this.height).data;
    this.grey = new Uint8Array(this.width * this.height);
    for (let i = 0; i < this.grey.length; i++) this.grey[i] = pixels[4 * i];
    /** @type {Map<string, Float32Array>} */
    this.heats = new Map();
  }

  #canvas() {
    return Object.assign(document.createElement("canvas"), { width: this.width, height: this.height });
  }

  /** @param {string} target */
  #heat(target) {
    const { maps = {}, box = [0, 0, 1, 1], size = [1, 1] } = this.row;
    const known = this.heats.get(target) ?? overlay.heat(maps[target], box, size, this.width, this.height);
    this.heats.set(target, known);
    return known;
  }

  /**
   * Draw both canvases anew.
   * @param {overlay.Window} window
   * @param {string | null} target class whose map is drawn; null: none
   * @param {Uint8Array} colours
   * @param {number} opacity
   */
  render(window, target, colours, opacity) {
    const table = overlay.windowTable(window);
    this.#put(this.plain, (data) => overlay.plain(this.grey, table, data));
    if (target === null) return;
    const heat = this.#heat(target);
    this.#put(this.mapped, (data) => overlay.blend(this.grey, table, heat, colours, opacity, data));
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {(data: Uint8ClampedArray) => void} fill
   */
  #put(canvas, fill) {
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const image = context.createImageData(this.width, this.height);
    fill(image.data);
    context.putImageData(image, 0, 0);
  }
}

export class Stage {
  /** @type {Picture | null} */
  picture = null;
  view = views.wholeView();
  /** @type {overlay.Window} */
  window = { ...overlay.WHOLE_WINDOW };
  /** @type {string | null} */
  target = null;
  colours = new Uint8Array(768);
  opacity = 0.6;
  map = true;
  /** @type {"beside" | "divider"} */
  layout = "beside";
  /** What a drag does; null: contrast on the whole image, moving on a part of it. @type {"contrast" | "move" | null} */
  tool = null;
  split = 0.5;
  /** @type {Map<number, Pair>} */
  #pointers = new Map();
  /** @type {string | null} */
  #drags = null;
  #stale = true;
  #frame = 0;

  /**
   * @param {HTMLElement} element with a canvas and a divider
   * @param {() => void} changed is called after anything has changed that is drawn
   */
  constructor(element, changed) {
    this.element = element;
    this.changed = changed;
    this.canvas = /** @type {HTMLCanvasElement} */ (element.querySelector("canvas"));
    this.#listen();
    new ResizeObserver(() => this.draw(false)).observe(element);
  }

  /** @param {Picture} picture */
  show(picture) {
    this.picture = picture;
    this.element.style.setProperty("--aspect", String(picture.width / picture.height));
    this.reset();
  }

  reset() {
    this.view = views.wholeView();
    this.window = { ...overlay.WHOLE_WINDOW };
    this.tool = null;
    this.draw();
  }

  /** @returns {Pair} */
  get size() {
    return this.picture ? [this.picture.width, this.picture.height] : [1, 1];
  }

  get hasMap() {
    return this.map && this.target !== null;
  }

  /** How many panes there are. */
  get panes() {
    return this.hasMap && this.layout === "beside" ? 2 : 1;
  }

  /** The size of one pane in CSS pixels. @returns {Pair} */
  get pane() {
    const { clientWidth, clientHeight } = this.element;
    return [Math.max((clientWidth - (this.panes - 1) * GAP) / this.panes, 1), Math.max(clientHeight, 1)];
  }

  get movesImage() {
    return this.tool === "move" || (this.tool === null && this.view.zoom > 1);
  }

  whole() {
    this.#look({ ...views.wholeView(), turn: this.view.turn });
  }

  /** One pixel of the image on one of the screen. */
  actualSize() {
    this.zoomTo(1 / views.fitScale(this.view, this.pane, this.size));
  }

  /**
   * @param {number} zoom
   * @param {Pair} place CSS pixels from the middle of the pane
   */
  zoomTo(zoom, place = [0, 0]) {
    this.#look(views.zoomed(this.view, zoom, place, this.pane, this.size));
  }

  /**
   * @param {number} x CSS pixels
   * @param {number} y CSS pixels
   */
  panBy(x, y) {
    this.#look(views.panned(this.view, [x, y], this.pane, this.size));
  }

  /** @param {Parameters<typeof views.turned>[1]} how */
  turn(how) {
    this.#look(views.clamped(views.turned(this.view, how), this.pane, this.size));
  }

  invert() {
    this.window = { ...this.window, inverted: !this.window.inverted };
    this.draw();
  }

  /** @param {number} share of the image's width that is without map */
  divide(share) {
    this.split = Math.min(Math.max(share, 0), 1);
    this.draw(false);
  }

  /** @param {views.View} view */
  #look(view) {
    if (!this.picture) return;
    this.view = view;
    this.draw(false);
  }

  /**
   * Draw in the next frame.
   * @param {boolean} stale whether the pixels have changed, not only where they are
   */
  draw(stale = true) {
    this.#stale ||= stale;
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw() {
    const { canvas, picture, element, pane, view } = this;
    if (!picture || !element.clientWidth) return;
    if (this.#stale) picture.render(this.window, this.hasMap ? this.target : null, this.colours, this.opacity);
    this.#stale = false;
    this.view = views.clamped(view, pane, this.size);
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [element.clientWidth, element.clientHeight].map((x) => Math.round(x * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    const line = this.#line();
    if (this.panes === 2) {
      this.#paint(context, picture.plain, 0, pane[0], 0, ratio);
      this.#paint(context, picture.mapped, pane[0] + GAP, 2 * pane[0] + GAP, pane[0] + GAP, ratio);
    } else if (this.hasMap) {
      this.#paint(context, picture.plain, 0, line, 0, ratio);
      this.#paint(context, picture.mapped, line, pane[0], 0, ratio);
    } else this.#paint(context, picture.plain, 0, pane[0], 0, ratio);
    this.#note(line);
    this.changed();
  }

  /** For style sheets and tests: what is drawn. @param {number} line */
  #note(line) {
    const { element, view } = this;
    const divided = this.hasMap && this.layout === "divider";
    element.style.setProperty("--line", `${line}px`);
    element.classList.toggle("divided", divided);
    element.classList.toggle("moves", this.movesImage);
    // The height does not depend on whether the map is on: what is compared by switching must not move.
    element.style.setProperty("--across", this.target !== null && this.layout === "beside" ? "2" : "1");
    const divider = element.querySelector("[role=slider]");
    divider?.setAttribute("aria-valuenow", String(Math.round(100 * this.split)));
    const { centre, width, inverted } = this.window;
    Object.assign(element.dataset, {
      zoom: view.zoom.toFixed(2),
      panes: this.panes,
      map: this.hasMap ? this.target : "",
      window: `${Math.round(centre)} ${Math.round(width)}${inverted ? " inverted" : ""}`,
      turn: view.turn.map(Math.round).join(" "),
    });
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {HTMLCanvasElement} source
   * @param {number} from left edge of what is painted, in CSS pixels
   * @param {number} to its right edge
   * @param {number} left edge of its pane
   * @param {number} ratio canvas pixels per CSS pixel
   */
  #paint(context, source, from, to, left, ratio) {
    const { pane } = this;
    context.save();
    context.beginPath();
    context.rect(from * ratio, 0, Math.max(to - from, 0) * ratio, pane[1] * ratio);
    context.clip();
    const middle = /** @type {Pair} */ ([(left + pane[0] / 2) * ratio, (pane[1] / 2) * ratio]);
    context.setTransform(...views.transform(this.view, pane, this.size, middle, ratio));
    context.drawImage(source, 0, 0);
    if (source === this.picture?.mapped) this.#outline(context);
    context.restore();
  }

  /** The lungs, if the row has their outlines. @param {CanvasRenderingContext2D} context */
  #outline(context) {
    const { lungs, size } = this.picture?.row ?? {};
    if (!lungs || !size) return;
    const [x, y] = this.size.map((side, i) => side / size[i]);
    context.beginPath();
    for (const outline of lungs) {
      outline.forEach(([left, top], i) => context[i ? "lineTo" : "moveTo"](left * x, top * y));
      context.closePath();
    }
    context.strokeStyle = "#7fe0d3";
    context.lineWidth = Math.max(this.size[0] / 400, 1);
    context.stroke();
  }

  /** Where the divider stands, in CSS pixels from the left: it moves over the width of the whole image. */
  #line() {
    const [from, width] = this.#span();
    return from + this.split * width;
  }

  /** Left edge and width of the whole image in a pane. */
  #span() {
    const { pane, size, view } = this;
    const across = Math.abs(view.turn[0]) ? size[0] : size[1];
    const width = Math.min(across * views.fitScale(view, pane, size) * Math.max(view.zoom, 1), pane[0]);
    return [(pane[0] - width) / 2, width];
  }

  /** @param {MouseEvent} event @returns {Pair} CSS pixels in the element */
  #at(event) {
    const box = this.element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** CSS pixels from the middle of the pane. @param {Pair} at @returns {Pair} */
  #place([x, y]) {
    const { pane } = this;
    return [(x > pane[0] + GAP ? x - pane[0] - GAP : x) - pane[0] / 2, y - pane[1] / 2];
  }

  /** What a pointer will do, as in OHIF: left contrast, middle moving, right zoom. @param {PointerEvent} event */
  #purpose(event) {
    if (event.button === 1) return "move";
    if (event.button === 2) return "zoom";
    const divided = this.hasMap && this.layout === "divider";
    if (divided && Math.abs(this.#at(event)[0] - this.#line()) < GRIP) return "divide";
    if (this.movesImage || event.shiftKey) return "move";
    if (event.pointerType === "touch" && this.tool === null) return divided ? "divide" : null;
    return "contrast";
  }

  #listen() {
    const { element } = this;
    element.addEventListener("pointerdown", (event) => {
      if (!this.picture || event.button > 2) return;
      element.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, this.#at(event));
      if (this.#pointers.size === 1) this.#drags = this.#purpose(event);
    });
    element.addEventListener("pointermove", (event) => {
      const before = this.#pointers.get(event.pointerId);
      if (!before) return;
      const now = this.#at(event);
      if (this.#pointers.size === 2) this.#pinch(event.pointerId, before, now);
      else if (this.#pointers.size === 1) this.#drag(before, now);
      this.#pointers.set(event.pointerId, now);
    });
    for (const end of ["pointerup", "pointercancel"])
      element.addEventListener(end, (event) => {
        this.#pointers.delete(/** @type {PointerEvent} */ (event).pointerId);
        this.#drags = null;
      });
    element.addEventListener("contextmenu", (event) => event.preventDefault()); // the right button zooms
    element.addEventListener("auxclick", (event) => event.preventDefault());
    element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    // The page's own scrolling must not get caught here: only after a click, or with Ctrl as a trackpad's pinch.
    if (!event.ctrlKey && !this.element.contains(document.activeElement)) return;
    event.preventDefault();
    const factor = Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400));
    this.zoomTo(this.view.zoom * factor, this.#place(this.#at(event)));
  }

  /** @param {Pair} before @param {Pair} now */
  #drag(before, now) {
    const [x, y] = [now[0] - before[0], now[1] - before[1]];
    if (this.#drags === "move") this.panBy(x, y);
    else if (this.#drags === "zoom") this.zoomTo(this.view.zoom * Math.exp(-y / 150));
    else if (this.#drags === "divide") {
      const [from, width] = this.#span();
      this.divide((now[0] - from) / width);
    } else if (this.#drags === "contrast") {
      this.window = overlay.draggedWindow(this.window, x, y);
      this.draw();
    }
  }

  /** @param {number} id @param {Pair} before @param {Pair} now */
  #pinch(id, before, now) {
    const fixed = [...this.#pointers].find(([key]) => key !== id)?.[1];
    if (!fixed) return;
    const apart = (/** @type {Pair} */ a, /** @type {Pair} */ b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
    const factor = apart(now, fixed) / Math.max(apart(before, fixed), 1);
    this.zoomTo(this.view.zoom * factor, this.#place([(now[0] + fixed[0]) / 2, (now[1] + fixed[1]) / 2]));
    this.panBy((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
  }
}
