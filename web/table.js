/* Several films: a table that grows while they are read, to sort, to open and to take away; and the gallery. */
(() => {
  const pneumocam = (window.pneumocam ??= {});
  const { make, text, named, percent, probability, settings } = pneumocam;
  const THUMBNAIL = 68; // CSS pixels at most

  const rank = { ok: 0, uncertain: 1, rejected: 2 };

  class Table {
    constructor(element, facts, ask, made) {
      Object.assign(this, { element, facts, ask, made, value: null, sort: null, open: null, drawn: new Map() });
      this.colours = Object.fromEntries(Object.entries(facts.colours).map(([name, x]) => [name, pneumocam.colours(x)]));
      this.status = make("p.unseen", { role: "status" });
      this.body = make("div");
      element.replaceChildren(this.status, this.body);
      pneumocam.onLanguage(() => this.build());
      pneumocam.onSettings.push((changes) => ("point" in changes || "colours" in changes || "opacity" in changes) && this.fill());
      this.build();
    }

    show(value) {
      if (value && this.cleared) return; // of films that are still being read
      if (value) this.kept = null;
      const begins = !value || !this.value;
      if (begins) Object.assign(this, { open: null, sort: null, drawn: new Map() });
      this.value = value;
      if (begins || !this.rows) this.build();
      else this.fill();
      if (begins) pneumocam.shown?.build();
      if (begins && value) pneumocam.bringIntoView(this.body);
    }

    answer(row) {
      return row.points[settings.point] ?? row.points[row.point];
    }

    build() {
      this.rows = null;
      this.element.classList.toggle("away", !this.value);
      if (!this.value) return this.body.replaceChildren();
      this.rows = make("tbody", { role: "rowgroup" }); // roles, since a phone shows rows as cards
      this.headings = this.columns().map(({ key, name, sorts }) => {
        const heading = make("th", { scope: "col", role: "columnheader", class: key.startsWith("p_") && key !== "p_pneumonia" ? "more" : "" }, sorts ? make("button", { type: "button", onclick: () => this.sortBy(key) }, name) : make("span", {}, name));
        heading.dataset.key = key;
        return heading;
      });
      const button = (key, name) => make("button", { type: "button", onclick: () => this.take(key) }, text(name));
      this.takes = [button("csv", "save_csv"), button("zip", "save_zip")];
      this.note = make("p.quiet");
      this.bar = make("progress", { max: this.value.total, value: 0, "aria-label": text("compare") });
      this.body.replaceChildren(
        make(
          "section.card.compare",
          { "aria-labelledby": "compare-title" },
          make("h2", { id: "compare-title" }, text("compare")),
          this.note,
          this.bar,
          (this.choice = this.points()),
          // Above the table, which grows while it is read: below it they would move away under the pointer.
          make("div.choices", {}, ...this.takes, make("button", { type: "button", onclick: () => this.clear() }, text("clear"))),
          make("div.wide", { role: "region", tabindex: "0", "aria-labelledby": "compare-title" }, make("table", { role: "table" }, make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...this.headings)), this.rows)),
        ),
      );
      this.fill();
    }

    points() {
      const names = Object.keys(this.facts.points);
      const select = make("select", {}, ...names.map((name) => make("option", { value: name }, named("point", name))));
      select.addEventListener("change", () => pneumocam.choose({ point: select.value }));
      return make("label.inline", {}, make("span", {}, text("points")), select);
    }

    columns() {
      const share = (name) => ({ key: `p_${name}`, name: text("column_p", { label: named("short", name) }), sorts: true });
      const labels = this.facts.labels.filter((name) => name !== "PNEUMONIA");
      return [
        { key: "picture", name: text("column_picture") },
        { key: "name", name: text("column_name"), sorts: true },
        { key: "answer", name: text("column_answer"), sorts: true },
        { ...share("PNEUMONIA"), key: "p_pneumonia" },
        ...labels.map(share),
      ];
    }

    /** What a row is sorted by; null goes to the end whichever way. */
    key(row, column) {
      const answer = this.answer(row);
      if (column === "name") return row.name;
      if (column === "answer") return answer.status === "rejected" ? null : `${rank[answer.status]}${pneumocam.headline(answer)}${answer.label}`;
      if (column === "p_pneumonia") return answer.p_pneumonia;
      return answer.probabilities[column.slice(2)] ?? null;
    }

    sortBy(column) {
      const down = this.sort?.column === column ? !this.sort.down : column.startsWith("p_");
      this.sort = { column, down };
      this.fill();
    }

    order() {
      const rows = this.value.rows.map((row, index) => ({ row, index }));
      if (!this.sort) return rows;
      const { column, down } = this.sort;
      const compare = new Intl.Collator(pneumocam.language(), { numeric: true }).compare;
      return rows.sort((a, b) => {
        const [x, y] = [this.key(a.row, column), this.key(b.row, column)];
        if (x === null || y === null) return (x === null) - (y === null);
        return (typeof x === "string" ? compare(x, y) : x - y) * (down ? -1 : 1);
      });
    }

    fill() {
      if (!this.value || !this.rows) return;
      const { rows, total, left_out, done } = this.value;
      const focused = this.rows.contains(document.activeElement) ? document.activeElement.dataset.index : null;
      for (const heading of this.headings) {
        const sorted = this.sort?.column === heading.dataset.key;
        if (sorted) heading.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
        else heading.removeAttribute("aria-sort");
      }
      this.rows.replaceChildren(...this.order().map(({ row, index }) => this.line(row, index)));
      if (focused !== null) this.rows.querySelector(`button[data-index="${focused}"]`)?.focus();
      this.choice.querySelector("select").value = settings.point ?? rows[0]?.point ?? "";
      const answered = rows.filter((row) => this.answer(row).status !== "rejected").length;
      const said = done ? text("finished", { answered, total }) : text("reading_many", { done: rows.length, total });
      this.note.replaceChildren(said, left_out || pneumocam.leftOut ? make("strong", { role: "alert" }, ` ${text("left_out", { most: pneumocam.MOST_FILMS })}`) : "");
      if (done || rows.length % 8 === 0) this.status.textContent = said;
      Object.assign(this.bar, { value: rows.length, hidden: done });
      for (const take of this.takes) take.disabled = !done;
    }

    line(row, index) {
      const answer = this.answer(row);
      const opens = row.points && answer && (row.image || answer.status !== "rejected");
      const name = opens
        ? make("button.name", { type: "button", "data-index": index, "aria-label": text("open", { name: row.name }), onclick: () => this.choose(index) }, row.name)
        : make("span.name", {}, row.name);
      const said =
        answer.status === "rejected"
          ? pneumocam.reasonLines(answer.reason)
          : [answer.status === "ok" ? pneumocam.headline(answer) : text("leaning", { label: named("label", answer.label) })];
      const labels = this.facts.labels.filter((label) => label !== "PNEUMONIA");
      const numbers = answer.status !== "rejected" && [
        make("td.number", { role: "cell" }, probability(answer.p_pneumonia)),
        ...labels.map((label) => make("td.number.more", { role: "cell" }, probability(answer.probabilities[label]))),
      ];
      const chip = make("span.chip", {}, make("span", { "aria-hidden": "true" }, pneumocam.shapes[answer.status]), text(`status_${answer.status}`));
      return make(
        "tr",
        { role: "row", "aria-current": index === this.open ? "true" : null, "data-status": answer.status },
        make("td.pictures", { role: "cell" }, this.pictures(row, answer, index)),
        make("td", { role: "cell" }, name),
        make("td.said", { role: "cell", colspan: numbers ? null : 2 + labels.length }, chip, ...said),
        ...(numbers || []),
      );
    }

    /** Film and overlay, small; drawn once they are decoded, and again when the colours change. */
    pictures(row, answer, index) {
      if (!row.thumbnail) return "–";
      const pair = [make("canvas", { "aria-hidden": "true" }), make("canvas", { "aria-hidden": "true" })];
      const draw = (film) => {
        const mapped = row.maps ? film.lay(answer.label, this.colours[settings.colours], settings.opacity) : film.plain;
        [film.plain, mapped].forEach((picture, i) => {
          Object.assign(pair[i], { width: film.width, height: film.height });
          pair[i].style.width = `${(THUMBNAIL * film.width) / Math.max(film.width, film.height)}px`;
          pair[i].getContext("2d").drawImage(picture, 0, 0);
        });
      };
      const known = this.drawn.get(index);
      if (known instanceof pneumocam.Film) draw(known);
      else
        pneumocam.Film.load(row.thumbnail, row).then((film) => {
          this.drawn.set(index, film);
          draw(film);
        });
      return pair;
    }

    choose(index) {
      this.open = index;
      this.fill();
      this.ask({ index });
    }

    take(kind) {
      this.note.textContent = this.status.textContent = text("making");
      this.takes.forEach((take) => (take.disabled = true));
      const row = this.value.rows[0];
      const { opacity, colours } = settings;
      this.made({ action: kind, point: settings.point ?? row.point, opacity, colours });
    }

    /** What was asked for came, or did not. */
    ready(message) {
      if (!this.value) return;
      this.fill();
      this.status.textContent = message;
    }

    clear() {
      this.show(null);
      pneumocam.shown.show(null);
      this.cleared = true;
    }

    /** Others are asked for; if they are refused, what is here comes back. */
    begin() {
      const { value, sort, open, drawn } = this;
      this.cleared = false;
      this.show(null);
      this.kept = value && { value, sort, open, drawn };
    }

    restore() {
      if (this.value || !this.kept) return;
      Object.assign(this, this.kept, { kept: null });
      this.build();
    }
  }

  pneumocam.table = (element, props, watch, ask, make) => {
    const table = new Table(element, props.facts, ask, make);
    pneumocam.compared = table;
    watch("value", () => table.show(props.value));
    if (props.value) table.show(props.value);
  };

  /** Buttons with thumbnails. `props.films`: what view.examples made; `caption`: the key of each one's text. */
  pneumocam.gallery = (element, props, watch, ask) => {
    const build = () => {
      element.replaceChildren(
        make(
          "ul.films",
          {},
          ...props.films.map(({ file, truth, label, status, thumbnail }, i) => {
            const answer = label ? named("short", label) + (status === "uncertain" ? ` (${text("status_uncertain")})` : "") : text("answer_rejected");
            const caption = props.wrong ? text("failure", { truth: named("short", truth), answer }) : named("short", truth);
            const spoken = props.wrong ? `${text("example", { number: i + 1, label: named("label", truth) })}. ${caption}` : text("example", { number: i + 1, label: named("label", truth) });
            return make("li", {}, make("button", { type: "button", "aria-label": spoken, onclick: () => ask({ file }) }, make("img", { src: thumbnail, alt: "" }), make("span", { "aria-hidden": "true" }, caption)));
          }),
        ),
      );
    };
    pneumocam.onLanguage(build);
    build();
  };

  /** Which model answers, at the foot of the page. */
  pneumocam.model = (element, props) => {
    const { id, revision } = props.facts.model;
    const build = () => {
      const card = /^[\w.-]+\/[\w.-]+$/.test(id) && make("a", { href: `https://huggingface.co/${id}` }, text("model_card"));
      element.replaceChildren(make("p", {}, text("model_line", { id, revision }), " ", card || ""));
    };
    pneumocam.onLanguage(build);
    build();
  };

  // Whoever asks while others are read waits until they are; Gradio's own "always_last" would repeat the first event.
  const waiting = [];
  let last = Promise.resolve();

  /** Before Python is asked for one film, or for many; resolves when it is their turn. */
  pneumocam.begin = async (many) => {
    const before = last;
    last = new Promise((resolve) => waiting.push(resolve));
    await before;
    pneumocam.compared.begin();
    pneumocam.shown.begin(many);
  };

  /** Python has answered what was begun first, or refused to. */
  pneumocam.end = () => waiting.shift()();

  /** Python has made a file: `file` is Gradio's FileData. */
  pneumocam.made = (file) => {
    pneumocam.download(file);
    pneumocam.compared.ready(text("saved"));
    pneumocam.shown.ready(text("saved"));
  };

  pneumocam.failed = () => {
    const { compared, shown } = pneumocam;
    compared.restore();
    shown.restore();
    compared.open = compared.value && shown.row ? shown.index : null;
    compared.ready(text("failed"));
    shown.ready(text("failed"));
  };
})();
