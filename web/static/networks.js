// @ts-check
/** The classifier's and the guard's networks in ONNX Runtime: WebAssembly, one thread. */

import { load } from "./download.js";

/** @typedef {{run: import("./row.js").Run, look: import("./guard.js").Look}} Networks */

/**
 * Download the networks, unless the browser has them, and run each once: the first pass takes several times as long.
 * @param {import("./row.js").Model} model
 * @param {URL} base what the names of its parts are relative to
 * @param {(bytes: number) => void} arrived is told how many bytes are there
 * @returns {Promise<Networks>}
 */
export async function open({ parts, preprocessing }, base, arrived) {
  const [ort, [wasm, network, guard]] = await Promise.all([
    import(new URL("onnxruntime-web.js", base).href),
    load(parts, base, arrived),
  ]);
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.wasm.numThreads = 1; // more take headers that static hosts do not send
  const session = await ort.InferenceSession.create(network, { executionProviders: ["wasm"] });
  const run = async (/** @type {Float32Array} */ input) => {
    const image = new ort.Tensor("float32", input, [1, ...preprocessing.input_size]);
    const { features, logits } = await session.run({ image });
    return { features: features.data, logits: logits.data, shape: features.dims.slice(2) };
  };
  await run(new Float32Array(preprocessing.input_size.reduce((a, b) => a * b)));
  return { run, look: await opened(ort, guard) };
}

/**
 * @param {any} ort
 * @param {Uint8Array | undefined} file of the guard; a bundle may have none
 * @returns {Promise<import("./guard.js").Look>}
 */
async function opened(ort, file) {
  if (!file) return async () => [];
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  return async (images) => {
    const side = Math.sqrt(images[0].length);
    const thumbnails = new Float32Array(images.length * images[0].length);
    images.forEach((image, i) => thumbnails.set(image, i * image.length));
    const input = new ort.Tensor("float32", thumbnails, [images.length, 1, side, side]);
    const { lungs, heads, features } = await session.run({ thumbnails: input });
    return images.map((_, i) => ({ lungs: row(lungs, i), heads: row(heads, i), features: row(features, i) }));
  };
}

/**
 * One image's part of a batch.
 * @param {{data: Float32Array, dims: number[]}} tensor
 * @param {number} i
 */
function row({ data, dims }, i) {
  const size = data.length / dims[0];
  return data.subarray(i * size, (i + 1) * size);
}
