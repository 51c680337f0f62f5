// @ts-check
/** Several images: a table that fills while they are classified, to sort, to open and to download. */

import { button, make, wrapping } from "./dom.js";
import { language, named, probability, text } from "./i18n.js";
import { colourTable, WHOLE_WINDOW } from "./overlay.js";
import { at, probabilityOf, verdict } from "./prediction.js";
import { problem, reasonTitle, remedy } from "./problem.js";
import { headline, MARKS } from "./result.js";
import { choose, onSettings, settings } from "./settings.js";
import { Picture } from "./stage.js";

/** @typedef {import("./prediction.js").Row} Row */
/** @typedef {import("./prediction.js").Info} Info */
/** @typedef {import("./prediction.js").Prediction} Prediction */

/**
 * @typedef {object} Session the images that were given together
 * @property {import("./engine.server.js").Source[]} sources
 * @property {(Row | null)[]} rows null: not yet classified
 * @property {number} leftOut how many more files were given than are taken
 * @property {boolean} finished
 */

const THUMBNAIL = 64; // CSS pixels at most
const ORDER = { pneumonia: 0, uncertain: 1, normal: 2, rejected: 3 };

export class Compare {
  /** @type {Session | null} */
  session = null;
  /** @type {{column: string, down: boolean} | null} */
  sort = null;
  /** @type {Map<Row, Picture>} */
  #pictures = new Map();

