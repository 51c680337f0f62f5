// @ts-check
/** Texts in the reader's language: one file per language; only one is loaded. */

export const LANGUAGES = { en: "English", de: "Deutsch", es: "Español", fr: "Français", zh: "中文" };

/** Until a language is loaded there are no words but these. @type {Record<string, string>} */
let texts = { failed: "That did not work", try_again: "Try again" };
let current = "en";

/**
 * The first language that the page speaks; English if there is none.
 * @param {readonly string[]} wanted as in `navigator.languages`
 */
export function chooseLanguage(wanted) {
  const known = wanted.map((name) => name.toLowerCase().split("-")[0]).find((name) => name in LANGUAGES);
  return known ?? "en";
}

/**
 * Load a language and make it the page's.
 * @param {string} name a key of LANGUAGES
 */
export async function load(name) {
  const url = new URL(`./i18n/${name}.json${new URL(import.meta.url).search}`, import.meta.url);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`Texts of ${name}: status ${response.status}.`);
  use(name, await response.json());
  document.documentElement.lang = name;
}

/**
 * @param {string} name
 * @param {Record<string, string>} dictionary
 */
export function use(name, dictionary) {
  [current, texts] = [name, dictionary];
}

export const language = () => current;

/**
 * A text with its gaps filled.
 * @param {string} key
 * @param {Record<string, string | number>} values
 */
export function text(key, values = {}) {
  return (texts[key] ?? key).replace(/\{(\w+)\}/g, (gap, name) => String(values[name] ?? gap));
}

/**
 * The text of `prefix_name`, or `otherwise` if there is none: models may have labels of their own.
 * @param {string} prefix
 * @param {string} name
 * @param {string} otherwise
 */
export const named = (prefix, name, otherwise = name) => texts[`${prefix}_${name}`] ?? otherwise;

/**
 * @param {number} share in [0, 1]
 * @param {number} digits
 */
export const percent = (share, digits = 0) =>
  new Intl.NumberFormat(current, {
    style: "percent",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(share);

/**
 * A probability with one decimal; never 0% or 100%: no model can be that sure.
 * @param {number} p in [0, 1]
 */
export function probability(p) {
  if (p > 0.999) return `>${percent(0.999, 1)}`;
  if (p < 0.001) return `<${percent(0.001, 1)}`;
  return percent(p, 1);
}

/**
 * A probability for a headline: whole percents, and decimals only where they matter.
 * @param {number} p in [0, 1]
 */
export const rounded = (p) => (p < 0.01 || p > 0.99 ? probability(p) : percent(p));
