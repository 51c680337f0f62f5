// @ts-check
/** The worker that does everything with an image: decoding, preprocessing, the network, calibration and Grad-CAM. */

import { decode } from "./decode.js";
import { load } from "./download.js";
import { Refusal } from "./refusal.js";
import { classified, rejected } from "./row.js";

/** @typedef {import("./row.js").Model} Model */
/** @typedef {import("./row.js").Run} Run */

const base = new URL("../model/", import.meta.url);
/** @type {Promise<Model> | undefined} */
let model;
/** @type {Promise<Run> | undefined} */
let network;

/** All of the model but the network: a small file. */
function description() {
  model ??= fetch(new URL("model.json", base)).then((response) => response.json());
  return model.catch((error) => {
    model = undefined;
    throw error;
  });
}

/** The network, ready to run; it is downloaded once. */
function ready() {
  network ??= start().catch((error) => {
    network = undefined; // the next image tries again
    self.postMessage({ state: "absent" });
    throw error;
  });
  return network;
}

/** @returns {Promise<Run>} */
async function start() {
  self.postMessage({ state: "loading", bytes: 0 });
  const { parts, preprocessing } = await description();
  const [ort, [wasm, onnx]] = await Promise.all([
    import(new URL("onnxruntime-web.js", base).href),
    load(parts, base, (bytes) => self.postMessage({ state: "loading", bytes })),
  ]);
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.numThreads = 1; // more take headers that static hosts do not send
  const session = await ort.InferenceSession.create(onnx, { executionProviders: ["wasm"] });
  const run = async (/** @type {Float32Array} */ input) => {
    const image = new ort.Tensor("float32", input, [1, ...preprocessing.input_size]);
    const { features, logits } = await session.run({ image });
    return { features: features.data, logits: logits.data, shape: features.dims.slice(2) };
  };
  // The first pass takes several times as long as the others, since the code is compiled meanwhile.
  await run(new Float32Array(preprocessing.input_size.reduce((a, b) => a * b)));
  self.postMessage({ state: "ready" });
  return run;
}

/**
 * @param {string} name
 * @param {Uint8Array<ArrayBuffer>} bytes
 */
async function predict(name, bytes) {
  const facts = await description();
  try {
    const radiograph = await decode(bytes);
    return await classified(facts, name, radiograph, await ready());
  } catch (error) {
    if (error instanceof Refusal) return rejected(facts, name, error);
    throw error;
  }
}

self.addEventListener("message", async ({ data: { id, name, bytes } }) => {
  try {
    if (bytes) self.postMessage({ id, row: await predict(name, bytes) });
    else await ready().then(() => self.postMessage({ id }));
  } catch (error) {
    self.postMessage({ id, error: { code: "model", message: String(error) } });
  }
});
