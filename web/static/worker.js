// @ts-check
/** The worker that does everything with an image: decoding, preprocessing, the network, calibration and Grad-CAM. */

import { withoutBorder } from "./border.js";
import { decode } from "./decode.js";
import { inspect } from "./guard.js";
import { open } from "./networks.js";
import { Refusal } from "./refusal.js";
import { classified, floats, rejected } from "./row.js";

/** @typedef {import("./row.js").Model} Model */
/** @typedef {import("./networks.js").Networks} Networks */

const base = new URL("../model/", import.meta.url);
/** @type {Promise<Model> | undefined} */
let model;
/** @type {Promise<Networks> | undefined} */
let networks;

/** All of the model but the network: a small file. */
function description() {
  model ??= fetch(new URL("model.json", base)).then((response) => response.json());
  return model.catch((error) => {
    model = undefined;
    throw error;
  });
}

/** The networks, ready to run; they are downloaded once. */
function ready() {
  networks ??= start().catch((error) => {
    networks = undefined; // the next image tries again
    self.postMessage({ state: "absent" });
    throw error;
  });
  return networks;
}

/** @returns {Promise<Networks>} */
async function start() {
  self.postMessage({ state: "loading", bytes: 0 });
  const opened = await open(await description(), base, (bytes) => self.postMessage({ state: "loading", bytes }));
  self.postMessage({ state: "ready" });
  return opened;
}

/**
 * @param {string} name
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @param {boolean} force classify a border case that the guard refuses
 */
async function predict(name, bytes, force) {
  const facts = await description();
  try {
    const decoded = withoutBorder(await decode(bytes));
    const { run, look } = await ready();
    const { radiograph, warnings, lungs } = await checked(facts, decoded, look, force);
    return await classified(facts, name, radiograph, run, warnings, lungs);
  } catch (error) {
    if (error instanceof Refusal) return rejected(facts, name, error);
    throw error;
  }
}

/**
 * @param {Model} model
 * @param {import("./decode.js").Radiograph} radiograph
 * @param {import("./guard.js").Look} look
 * @param {boolean} force
 */
async function checked({ guard }, radiograph, look, force) {
  if (!guard) return { radiograph, warnings: [], lungs: null };
  const { thresholds, centre, whitening } = guard;
  const limits = { thresholds, centre: floats(centre), whitening: floats(whitening) };
  const found = await inspect(radiograph, limits, look);
  if (!found.refusal) return found;
  if (!(force && found.refusal.border)) throw found.refusal;
  const { code, message } = found.refusal;
  return { ...found, warnings: [{ code, message }] };
}

self.addEventListener("message", async ({ data: { id, name, bytes, force } }) => {
  try {
    if (bytes) self.postMessage({ id, row: await predict(name, bytes, Boolean(force)) });
    else await ready().then(() => self.postMessage({ id }));
  } catch (error) {
    self.postMessage({ id, error: { code: "model", message: String(error) } });
  }
});
