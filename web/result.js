// @ts-check
/** One image in full: the prediction with its own number, the bars, the pictures, the settings, the downloads. */

import { Adjust } from "./adjust.js";
import { button, make, save, wrapping } from "./dom.js";
import { named, percent, probability, rounded, text } from "./i18n.js";
import { PictureView } from "./picture.js";
import { at, probabilityOf, verdict } from "./prediction.js";
import { problem, reasonTitle, remedy } from "./problem.js";
import { onSettings, settings } from "./settings.js";
import { stepLine } from "./steps.js";

/** @typedef {import("./prediction.js").Row} Row */
/** @typedef {import("./prediction.js").Info} Info */
/** @typedef {import("./prediction.js").Prediction} Prediction */

/** So that nothing hangs on colour alone. */
export const MARKS = { pneumonia: "▲", normal: "●", uncertain: "◐", rejected: "✕" };

/**
 * The prediction in a few words, without numbers.
 * @param {Prediction} prediction
 */
export function headline(prediction) {
  const { status, label } = prediction;
  if (status === "rejected") return text("headline_rejected");
  const name = named("label", label ?? "");
  return status === "uncertain" ? text("headline_uncertain", { label: name }) : name;
}

/**
 * @typedef {object} Actions what a result asks of the page
 * @property {(by: number | "first" | "last") => void} go to another image
 * @property {() => void} back to the table
 * @property {() => void} force the prediction that was refused
 * @property {((format: "pdf" | "png", prediction: Prediction, target: string) => Promise<void>) | undefined} report
 */

export class Result {
  /** @type {Row | null} */
  row = null;
  /** @type {Prediction | null} */
  prediction = null;

  /**
   * @param {HTMLElement} element
   * @param {Info} info
   * @param {Actions} actions
   */
  constructor(element, info, actions) {
    this.element = element;
    this.info = info;
    this.actions = actions;
    this.picture = new PictureView(info, actions.go);
    this.adjust = new Adjust(info, (target) => {
      this.picture.target = target;
      this.#fill();
    });
    this.nav = make("nav.steps", { "aria-label": text("images"), hidden: true });
    this.heading = make("h2", { id: "answer-title", tabindex: "-1" });
    this.answer = make("div.answer");
    this.bars = make("dl.bars", { "aria-label": text("probabilities") });
    this.scale = make("div.scale");
    this.downloads = make("div.choices");
    this.adjust.element.hidden = true;
    this.adjusting = button(text("adjust"), () => this.#toggle(), {
      "aria-expanded": "false",
      "aria-controls": "adjust",
    });
    this.beside = make("div.beside", {}, this.scale, make("div.choices", {}, this.adjusting, this.downloads));
    this.details = make("div.details");
    element.replaceChildren(
      this.nav,
      make(
        "div.card",
        {},
        this.answer,
        this.bars,
        this.picture.section,
        this.beside,
        this.adjust.element,
      ),
      this.details,
    );
    element.addEventListener("keydown", (event) => this.picture.key(event));
    onSettings(() => this.#fill());
  }

  /**
   * Show an image.
   * @param {Row} row
   * @param {{example: boolean, position: number, total: number}} place among the images of the session
   */
  async show(row, { example, position, total }) {
    this.row = row;
    this.example = example;
    this.prediction = at(row, this.info, settings);
    this.element.hidden = false;
    this.picture.target = this.prediction.label ?? "";
    this.step(position, total);
    this.#fill();
    await this.picture.show(row, this.prediction);
  }