  /**
   * @param {HTMLElement} element
   * @param {Info} info
   * @param {{open: (index: number) => void, clear: () => void, csv: () => void, zip?: () => Promise<void>}} actions
   */
  constructor(element, info, actions) {
    this.element = element;
    this.info = info;
    this.actions = actions;
    this.colours = Object.fromEntries(Object.entries(info.colours).map(([name, x]) => [name, colourTable(x)]));
    this.note = make("p");
    this.counts = make("p.counts");
    this.warning = make("div");
    this.bar = make("progress", { "aria-label": text("progress") });
    this.body = make("tbody", { role: "rowgroup" }); // roles, since a phone shows rows as cards
    this.headings = this.#columns().map((column) => this.#heading(column));
    const zip = async (/** @type {MouseEvent} */ event) => {
      const pressed = /** @type {HTMLButtonElement} */ (event.currentTarget);
      pressed.disabled = true;
      pressed.textContent = text("making");
      await actions.zip?.();
      pressed.textContent = text("save_zip");
      pressed.disabled = false;
    };
    this.takes = [button(text("save_csv"), actions.csv)];
    if (actions.zip) this.takes.push(button(text("save_zip"), zip));
    this.points = this.#points();
    element.replaceChildren(
      make(
        "div.card.compare",
        {},
        make(
          "div.pair",
          {},
          make("div", {}, make("h2", { id: "compare-title", tabindex: "-1" }, text("compare")), this.note),
          this.counts,
        ),
        this.bar,
        this.warning,
        // Above the table, which grows: below it they would move away under the pointer.
        make("div.choices", {}, ...this.takes, button(text("clear"), actions.clear), make("span.space"), this.points),
        make(
          "div.wide",
          { role: "region", tabindex: "0", "aria-labelledby": "compare-title" },
          make(
            "table",
            { role: "table" },
            make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...this.headings)),
            this.body,
          ),
        ),
      ),
    );
    onSettings(() => this.fill());
  }

  /** @param {Session} session */
  show(session) {
    if (this.session !== session) [this.sort, this.#pictures] = [null, new Map()];
    this.session = session;
    this.fill();
  }

  #points() {
    const names = Object.keys(this.info.points);
    if (names.length < 2) return null;
    const select = make("select", {}, ...names.map((name) => make("option", { value: name }, named("point", name))));
    select.addEventListener("change", () => choose({ point: select.value }));
    return make("label.inline", {}, make("span", {}, text("points")), select);
  }

  #columns() {
    const share = (/** @type {string} */ name) => ({ key: `p_${name}`, name: named("short", name), sorts: true });
    return [
      { key: "picture", name: text("column_picture"), sorts: false },
      { key: "name", name: text("column_name"), sorts: true },
      { key: "answer", name: text("column_answer"), sorts: true },
      share("PNEUMONIA"),
      ...this.info.labels.filter((name) => name !== "PNEUMONIA").map(share),
    ];
  }

  /** @param {{key: string, name: string, sorts: boolean}} column */
  #heading({ key, name, sorts }) {
    const more = key.startsWith("p_") && key !== "p_PNEUMONIA" ? "more" : "";
    const content = sorts ? button(name, () => this.#sortBy(key)) : make("span", {}, name);
    const heading = make("th", { scope: "col", role: "columnheader", class: more }, content);
    heading.dataset.key = key;
    return heading;
  }

  /** @param {string} column */
  #sortBy(column) {
    const down = this.sort?.column === column ? !this.sort.down : column.startsWith("p_");
    this.sort = { column, down };
    this.fill();
  }

  /** What a row is sorted by; null goes to the end either way. @param {Row | null} row @param {string} column */
  #key(row, column) {
    if (!row) return null;
    if (column === "name") return row.name;
    const prediction = at(row, this.info, settings);
    if (prediction.status === "rejected") return null;
    if (column === "answer") return `${ORDER[verdict(prediction)]} ${headline(prediction)}`;
    return probabilityOf(prediction, column.slice(2));
  }

  /** The order in which the images are shown. @returns {number[]} */
  order() {
    const { rows = [] } = this.session ?? {};
    const indices = rows.map((_, i) => i);
    if (!this.sort) return indices;
    const { column, down } = this.sort;
    const { compare } = new Intl.Collator(language(), { numeric: true });
    return indices.sort((a, b) => {
      const [x, y] = [this.#key(rows[a], column), this.#key(rows[b], column)];
      if (x === null || y === null) return Number(x === null) - Number(y === null);
      const order = typeof x === "string" ? compare(x, String(y)) : x - Number(y);
      return order * (down ? -1 : 1);
    });
  }

  fill() {
    const { session } = this;
    if (!session) return;
    const active = /** @type {HTMLElement | null} */ (document.activeElement);
    const focused = this.body.contains(active) ? active?.dataset.index : null;
    for (const heading of this.headings) {
      const sorted = this.sort?.column === heading.dataset.key;
      if (sorted) heading.setAttribute("aria-sort", this.sort?.down ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
    this.body.replaceChildren(...this.order().map((index) => this.#line(session, index)));
    if (focused != null) this.focus(Number(focused));
    const select = this.points?.querySelector("select");
    if (select) select.value = settings.point ?? this.info.point ?? session.rows.find(Boolean)?.point ?? select.value;
    this.#summarise(session);
  }

  /** @param {number} index of the row whose button gets the focus */
  focus(index) {
    const found = /** @type {HTMLElement | null} */ (this.body.querySelector(`button[data-index="${index}"]`));
    found?.focus();
    found?.scrollIntoView({ block: "nearest" });
  }

  /** @param {Session} session */
  #summarise(session) {
    const { rows, leftOut, finished } = session;
    const done = rows.filter((row) => row !== null);
    const predictions = done.map((row) => at(row, this.info, settings));
    const classified = predictions.filter(({ status }) => status !== "rejected").length;
    const values = { done: done.length, classified, total: rows.length };
    this.note.textContent = text(finished ? "finished" : "reading_many", values);
    this.counts.replaceChildren(
      ...Object.keys(ORDER).flatMap((name) => {
        const count = predictions.filter((one) => verdict(one) === name).length;
        return count
          ? [this.#chip(/** @type {keyof typeof MARKS} */ (name), `${count} ${text(`verdict_${name}`)}`)]
          : [];
      }),
    );
    Object.assign(this.bar, { max: rows.length, value: done.length, hidden: finished });
    const most = { most: this.info.limits.images };
    this.warning.replaceChildren(
      ...(leftOut ? [problem(text("left_out", most), [text("left_out_next")], [], { role: "alert" })] : []),
    );
    for (const take of this.takes) take.disabled = !finished;
  }

  /** @param {keyof typeof MARKS} name @param {string} label */
  #chip(name, label) {
    return make("span.chip", { "data-verdict": name }, make("span", { "aria-hidden": "true" }, MARKS[name]), label);
  }

  /** @param {Session} session @param {number} index */
  #line({ rows, sources }, index) {
    const row = rows[index];
    const name = wrapping(sources[index].name);
    const others = this.info.labels.filter((label) => label !== "PNEUMONIA");
    const td = (/** @type {string} */ what, /** @type {any[]} */ ...children) =>
      make(`td${what}`, { role: "cell" }, ...children);
    if (!row) {
      const waiting = make(
        "td.said",
        { role: "cell", colspan: 2 + others.length },
        make("span.quiet", {}, text("waiting")),
      );
      return make(
        "tr",
        { role: "row", "data-verdict": "waiting" },
        td(".pictures", "–"),
        td(".file", ...name),
        waiting,
      );
    }
    const prediction = at(row, this.info, settings);
    const kind = verdict(prediction);
    const open = { "data-index": index, "aria-label": text("open", { name: row.name }), class: "name" };
    const link = button(null, () => this.actions.open(index), open);
    link.append(...name);
    const chip = this.#chip(kind, kind === "rejected" ? text("verdict_rejected") : headline(prediction));
    const reason = prediction.reason;
    const said =
      kind === "rejected" && reason
        ? [chip, make("b", {}, reasonTitle(reason)), make("small", {}, remedy(reason))]
        : [chip];
    const numbers = ["PNEUMONIA", ...others].map((label, i) =>
      td(
        i ? ".number.more" : ".number",
        ...(kind === "rejected" ? [] : [probability(probabilityOf(prediction, label))]),
      ),
    );
    return make(
      "tr",
      { role: "row", "data-verdict": kind },
      td(".pictures", ...this.#thumbnails(row, prediction)),
      td(".file", link),
      make("td.said", { role: "cell", colspan: kind === "rejected" ? 2 + others.length : null }, ...said),
      ...(kind === "rejected" ? [] : numbers),
    );
  }

  /** Image and overlay, small. @param {Row} row @param {Prediction} prediction */
  #thumbnails(row, prediction) {
    if (!row.thumbnail) return ["–"];
    const pair = [make("canvas", { "aria-hidden": "true" }), make("canvas", { "aria-hidden": "true" })];
    const draw = (/** @type {Picture} */ picture) => {
      picture.render(
        WHOLE_WINDOW,
        row.maps ? prediction.label : null,
        this.colours[settings.colours],
        settings.opacity,
      );
      [picture.plain, row.maps ? picture.mapped : picture.plain].forEach((source, i) => {
        const { width, height } = picture;
        Object.assign(pair[i], { width, height });
        pair[i].style.width = `${(THUMBNAIL * width) / Math.max(width, height)}px`;
        pair[i].getContext("2d").drawImage(source, 0, 0);
      });
    };
    const known = this.#pictures.get(row);
    if (known) draw(known);
    else
      Picture.load({ ...row, picture: undefined }).then((picture) => {
        this.#pictures.set(row, picture);
        draw(picture);
      });
    return pair;
  }
}
