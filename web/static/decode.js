// @ts-check
/** An image file -> 8-bit grey levels, by the browser's decoder where that keeps all bits; runs in a worker. */

import { checkContrast, toGrey } from "./grey.js";
import { readHeader } from "./header.js";
import { toGreyLevels } from "./levels.js";
import { readPng16 } from "./png16.js";
import { Refusal } from "./refusal.js";

const BAND = 1 << 20; // pixels that are converted at a time: colour takes four times the memory of grey

/**
 * @typedef {object} Radiograph
 * @property {Uint8Array} pixels height x width grey levels, upright
 * @property {number} width
 * @property {number} height
 * @property {string} format
 * @property {string[]} steps what was done to get there, in the words of the Python package
 */

/**
 * @param {Uint8Array<ArrayBuffer>} bytes the whole file
 * @returns {Promise<Radiograph>}
 * @throws {Refusal}
 */
export async function decode(bytes) {
  const header = readHeader(bytes);
  const radiograph = header.depth > 8 ? await readDeep(bytes) : await readShallow(bytes, header);
  checkContrast(radiograph.pixels);
  return { ...radiograph, format: header.format };
}

/** @param {Uint8Array<ArrayBuffer>} bytes */
async function readDeep(bytes) {
  const deep = await whole(readPng16(bytes));
  return { ...toGreyLevels(deep), width: deep.width, height: deep.height };
}

/**
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @param {import("./header.js").Header} header
 */
async function readShallow(bytes, header) {
  const bitmap = await whole(
    createImageBitmap(new Blob([bytes]), {
      colorSpaceConversion: "none", // Pillow ignores colour profiles
      premultiplyAlpha: "none",
      imageOrientation: "from-image",
    }),
  );
  const { width, height } = bitmap;
  const pixels = new Uint8Array(width * height);
  const transparent = readPixels(bitmap, pixels);
  bitmap.close();
  const steps = [];
  if (transparent) steps.push("transparency laid on black");
  if (header.channels > 1) steps.push("colour converted to grey");
  if (header.orientation > 1) steps.push("rotated by EXIF orientation");
  return { pixels, width, height, steps };
}

/**
 * @template T
 * @param {Promise<T>} decoding
 * @throws {Refusal} if the decoder fails
 */
async function whole(decoding) {
  try {
    return await decoding;
  } catch {
    throw new Refusal(
      "damaged_image",
      "The image is truncated or damaged, or of a rare variant, and cannot be decoded. Export it again, or save it as PNG.",
    );
  }
}

/**
 * @param {ImageBitmap} bitmap
 * @param {Uint8Array} pixels where the grey levels go
 * @returns {boolean} whether a pixel is transparent
 */
function readPixels(bitmap, pixels) {
  const { width, height } = bitmap;
  const rows = Math.min(height, Math.max(1, Math.floor(BAND / width)));
  const canvas = new OffscreenCanvas(width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("The browser has no 2D canvas in a worker.");
  let transparent = false;
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.clearRect(0, 0, width, count);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, width, count);
    transparent = toGrey(data, pixels, top * width) || transparent;
  }
  return transparent;
}
