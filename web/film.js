/* The picture: a film, its Grad-CAM laid over it, the line between the two, zoom and pan. Nothing here asks the server. */
(() => {
  const MOST_ZOOM = 8;
  const ZOOM_STEP = 1.25;
  const PAN_STEP = 40; // CSS pixels
  const GRIP = 22; // CSS pixels around the line in which it can be caught

  const pneumocam = (window.pneumocam ??= {});

  /** Base64 of 256 RGB triples -> Uint8Array. */
  pneumocam.colours = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

  /** For each of `count` pixels along a side of the film: the two map cells it lies between, and the second's weight. */
  function samples(count, side, from, to, cells) {
    const result = [];
    for (let i = 0; i < count; i++) {
      const place = (((i + 0.5) * side) / count - from) / (to - from);
      const cell = Math.min(Math.max(place * cells - 0.5, 0), cells - 1);
      const first = Math.min(Math.floor(cell), cells - 1);
      result.push({
        seen: place >= 0 && place <= 1,
        first,
        second: Math.min(first + 1, cells - 1),
        weight: cell - first,
      });
    }
    return result;
  }

  /** A map, bilinearly enlarged to `width` x `height` pixels: 1 at its peak, 0 where the network saw nothing. */
  function heat(map, box, size, width, height) {
    const result = new Float32Array(width * height);
    if (!map) return result;
    const columns = samples(width, size[0], box[0], box[2], map[0].length);
    const rows = samples(height, size[1], box[1], box[3], map.length);
    for (let y = 0; y < height; y++) {
      const { seen, first, second, weight } = rows[y];
      if (!seen) continue;
      const across = map[first].map((value, i) => value * (1 - weight) + map[second][i] * weight);
      for (let x = 0; x < width; x++) {
        const column = columns[x];
        if (column.seen)
          result[y * width + x] = across[column.first] * (1 - column.weight) + across[column.second] * column.weight;
      }
    }
    return result;
  }

  /** As pneumocam.overlay.draw_overlay: colour as opaque as the map is strong. */
  function blend(grey, heat, colours, opacity, target) {
    const data = target.data;
    for (let i = 0; i < grey.length; i++) {
      const share = opacity * heat[i];
      const colour = 3 * Math.min(Math.floor(heat[i] * 256), 255);
      for (let channel = 0; channel < 3; channel++)
        data[4 * i + channel] = grey[i] * (1 - share) + colours[colour + channel] * share;
      data[4 * i + 3] = 255;
    }
  }

  /** A film from its data: URI, and what can be laid over it. */
  class Film {
    static async load(uri, row) {
      const image = new Image();
      image.src = uri;
      await image.decode();
      return new Film(image, row);
    }

    constructor(image, { maps, box, size, image: facts }) {
      this.maps = maps ?? {};
      this.box = box;
      this.size = size ?? [facts.width, facts.height];
      this.width = image.naturalWidth;
      this.height = image.naturalHeight;
      this.plain = this.#canvas();
      const context = this.plain.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, this.width, this.height).data;
      this.grey = Uint8Array.from({ length: this.width * this.height }, (_, i) => pixels[4 * i]);
      this.mapped = this.#canvas();
      this.heats = new Map();
    }

    #canvas() {
      return Object.assign(document.createElement("canvas"), { width: this.width, height: this.height });
    }

    /** Draw `mapped` anew. */
    lay(target, colours, opacity) {
      if (!this.heats.has(target))
        this.heats.set(target, heat(this.maps[target], this.box, this.size, this.width, this.height));
      const context = this.mapped.getContext("2d");
      const picture = context.createImageData(this.width, this.height);
      blend(this.grey, this.heats.get(target), colours, opacity, picture);
      context.putImageData(picture, 0, 0);
      return this.mapped;
    }
  }

  /** A film on a canvas that fills `element`; `changed` is called when zoom or line were moved on the canvas itself. */
  class Stage {
    constructor(element, changed) {
      this.element = element;
      this.changed = changed;
      this.canvas = element.querySelector("canvas");
      this.film = null;
      this.split = 0.5;
      this.zoom = 1;
      this.centre = [0.5, 0.5]; // of the film, in the middle of the stage
      this.pointers = new Map();
      this.#listen();
      new ResizeObserver(() => this.#resize()).observe(element);
    }

    show(film) {
      this.film = film;
      this.element.style.setProperty("--aspect", film.width / film.height);
      this.#resize();
      this.whole();
    }

    set line(share) {
      this.split = Math.min(Math.max(share, 0), 1);
      this.draw();
    }

    whole() {
      this.zoom = 1;
      this.centre = [0.5, 0.5];
      this.#moved();
    }

    /** Zoom so that the film's point under `at` (CSS pixels in the stage) stays there. */
    zoomBy(factor, at = [this.element.clientWidth / 2, this.element.clientHeight / 2]) {
      if (!this.film) return;
      const zoom = Math.min(Math.max(this.zoom * factor, 1), MOST_ZOOM);
      const middle = [this.element.clientWidth / 2, this.element.clientHeight / 2];
      const fit = this.#fit();
      this.centre = this.centre.map(
        (centre, i) => centre + ((at[i] - middle[i]) / fit[i]) * (1 / this.zoom - 1 / zoom),
      );
      this.zoom = zoom;
      this.#moved();
    }

    panBy(x, y) {
      if (!this.film) return;
      const fit = this.#fit();
      this.centre = [this.centre[0] - x / (fit[0] * this.zoom), this.centre[1] - y / (fit[1] * this.zoom)];
      this.#moved();
    }

    /** The film's width and height on the stage at zoom 1, in CSS pixels. */
    #fit() {
      const { clientWidth, clientHeight } = this.element;
      const scale = Math.min(clientWidth / this.film.width, clientHeight / this.film.height);
      return [this.film.width * scale, this.film.height * scale];
    }

    #moved() {
      const room = 0.5 / this.zoom;
      this.centre = this.centre.map((centre) => Math.min(Math.max(centre, room), 1 - room));
      this.element.classList.toggle("zoomed", this.zoom > 1);
      this.draw();
      this.changed?.();
    }

    #resize() {
      const scale = Math.min(window.devicePixelRatio || 1, 2);
      const [width, height] = [this.element.clientWidth, this.element.clientHeight].map((x) => Math.round(x * scale));
      if (this.canvas.width !== width || this.canvas.height !== height)
        Object.assign(this.canvas, { width, height });
      this.draw();
    }

    /** Where the line stands, in CSS pixels from the stage's left edge: it moves over the width of the whole film. */
    #lineAt() {
      const width = this.#fit()[0];
      return (this.element.clientWidth - width) / 2 + this.split * width;
    }

    draw() {
      const { canvas, film } = this;
      if (!film || !canvas.width) return;
      const context = canvas.getContext("2d");
      const scale = canvas.width / this.element.clientWidth;
      const [width, height] = this.#fit().map((side) => side * this.zoom * scale);
      const left = canvas.width / 2 - this.centre[0] * width;
      const top = canvas.height / 2 - this.centre[1] * height;
      const line = this.#lineAt();
      context.imageSmoothingQuality = "high";
      context.clearRect(0, 0, canvas.width, canvas.height);
      for (const [picture, from, to] of [
        [film.plain, 0, line * scale],
        [film.mapped, line * scale, canvas.width],
      ]) {
        context.save();
        context.beginPath();
        context.rect(from, 0, to - from, canvas.height);
        context.clip();
        context.drawImage(picture, left, top, width, height);
        context.restore();
      }
      this.element.style.setProperty("--line", `${line}px`);
      Object.assign(this.element.dataset, { zoom: this.zoom.toFixed(2), box: [left, top, width, height].join(" ") });
    }

    #listen() {
      const { element } = this;
      const at = (event) => {
        const box = element.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
      };
      element.addEventListener("pointerdown", (event) => {
        if (!this.film || event.button) return;
        element.setPointerCapture(event.pointerId);
        this.pointers.set(event.pointerId, at(event));
        this.holdsLine = this.zoom === 1 || Math.abs(at(event)[0] - this.#lineAt()) < GRIP;
        if (this.zoom === 1 && this.pointers.size === 1 && event.pointerType !== "touch") this.#drag(at(event));
      });
      element.addEventListener("pointermove", (event) => {
        const before = this.pointers.get(event.pointerId);
        if (!before) return;
        const now = at(event);
        if (this.pointers.size === 2) this.#pinch(event.pointerId, now);
        else if (this.holdsLine) this.#drag(now);
        else this.panBy(now[0] - before[0], now[1] - before[1]);
        this.pointers.set(event.pointerId, now);
      });
      for (const end of ["pointerup", "pointercancel"])
        element.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
      element.addEventListener(
        "wheel",
        (event) => {
          // The page's own scrolling must not get caught here: only after a click, or with Ctrl as a trackpad's pinch.
          if (!event.ctrlKey && document.activeElement !== element) return;
          event.preventDefault();
          this.zoomBy(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), at(event));
        },
        { passive: false },
      );
      element.addEventListener("keydown", (event) => {
        const actions = {
          "+": () => this.zoomBy(ZOOM_STEP),
          "=": () => this.zoomBy(ZOOM_STEP),
          "-": () => this.zoomBy(1 / ZOOM_STEP),
          0: () => this.whole(),
          ArrowLeft: () => this.panBy(PAN_STEP, 0),
          ArrowRight: () => this.panBy(-PAN_STEP, 0),
          ArrowUp: () => this.panBy(0, PAN_STEP),
          ArrowDown: () => this.panBy(0, -PAN_STEP),
        };
        const action = actions[event.key];
        const scrolls = this.zoom === 1 && event.key.startsWith("Arrow");
        if (!action || scrolls || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        action();
      });
    }

    #drag([x]) {
      const width = this.#fit()[0];
      this.line = (x - (this.element.clientWidth - width) / 2) / width;
      this.changed?.();
    }

    #pinch(id, now) {
      const [other, fixed] = [...this.pointers].find(([key]) => key !== id);
      const before = this.pointers.get(id);
      if (other === undefined) return;
      const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
      const factor = apart(now, fixed) / Math.max(apart(before, fixed), 1);
      this.zoomBy(factor, [(now[0] + fixed[0]) / 2, (now[1] + fixed[1]) / 2]);
      this.panBy((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    }
  }

  Object.assign(pneumocam, { Film, Stage, ZOOM_STEP });
})();
