// @ts-check
/** The panel behind "Adjust": threshold, prevalence, class to explain, colours, opacity. */

import { make } from "./dom.js";
import { named, percent, probability, text } from "./i18n.js";
import { probabilityOf } from "./prediction.js";
import { choose, settings } from "./settings.js";

/** @typedef {import("./prediction.js").Info} Info */
/** @typedef {import("./prediction.js").Row} Row */
/** @typedef {import("./prediction.js").Prediction} Prediction */

const LEAST = 0.01; // prevalence on the slider, from here to 1 - LEAST

export class Adjust {
  /**
   * @param {Info} info
   * @param {(target: string) => void} explain is called when another class is to be explained
   */
  constructor(info, explain) {
    this.info = info;
    this.points = Object.keys(info.points).length > 1 ? this.#points() : null;
    this.meaning = make("p.meaning");
    this.measured = make("p.meaning.quiet");
    this.prevalence = info.prevalence == null ? null : this.#prevalence(info.prevalence);
    this.targets = make("select", { onchange: () => explain(this.targets.value) });
    this.colours = make("select", { onchange: () => choose({ colours: this.colours.value }) }, ...this.#colours());
    this.opacity = make("input", { type: "range", min: 0, max: 100, value: Math.round(100 * settings.opacity) });
    this.opacity.addEventListener("input", () => choose({ opacity: Number(this.opacity.value) / 100 }));
    const field = (/** @type {string} */ key, /** @type {HTMLElement} */ control) =>
      make("label.field", {}, make("span", {}, text(key)), control);
    this.element = make(
      "div.panel",
      { id: "adjust", role: "group", "aria-label": text("adjust") },
      make("div.part", {}, this.points, this.meaning, this.measured, this.prevalence),
      make(
        "div.part",
        {},
        make("div", {}, field("target", this.targets), make("p.quiet", {}, text("legend_peak"))),
        field("colours", this.colours),
        field("opacity", this.opacity),
      ),
    );
  }

  #points() {
    const option = (/** @type {string} */ name) =>
      make(
        "label.option",
        {},
        make("input", { type: "radio", name: "point", value: name, onchange: () => choose({ point: name }) }),
        make("b", {}, named("point", name)),
        make(
          "span",
          {},
          [text("from", { threshold: percent(this.info.points[name].threshold) }), named("hint", name, "")]
            .filter(Boolean)
            .join(", "),
        ),
      );
    return make("fieldset", {}, make("legend", {}, text("points")), ...Object.keys(this.info.points).map(option));
  }

  /** @param {number} usual */
  #prevalence(usual) {
    const value = make("output");
    const input = make("input", {
      ...{ type: "range", min: 100 * LEAST, max: 100 * (1 - LEAST), step: 1, value: Math.round(100 * usual) },
      "aria-label": text("prevalence"),
      "aria-describedby": "prevalence-hint",
    });
    const write = () => {
      reset.hidden = settings.prevalence === null;
      value.textContent = percent(Number(input.value) / 100);
      input.setAttribute("aria-valuetext", value.textContent);
    };
    input.addEventListener("input", () => {
      choose({ prevalence: Number(input.value) / 100 });
      write();
    });
    const reset = make("button", { type: "button", class: "plain" }, text("prevalence_reset", { p: percent(usual) }));
    reset.addEventListener("click", () => {
      input.value = String(Math.round(100 * usual));
      choose({ prevalence: null });
      write();
    });
    write();
    return make(
      "div.field",
      {},
      make("label", {}, make("span", {}, text("prevalence"), " ", value), input),
      make("p.quiet", { id: "prevalence-hint" }, text("prevalence_hint"), " ", reset),
    );
  }

  #colours() {
    const group = (/** @type {string} */ key, /** @type {boolean} */ rainbow) =>
      make(
        "optgroup",
        { label: text(key) },
        ...Object.keys(this.info.colours)
          .filter((name) => (name === "turbo") === rainbow)
          .map((name) => make("option", { value: name }, name[0].toUpperCase() + name.slice(1))),
      );
    return [group("colours_safe", false), group("colours_rainbow", true)];
  }

  /**
   * @param {Row} row
   * @param {Prediction} prediction
   * @param {string} target
   */
  update(row, prediction, target) {
    if (!row.maps) return;
    const { name } = prediction.operating_point;
    for (const input of this.points?.querySelectorAll("input") ?? []) input.checked = input.value === name;
    const { measured } = this.info.points[name];
    const { images, patients } = this.info;
    this.meaning.textContent = measured
      ? text("meaning", {
          found: Math.round(100 * measured.sensitivity),
          alarms: Math.round(100 * (1 - measured.specificity)),
        })
      : "";
    this.measured.textContent = measured && images && patients ? text("measured", { images, patients }) : "";
    const shown = (/** @type {string} */ x) => `${named("label", x)}, ${probability(probabilityOf(prediction, x))}`;
    this.targets.replaceChildren(...this.info.targets.map((x) => make("option", { value: x }, shown(x))));
    this.targets.value = target;
    this.colours.value = settings.colours;
  }
}
