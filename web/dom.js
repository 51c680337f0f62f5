// @ts-check
/** Elements and downloads. */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * An element; text is always text, never HTML.
 * @param {string} what tag and classes, as in `p.quiet.small`
 * @param {Record<string, any>} attributes `onclick` and the like are listeners; true sets an empty attribute
 * @param {(Child | Child[])[]} children
 * @returns {any} the element; its kind follows from the tag
 */
export function make(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...present(children.flat()));
  return element;
}

/**
 * @param {Child[]} children
 * @returns {(Node | string)[]}
 */
export function present(children) {
  return children.flatMap((x) => (x == null || x === false ? [] : [typeof x === "number" ? String(x) : x]));
}

/**
 * A button.
 * @param {Child} label
 * @param {(event: MouseEvent) => void} action
 * @param {Record<string, any>} attributes
 * @returns {HTMLButtonElement}
 */
export const button = (label, action, attributes = {}) =>
  make("button", { type: "button", onclick: action, ...attributes }, label);

/**
 * A file name that wraps between its parts, not inside words.
 * @param {string} name
 * @returns {(Node | string)[]}
 */
export function wrapping(name) {
  return name.split(/(?<=[_\- ])/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));
}

/** @param {string} id */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`The page has no element ${id}.`);
  return found;
}

/**
 * Scroll to an element if it is out of sight.
 * @param {HTMLElement} element
 */
export function bringIntoView(element) {
  const { top } = element.getBoundingClientRect();
  if (top >= byId("top").offsetHeight && top < innerHeight * 0.5) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
}

/**
 * Download what is in memory.
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
