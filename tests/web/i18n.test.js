// @ts-check
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { chooseLanguage, LANGUAGES, named, percent, probability, rounded, text, use } from "../../web/i18n.js";
import { translated } from "../../web/steps.js";

const WEB = new URL("../../web/", import.meta.url);
const read = (/** @type {string} */ name) => readFileSync(new URL(name, WEB), "utf-8");
const TEXTS = Object.fromEntries(Object.keys(LANGUAGES).map((name) => [name, JSON.parse(read(`i18n/${name}.json`))]));
const EN = TEXTS.en;
const gaps = (/** @type {string} */ one) => (one.match(/\{\w+\}/g) ?? []).sort();

test("every language has every text, with the same gaps and the same emphasis", () => {
  assert.deepEqual(
    readdirSync(new URL("i18n", WEB)).sort(),
    Object.keys(LANGUAGES)
      .map((x) => `${x}.json`)
      .sort(),
  );
  for (const [name, texts] of Object.entries(TEXTS)) {
    assert.deepEqual(Object.keys(texts), Object.keys(EN), name);
    for (const [key, one] of Object.entries(texts)) {
      assert.deepEqual(gaps(one), gaps(EN[key]), `${name}: ${key}`);
      assert.equal(one.split("**").length, EN[key].split("**").length, `${name}: ${key}`);
    }
  }
});

test("no sentence was left in English", () => {
  for (const [name, texts] of Object.entries(TEXTS)) {
    if (name === "en") continue;
    const english = /\b(the|this|is|are|with|which|you|your)\b/;
    for (const [key, one] of Object.entries(texts)) {
      assert.doesNotMatch(one, english, `${name}: ${key}`);
      const words = EN[key].replace(/\{\w+\}/g, "").match(/\p{L}+/gu) ?? [];
      if (one === EN[key]) assert.ok(words.length < 2, `${name}: ${key}`);
    }
  }
});

test("every text is used, and none is missing", () => {
  const names = readdirSync(WEB).filter((name) => /\.(js|html)$/.test(name));
  const modules = names.map(read).filter((one) => /^(\/\/ @ts-check|<!doctype html>)/.test(one));
  const source = modules.join("");
  const asked = [...source.matchAll(/(?:\btext\(\s*|data-text=)"(\w+)"/g)].map(([, key]) => key);
  assert.ok(asked.length > 80);
  for (const key of asked) assert.ok(key in EN, key);
  // These are put together from a prefix and a name that comes from the server.
  const built = /^(label|short|point|hint|reason|remedy|notice|verdict|report|tool|quality)_/;
  for (const key of Object.keys(EN))
    assert.ok(asked.includes(key) || built.test(key) || source.includes(`"${key}"`), key);
});

test("the first language that the page speaks is chosen", () => {
  assert.equal(chooseLanguage(["ja-JP", "de-AT", "fr"]), "de");
  assert.equal(chooseLanguage(["zh-CN"]), "zh");
  assert.equal(chooseLanguage(["ja-JP"]), "en");
});

test("gaps are filled, and unknown names stand for themselves", () => {
  use("en", { greeting: "{a} and {b}", label_X: "Ex" });
  assert.equal(text("greeting", { a: 1 }), "1 and {b}");
  assert.equal(text("unknown"), "unknown");
  assert.deepEqual([named("label", "X"), named("label", "Y"), named("label", "Y", "")], ["Ex", "Y", ""]);
});

test("the usual steps to an image are told in the reader's language, in English with the words of Python", () => {
  const values = JSON.parse(readFileSync(new URL("values.json", import.meta.url), "utf-8"));
  /** @type {string[]} */
  const steps = [...values.guard.cases, ...values.deep].flatMap((one) => one.steps);
  const others = ["rotated by EXIF orientation", "inverted (MONOCHROME1)", "inverted (WhiteIsZero)"];
  const usual = [...steps, ...others, "cut off a flat border: 10 px above, 0 below, 3 left, 12 right"].filter(
    (step) => !/^(values outside|white border|8 bit values|stretched)/.test(step),
  );
  assert.ok(usual.some((step) => /^rotated by \d+ degrees/.test(step)));
  assert.ok(usual.some((step) => /bones/.test(step)));
  for (const step of usual) {
    use("en", EN);
    assert.equal(translated(step), step);
    use("de", TEXTS.de);
    assert.notEqual(translated(step) ?? step, step);
  }
  assert.equal(translated("PixelSpacing ignored: it is far too large"), null);
});

test("numbers are written as the language does, and none is 0% or 100%", () => {
  use("en", {});
  assert.deepEqual([percent(0.156), percent(0.156, 1)], ["16%", "15.6%"]);
  assert.deepEqual([0, 0.0004, 0.841, 0.9996, 1].map(probability), ["<0.1%", "<0.1%", "84.1%", ">99.9%", ">99.9%"]);
  assert.deepEqual([0.002, 0.841, 0.998].map(rounded), ["0.2%", "84%", "99.8%"]);
  use("de", {});
  assert.equal(percent(0.156, 1), "15,6\u00a0%");
});
