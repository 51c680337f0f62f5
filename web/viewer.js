/* The result of one film: the answer, the picture, the details, the files to take away. */
(() => {
  const pneumocam = (window.pneumocam ??= {});
  const { make, text, named, percent, probability, settings } = pneumocam;

  const label = (name) => named("label", name);

  /** Two lines of a reason: what it is and what to do. Python's own message stands in the JSON, more exact, in English. */
  function reasonLines(reason) {
    const remedy = named("remedy", reason.code, "");
    return [
      make("strong", {}, named("reason", reason.code, text("reason_other"))),
      remedy ? make("small", {}, remedy) : make("small", { lang: "en" }, reason.message),
    ];
  }

  function headline(answer) {
    if (answer.status !== "ok") return text(`answer_${answer.status}`);
    return named("answer", answer.label);
  }

  const shapes = { ok: "●", uncertain: "◐", rejected: "○" }; // so that nothing hangs on colour

  class Viewer {
    constructor(element, facts, send) {
      Object.assign(this, { element, facts, send, row: null, film: null, busy: null, target: null });
      this.colours = Object.fromEntries(
        Object.entries(facts.colours).map(([name, base64]) => [name, pneumocam.colours(base64)]),
      );
      // Announced from a place that stays, whatever is drawn anew beside it.
      this.status = make("p.unseen", { role: "status" });
      this.body = make("div.viewer");
      element.replaceChildren(this.status, this.body);
      pneumocam.onLanguage(() => this.build());
      pneumocam.onSettings.push((changes) => this.settingsChanged(changes));
      this.build();
    }

    /** `value`: {row, index, film, truth, opened} as Python made it, or null. */
    async show(value) {
      const { cleared, open } = pneumocam.compared ?? {};
      if (value && cleared) return; // of films that are still being read
      if (value?.opened && value.index !== open) return; // another row was chosen in the meantime
      if (value) pneumocam.compared.kept = this.kept = null;
      this.busy = null;
      this.row = value?.row ?? null;
      this.index = value?.index ?? 0;
      this.truth = value?.truth;
      this.target = null;
      const turn = (this.turn = {});
      const film = value?.film ? await pneumocam.Film.load(value.film, value.row) : null;
      if (this.turn !== turn) return; // another film has come in the meantime
      this.film = film;
      this.build();
      if (!this.row) return;
      this.status.textContent = `${this.row.name}: ${this.spoken()}`;
      pneumocam.bringIntoView(this.answer);
      if (document.activeElement === document.body) this.heading.focus({ preventScroll: true });
    }

    /** One film is asked for, or many; if they are refused, what is here comes back. */
    begin(many) {
      const { row, film, index, truth, target } = this;
      if (many) this.show(null);
      else this.busy = "reading";
      this.kept = { row, film, index, truth, target };
      this.build();
    }

    restore() {
      if (!this.kept) return;
      Object.assign(this, this.kept, { kept: null, busy: null });
      this.build();
    }

    /** What was asked for came, or did not. */
    ready(message) {
      if (this.busy) {
        this.busy = null;
        this.build();
      }
      for (const button of this.reportButtons ?? []) {
        button.removeAttribute("aria-disabled"); // which, unlike `disabled`, leaves the focus where it is
        button.textContent = text(`report_${button.value}`);
      }
      if (this.row) this.status.textContent = message;
    }

    get point() {
      return settings.point in this.row.points ? settings.point : this.row.point;
    }

    /** The prediction at the operating point that is chosen. */
    get now() {
      return this.row.points[this.point];
    }

    get explained() {
      return this.target ?? this.now.label;
    }

    spoken() {
      const { now } = this;
      return now.reason && now.status === "rejected"
        ? `${headline(now)}. ${named("reason", now.reason.code, text("reason_other"))}`
        : `${headline(now)}. ${percent(now.p_pneumonia, 1)} ${text("probability")}`;
    }

    settingsChanged(changes) {
      if (!this.row) return;
      if ("point" in changes) {
        this.fillAnswer();
        this.fillDetails();
        if (this.target === null && this.film && this.classes) this.classes.value = this.explained;
        this.status.textContent = this.spoken();
      }
      this.draw();
    }

    build() {
      const parts = this.row && !this.busy ? this.result() : [this.busy ? this.waiting() : this.empty()];
      this.body.replaceChildren(...parts);
      this.element.classList.toggle("away", !this.row && !this.busy && Boolean(pneumocam.compared?.value));
      if (!this.row || this.busy) {
        if (this.busy) this.status.textContent = text("reading");
        return;
      }
      this.fillAnswer();
      this.fillDetails();
      if (this.film) this.stageOn();
    }

    // Before

    empty() {
      return make(
        "section.card.before",
        { "aria-labelledby": "empty-title" },
        make("div.ghost", { "aria-hidden": "true" }, make("div.ghost-film"), make("div.ghost-line")),
        make("h2", { id: "empty-title" }, text("empty_title")),
        make("ol", {}, ...["empty_answer", "empty_picture", "empty_many"].map((key) => make("li", {}, text(key)))),
      );
    }

    waiting() {
      return make("section.card.waiting", { "aria-busy": "true" }, make("div.turning", { "aria-hidden": "true" }), make("p", {}, text("reading")));
    }

    // After

    result() {
      this.heading = make("h2", { tabindex: "-1", id: "answer-title" });
      this.said = make("div.said");
      this.answer = make(
        "section.card.answer",
        { "aria-labelledby": "answer-title" },
        make("div.call", {}, make("p.eyebrow", {}, make("span", {}, this.row.name), this.truth ? ` · ${text("truth", { label: label(this.truth) })}` : ""), this.heading, this.said),
        this.row.maps ? make("div.setting", {}, this.points(), (this.meaning = make("p.meaning"))) : null,
      );
      this.details = make("div.details");
      return [this.answer, this.film ? this.picture() : null, this.details].filter(Boolean);
    }

    fillAnswer() {
      const { now } = this;
      this.answer.dataset.status = now.status;
      this.heading.replaceChildren(make("span.mark", { "aria-hidden": "true" }, shapes[now.status]), headline(now));
      if (now.status === "rejected") {
        this.said.replaceChildren(make("p.reason", {}, ...reasonLines(now.reason)));
        return;
      }
      const point = this.facts.points[this.point];
      const values = {
        p: percent(now.p_pneumonia, 1),
        threshold: percent(point.threshold),
        low: percent(point.band[0]),
        high: percent(point.band[1]),
      };
      const figure = make("p.figure", {}, make("strong", {}, probability(now.p_pneumonia)), " ", text("probability"));
      const lines = [figure, this.scale(now.p_pneumonia, point, values)];
      if (now.status === "uncertain") {
        const share = point.measured && text("near_share", { share: percent(point.measured.uncertain) });
        lines.push(
          make("p.reason", {}, make("strong", {}, text("leaning", { label: label(now.label) })), `${text("near", values)} ${share ?? ""}`),
        );
      } else {
        lines.push(make("p.quiet", {}, text("network_says")));
      }
      this.said.replaceChildren(...lines);
      this.fillMeaning(point.measured);
    }

    /** Where P(pneumonia) lies between 0 and 1, where the line is, and where the model does not commit itself. */
    scale(p, { threshold, band }, values) {
      const bar = make(
        "div.scale",
        { role: "img", "aria-label": text("scale", values) },
        make("span.unsure"),
        make("span.threshold"),
        make("span.mark-at"),
      );
      const across = (share) => `${100 * share}%`;
      bar.querySelector(".unsure").style.cssText = `left: ${across(band[0])}; width: ${across(band[1] - band[0])}`;
      bar.querySelector(".threshold").style.left = across(threshold);
      bar.querySelector(".mark-at").style.left = across(p);
      return make("div.scale-row", {}, make("span", { "aria-hidden": "true" }, percent(0)), bar, make("span", { "aria-hidden": "true" }, percent(1)));
    }

    points() {
      const names = Object.keys(this.row.points);
      if (names.length < 2) return null;
      return make(
        "fieldset.points",
        {},
        make("legend", {}, text("points")),
        ...names.map((name) =>
          make(
            "label",
            {},
            make("input", {
              type: "radio",
              name: "operating-point",
              value: name,
              checked: name === this.point,
              onchange: () => pneumocam.choose({ point: name }),
            }),
            make(
              "span",
              {},
              make("b", {}, named("point", name)),
              make("small", {}, [named("point", `${name}_hint`, ""), text("line", { threshold: percent(this.facts.points[name].threshold) })].filter(Boolean).join(" · ")),
            ),
          ),
        ),
      );
    }

    fillMeaning(measured) {
      const { films, children } = this.facts;
      this.meaning.replaceChildren(
        ...(measured
          ? [
              make("span", {}, text("meaning", { found: Math.round(100 * measured.sensitivity), alarms: Math.round(100 * (1 - measured.specificity)) })),
              films && children ? make("small", {}, text("measured", { films, children })) : "",
            ]
          : []),
      );
    }

    // The picture

    picture() {
      const range = (key, value, change) => {
        const input = make("input", { type: "range", min: 0, max: 100, value: Math.round(100 * value), "aria-label": text(key) });
        input.addEventListener("input", () => change(input.value / 100));
        return input;
      };
      const button = (key, sign, action) => make("button", { type: "button", "aria-label": text(key), title: text(key), onclick: action }, sign);
      const chooser = (key, options, value, change) => {
        const select = make("select", {}, ...options);
        select.value = value;
        select.addEventListener("change", () => change(select.value));
        return make("label", {}, make("span", {}, text(key)), select);
      };
      const option = (value, shown) => make("option", { value }, shown);

      this.stage = make(
        "div.stage",
        { tabindex: "0", role: "group", "aria-describedby": "stage-help" },
        make("canvas", { role: "img" }),
        make("span.tag.left", { "aria-hidden": "true" }, text("original")),
        make("span.tag.right", { "aria-hidden": "true" }, text("with_map")),
        make("div.divider", { "aria-hidden": "true" }, make("span", {}, "⟷")),
      );
      this.slider = range("split", settings.split, (value) => this.slide(value));
      const zoomed = (action) => () => action(this.view);
      const controls = [];
      if (this.row.maps) {
        const targets = this.facts.targets.map((name) => option(name, `${label(name)} · ${percent(this.share(name))}`));
        const classes = chooser("target", targets, this.explained, (value) => {
          this.target = value;
          this.draw();
        });
        this.classes = classes.querySelector("select");
        const group = (key, rainbow) =>
          make(
            "optgroup",
            { label: text(key) },
            ...Object.keys(this.colours)
              .filter((name) => (name === "turbo") === rainbow)
              .map((name) => option(name, name[0].toUpperCase() + name.slice(1))),
          );
        const maps = [group("colours_safe", false), group("colours_rainbow", true)];
        const colours = chooser("colours", maps, settings.colours, (value) => pneumocam.choose({ colours: value }));
        const opacity = make("label", {}, make("span", {}, text("opacity")), range("opacity", settings.opacity, (value) => pneumocam.choose({ opacity: value })));
        controls.push(classes, colours, opacity);
      }
      this.legend = make("p.legend");
      return make(
        "section.reading",
        { "aria-label": text("picture_title") },
        this.stage,
        this.row.maps
          ? make("div.slide", {}, make("span", { "aria-hidden": "true" }, text("original")), this.slider, make("span", { "aria-hidden": "true" }, text("with_map")))
          : null,
        this.legend,
        make(
          "div.controls",
          {},
          ...controls,
          make(
            "div.zoom",
            { role: "group", "aria-label": text("zoom_reset") },
            button("zoom_out", "−", zoomed((view) => view.zoomBy(1 / pneumocam.ZOOM_STEP))),
            button("zoom_in", "+", zoomed((view) => view.zoomBy(pneumocam.ZOOM_STEP))),
            button("zoom_reset", "⤢", zoomed((view) => view.whole())),
          ),
        ),
        make("p.help", { id: "stage-help" }, text("stage_help")),
      );
    }

    share(target) {
      return target === "PNEUMONIA" ? this.now.p_pneumonia : this.now.probabilities[target];
    }

    slide(value) {
      settings.split = value;
      this.view.line = value;
    }

    stageOn() {
      this.view = new pneumocam.Stage(this.stage, () => {
        if (!this.view) return;
        settings.split = this.view.split;
        this.slider.value = Math.round(100 * this.view.split);
      });
      this.view.line = this.row.maps ? settings.split : 1;
      this.view.show(this.film);
      this.stage.classList.toggle("plain", !this.row.maps);
      this.draw();
    }

    draw() {
      if (!this.film || !this.view || !this.row.maps) return;
      const name = this.explained;
      const shown = label(name);
      this.film.lay(name, this.colours[settings.colours], settings.opacity);
      this.view.draw();
      this.stage.querySelector("canvas").setAttribute("aria-label", text("stage", { label: shown }));
      this.stage.dataset.target = name;
      if (!this.row.maps[name]) {
        this.legend.replaceChildren(make("strong", {}, text("map_empty", { label: shown })));
        return;
      }
      const ramp = make("canvas", { width: 256, height: 1, "aria-hidden": "true" });
      const context = ramp.getContext("2d");
      this.colours[settings.colours].forEach((_, i, all) => {
        if (i % 3) return;
        context.fillStyle = `rgb(${all[i]} ${all[i + 1]} ${all[i + 2]})`;
        context.fillRect(i / 3, 0, 1, 1);
      });
      this.legend.replaceChildren(text("legend_none"), ramp, text("legend_most", { label: shown }));
    }

    // The details

    fillDetails() {
      const { now, row } = this;
      const open = [...this.details.querySelectorAll("details")].map((x) => x.open);
      const json = JSON.stringify(now, null, 2);
      const copy = make("button", { type: "button" }, text("json_copy"));
      copy.addEventListener("click", async () => {
        if (navigator.clipboard) await navigator.clipboard.writeText(json);
        else {
          // no such thing on plain http
          getSelection().selectAllChildren(this.details.querySelector("pre"));
          document.execCommand("copy");
        }
        copy.textContent = text("json_copied");
      });
      const stem = row.name.replace(/\.[^.]*$/, "") || "prediction";
      const keep = make("button", { type: "button", onclick: () => pneumocam.save(new Blob([json], { type: "application/json" }), `${stem}.json`) }, text("json_save"));
      const pair = (term, value, attributes = {}) => make("div", {}, make("dt", {}, term), make("dd", attributes, value));
      const block = (title, ...content) => make("details", {}, make("summary", {}, title), ...content);
      this.details.replaceChildren(
        ...[
          row.maps ? make("section.card.shares", { "aria-labelledby": "all-title" }, make("h3", { id: "all-title" }, text("probabilities")), this.bars(now)) : null,
          row.maps ? this.reports() : null,
          row.image
            ? block(
                text("image"),
                make(
                  "dl",
                  {},
                  pair(text("image_format"), row.image.format),
                  pair(text("image_size"), text("pixels", row.image)),
                  pair(text("image_steps"), row.image.steps.join("; ") || text("image_untouched"), row.image.steps.length ? { lang: "en" } : {}),
                ),
                make("p.quiet", {}, text("image_private")),
              )
            : null,
          block(text("model"), make("dl", {}, pair(text("model"), now.model.id), pair(text("revision"), now.model.revision))),
          block(text("json"), make("div.choices", {}, copy, keep), make("pre", { tabindex: "0", lang: "en", "aria-label": text("json") }, json)),
        ].filter(Boolean),
      );
      this.details.querySelectorAll("details").forEach((x, i) => (x.open = Boolean(open[i])));
    }

    bars({ probabilities }) {
      return make(
        "dl.bars",
        {},
        ...Object.entries(probabilities).map(([name, p]) => {
          const bar = make("span", { "aria-hidden": "true" });
          bar.style.width = `${100 * p}%`;
          return make("div", {}, make("dt", {}, label(name)), make("dd", {}, make("span.track", { "aria-hidden": "true" }, bar), make("b", {}, probability(p))));
        }),
      );
    }

    reports() {
      const button = (format) => make("button.main", { type: "button", value: format, onclick: (event) => this.report(event.target) }, text(`report_${format}`));
      this.reportButtons = ["pdf", "png"].map(button);
      return make(
        "section.card.take",
        { "aria-labelledby": "report-title" },
        make("h3", { id: "report-title" }, text("report")),
        make("p.quiet", {}, text("report_holds")),
        make("div.choices", {}, ...this.reportButtons),
      );
    }

    report(button) {
      if (button.ariaDisabled) return;
      this.reportButtons.forEach((x) => (x.ariaDisabled = "true"));
      button.textContent = this.status.textContent = text("making");
      const { opacity, colours } = settings;
      this.send({ format: button.value, index: this.index, point: this.point, explained: this.explained, opacity, colours });
    }
  }

  pneumocam.viewer = (element, props, watch, ask, make) => {
    const viewer = new Viewer(element, props.facts, make);
    pneumocam.shown = viewer;
    watch("value", () => viewer.show(props.value));
    if (props.value) viewer.show(props.value);
  };

  Object.assign(pneumocam, { headline, reasonLines, shapes });
})();