  /** Open or close the settings. */
  #toggle() {
    this.adjust.element.toggleAttribute("hidden");
    this.adjusting.setAttribute("aria-expanded", String(!this.adjust.element.hidden));
  }

  /** What a screen reader is told. */
  spoken() {
    const { prediction, row } = this;
    if (!prediction || !row) return "";
    if (prediction.status === "rejected" && prediction.reason)
      return `${row.name}: ${headline(prediction)}. ${reasonTitle(prediction.reason)}`;
    const any = `${text("any_pneumonia")} ${probability(prediction.p_pneumonia ?? 0)}`;
    return `${row.name}: ${headline(prediction)} ${rounded(this.#own(prediction))}. ${any}.`;
  }

  /** The probability of the label itself. @param {Prediction} prediction */
  #own(prediction) {
    return probabilityOf(prediction, prediction.label ?? "");
  }

  /** @param {number} position @param {number} total */
  step(position, total) {
    this.nav.hidden = total < 2;
    const { go, back } = this.actions;
    this.nav.replaceChildren(
      button(`← ${text("back")}`, back, { class: "back" }),
      make("span.space"),
      button("‹", () => go(-1), {
        "aria-label": text("previous"),
        title: `${text("previous")} (PageUp)`,
        disabled: position === 0,
      }),
      make("span", {}, text("position", { position: position + 1, total })),
      button("›", () => go(1), {
        "aria-label": text("next"),
        title: `${text("next")} (PageDown)`,
        disabled: position === total - 1,
      }),
    );
  }

  /** Everything but the picture itself, anew. */
  #fill() {
    const { row, info } = this;
    if (!row) return;
    const before = this.prediction;
    const now = (this.prediction = at(row, info, settings));
    if (before && before !== now && this.picture.target === before.label) this.picture.target = now.label ?? "";
    const rejected = now.status === "rejected";
    this.answer.dataset.verdict = verdict(now);
    this.answer.replaceChildren(this.#head(row, now));
    for (const part of [this.bars, this.beside]) part.hidden = rejected;
    this.adjust.element.hidden = rejected || this.adjusting.getAttribute("aria-expanded") !== "true";
    this.#reports();
    if (!rejected) {
      this.bars.replaceChildren(...info.labels.map((name) => this.#bar(name, now)));
      this.scale.replaceChildren(...this.#scale(now));
      this.adjust.update(row, now, this.picture.target);
    }
    this.picture.update(now);
    this.#detail(row, now);
  }

  /** @param {Row} row @param {Prediction} now */
  #head(row, now) {
    const mark = make("span.mark", { "aria-hidden": "true" }, MARKS[verdict(now)]);
    const truth = row.truth && text("truth", { label: named("label", row.truth) });
    const eyebrow = make(
      "p.eyebrow",
      {},
      this.example ? make("span.tag", {}, text("example_tag")) : null,
      make("span.name", {}, ...wrapping(row.name)),
      truth ? make("span", {}, truth) : null,
    );
    if (now.status === "rejected") {
      this.heading.replaceChildren(mark, headline(now));
      const reason = now.reason ?? { code: "other", message: "" };
      const force = row.force ? [button(text("show_anyway"), this.actions.force)] : [];
      return make("div", {}, eyebrow, this.heading, problem(reasonTitle(reason), [remedy(reason)], force));
    }
    this.heading.replaceChildren(mark, headline(now), " ", make("b", {}, rounded(this.#own(now))));
    const binary = Object.keys(now.probabilities).length < 3;
    return make(
      "div.pair",
      {},
      make("div", {}, eyebrow, this.heading, make("p", {}, this.#sentence(now))),
      binary
        ? null
        : make("p.any", {}, make("span", {}, text("any_pneumonia")), make("b", {}, probability(now.p_pneumonia ?? 0))),
    );
  }

  /** @param {Prediction} now */
  #sentence(now) {
    if (now.status !== "uncertain") return text("not_a_finding");
    const { reason } = now;
    if (reason && reason.code !== "near_threshold")
      return make("span.doubt", {}, `${reasonTitle(reason)}. `, remedy(reason));
    // The range itself is told under the scale.
    const { uncertain_error: wrong } = this.info.points[now.operating_point.name];
    return wrong == null ? text("not_a_finding") : text("uncertain_wrong", { wrong: Math.round(100 * wrong) });
  }

  /** @param {string} name @param {Prediction} now */
  #bar(name, now) {
    const p = probabilityOf(now, name);
    const fill = make("span");
    fill.style.width = `${100 * p}%`;
    return make(
      `div${name === now.label ? ".chosen" : ""}`,
      {},
      make("dt", {}, named("label", name)),
      make("dd", {}, make("span.track", { "aria-hidden": "true" }, fill), make("b", {}, probability(p))),
    );
  }

  /** Where P(pneumonia) lies, the threshold, and what counts as uncertain. @param {Prediction} now */
  #scale(now) {
    const { threshold, band } = this.info.points[now.operating_point.name];
    const p = now.p_pneumonia ?? 0;
    const values = {
      ...{ p: probability(p), threshold: percent(threshold), low: percent(band[0]), high: percent(band[1]) },
      point: named("point", now.operating_point.name),
    };
    const [unsure, line, dot] = [make("span.unsure"), make("span.threshold"), make("span.dot")];
    unsure.style.left = `${100 * band[0]}%`;
    unsure.style.width = `${100 * (band[1] - band[0])}%`;
    line.style.left = `${100 * threshold}%`;
    dot.style.left = `${100 * p}%`;
    const prevalence =
      settings.prevalence === null ? "" : ` ${text("prevalence_is", { p: percent(settings.prevalence) })}`;
    return [
      make("p", {}, make("b", {}, text("any_pneumonia")), " ", text("threshold_is", values)),
      make("div.axis", { role: "img", "aria-label": text("scale", values) }, unsure, line, dot),
      make("p.quiet", {}, text("scale_key", values), prevalence),
    ];
  }

  #reports() {
    const { report } = this.actions;
    if (this.downloads.childElementCount || !report) return;
    const ask = (/** @type {"pdf" | "png"} */ format) =>
      button(text(`report_${format}`), async (event) => {
        const pressed = /** @type {HTMLButtonElement} */ (event.currentTarget);
        if (!this.prediction || pressed.ariaDisabled === "true") return;
        // Unlike `disabled`, it keeps the focus.
        for (const one of this.downloads.children) one.ariaDisabled = "true";
        pressed.textContent = text("making");
        await report(format, this.prediction, this.picture.target);
        for (const one of this.downloads.children) one.ariaDisabled = null;
        pressed.textContent = text(`report_${format}`);
      });
    this.downloads.replaceChildren(ask("pdf"), ask("png"));
  }

  /** @param {Row} row @param {Prediction} now */
  #detail(row, now) {
    const blocks = () => /** @type {HTMLDetailsElement[]} */ ([...this.details.querySelectorAll("details")]);
    const open = blocks().map((x) => x.open);
    const json = JSON.stringify(now, null, 2);
    const pair = (/** @type {string} */ term, /** @type {(Node | string)[]} */ ...value) =>
      make("div", {}, make("dt", {}, term), make("dd", {}, ...value));
    const steps = row.image?.steps ?? [];
    const image = row.image && [
      pair(text("image_format"), row.image.format),
      pair(text("image_size"), text("pixels", { width: row.image.width, height: row.image.height })),
      pair(text("image_steps"), ...(steps.length ? stepLine(steps) : [text("image_untouched")])),
    ];
    this.details.replaceChildren(
      ...(image
        ? [
            make(
              "details",
              {},
              make("summary", {}, text("image")),
              make("dl", {}, ...image),
              make("p.quiet", {}, text("image_private")),
            ),
          ]
        : []),
      make(
        "details",
        {},
        make("summary", {}, text("json")),
        make("div.choices", {}, this.#copy(json), this.#keep(json, row.name)),
        make("pre", { tabindex: "0", lang: "en", "aria-label": text("json") }, json),
      ),
    );
    blocks().forEach((x, i) => (x.open = Boolean(open[i])));
  }

  /** @param {string} json */
  #copy(json) {
    return button(text("json_copy"), async (event) => {
      const pressed = /** @type {HTMLButtonElement} */ (event.currentTarget);
      if (navigator.clipboard) await navigator.clipboard.writeText(json);
      else {
        // There is no clipboard on plain http.
        getSelection()?.selectAllChildren(/** @type {Node} */ (this.details.querySelector("pre")));
        document.execCommand("copy");
      }
      pressed.textContent = text("json_copied");
    });
  }

  /** @param {string} json @param {string} name */
  #keep(json, name) {
    const stem = name.replace(/\.[^.]*$/, "") || "prediction";
    return button(text("json_save"), () => save(new Blob([json], { type: "application/json" }), `${stem}.json`));
  }
}
