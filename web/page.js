/* What all parts of the page share: its texts, how films get in, and the mending of what Gradio leaves unsaid. */
(() => {
  const MOST_FILMS = 32;
  const MOST_BYTES = 20e6;
  const pneumocam = (window.pneumocam ??= {});

  // Texts: the dictionary given to Gradio, in the language that Gradio chose and wrote into <html lang>.

  const dictionaries = () => window.gradio_config?.i18n_translations ?? {};
  const language = () => document.documentElement.lang || "en";

  function text(key, values = {}) {
    const all = dictionaries();
    const found = [language(), language().split("-")[0], "en"].map((name) => all[name]?.[key]).find((x) => x !== undefined);
    return (found ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
  }

  /** The text of `prefix_name`, or of `otherwise` where nobody has translated that name. */
  function named(prefix, name, otherwise = name) {
    const key = `${prefix}_${name}`;
    const found = text(key);
    return found === key ? otherwise : found;
  }

  const percent = (share, digits = 0) =>
    new Intl.NumberFormat(language(), { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(share);

  /** P(pneumonia) for people: never 100 % or 0 %, which no model can say. */
  function probability(p) {
    if (p > 0.999) return `> ${percent(0.999, 1)}`;
    if (p < 0.001) return `< ${percent(0.001, 1)}`;
    return percent(p, 1);
  }

  const listeners = [];
  const onLanguage = (callback) => listeners.push(callback);
  new MutationObserver(() => listeners.forEach((callback) => callback())).observe(document.documentElement, {
    attributeFilter: ["lang"],
  });

  // Elements

  /** `make("p.note", {lang: "en"}, "text", child, ...)`: text is always text, never HTML. */
  function make(what, attributes = {}, ...children) {
    const [tag, ...classes] = what.split(".");
    const element = document.createElement(tag || "div");
    element.className = classes.join(" ");
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child != null && child !== false));
    return element;
  }

  /** Scroll to what has come, where it is out of sight. */
  function bringIntoView(element) {
    const { top } = element.getBoundingClientRect();
    if (top >= 0 && top < innerHeight * 0.6) return;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    element.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
  }

  function save(blob, name) {
    const url = URL.createObjectURL(blob);
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  /** Of a file that Python made: `file` is Gradio's FileData. */
  function download(file) {
    if (file?.url) make("a", { href: file.url, download: file.orig_name ?? "" }).click();
  }

  // The choices that hold for every film

  const settings = { point: null, opacity: 0.6, colours: "inferno", split: 0.5 };
  const onSettings = [];
  function choose(changes) {
    Object.assign(settings, changes);
    onSettings.forEach((callback) => callback(changes));
  }

  // How films get in: all ways lead through the one <input type=file> of Gradio's upload.

  // None while others are uploaded, and none until Python has taken those: what came would be taken away with them.
  const input = () => document.querySelector("#upload:not(:has(.file-preview)) input[type=file]");

  /** As many files as are read at a time; and of a file that is too large no more than shows it, so that it becomes a
   * row with its reason like any other. Null if nothing had to be done. */
  function bounded(files) {
    pneumocam.leftOut = Math.max(files.length - MOST_FILMS, 0);
    const list = [...files].slice(0, MOST_FILMS);
    if (!pneumocam.leftOut && list.every((file) => file.size <= MOST_BYTES)) return null;
    const transfer = new DataTransfer();
    for (const file of list)
      transfer.items.add(
        file.size > MOST_BYTES ? new File([file.slice(0, MOST_BYTES + 1)], file.name, { type: file.type }) : file,
      );
    return transfer.files;
  }

  let next = null; // what came while there was no field

  function offer(files) {
    const field = input();
    if (!field) {
      next = [...files];
      return;
    }
    next = null;
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(file);
    field.files = transfer.files;
    field.dispatchEvent(new Event("change", { bubbles: true })); // which is bounded below
  }

  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) {
      event.preventDefault();
      offer(event.clipboardData.files);
    }
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // a film that misses the field would otherwise replace the page
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener(
    "drop",
    (event) => {
      document.body.classList.remove("dropping");
      if (!event.dataTransfer?.files.length) return;
      if (input() && event.target.closest?.("#upload") && !bounded(event.dataTransfer.files)) return; // Gradio's own way
      event.preventDefault();
      event.stopPropagation();
      offer(event.dataTransfer.files);
    },
    true,
  );
  document.addEventListener(
    "change",
    (event) => {
      if (event.target !== input()) return;
      const files = bounded(event.target.files);
      if (files) event.target.files = files;
    },
    true,
  );

  // What Gradio leaves unsaid

  /** The field to drop on says in CSS what it is for (page.css), since Gradio draws it anew for each upload. */
  function write() {
    for (const name of ["drop_title", "drop_hint", "uploading"])
      document.documentElement.style.setProperty(`--text-${name}`, JSON.stringify(text(name)));
    document.body.lang = [language(), language().split("-")[0]].find((name) => name in dictionaries()) ?? "en";
    mend();
  }

  function mend() {
    const label = `${text("drop_title")} ${text("drop_hint")}`;
    for (const field of document.querySelectorAll("#upload button[aria-dropeffect]"))
      if (field.ariaLabel !== label) field.ariaLabel = label;
    for (const notice of document.querySelectorAll("[data-testid=toast-text]:not([data-said])")) say(notice);
    if (next && input()) offer(next);
  }

  /** Gradio's notices are English, and of a refused upload the whole answer. */
  function say(notice) {
    notice.dataset.said = "";
    const came = notice.textContent;
    const { code, message } = refusal(came);
    const translated = named("notice", code, named("remedy", code, ""));
    notice.textContent = translated || (message ?? came);
    if (!translated) notice.lang = "en";
    const title = notice.closest(".toast-body.error")?.querySelector(".toast-title").firstChild;
    if (title) title.textContent = `${text("notice_title")} `;
  }

  const NOTICES = { busy: "currently busy", connection: "Connection", upload_gone: "is not here any more" };

  /** Code and message of what Gradio's client says, where it can be told. */
  function refusal(said) {
    const [code] = Object.entries(NOTICES).find(([, words]) => said.includes(words)) ?? [];
    if (code) return { code };
    try {
      return JSON.parse(said.replace(/^HTTP \d+: /, "")).error ?? {};
    } catch {
      return {};
    }
  }
  onLanguage(write);
  write();
  new MutationObserver(mend).observe(document.documentElement, { childList: true, subtree: true });

  Object.assign(pneumocam, {
    ...{ text, named, percent, probability, language, onLanguage, make, bringIntoView, save, download },
    ...{ settings, onSettings, choose, MOST_FILMS },
  });
})();
