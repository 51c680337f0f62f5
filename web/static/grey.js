// @ts-check
/** Colour -> grey as Pillow converts it, and the check for an image without contrast. */

import { Refusal } from "./refusal.js";

/**
 * ITU-R BT.601 luma in the fixed point of Pillow's `convert("L")`; transparent pixels are laid on black.
 * @param {Uint8ClampedArray} rgba 4 numbers a pixel
 * @param {Uint8Array} grey where the grey levels go
 * @param {number} at first index there
 * @returns {boolean} whether a pixel is transparent
 */
export function toGrey(rgba, grey, at) {
  let transparent = false;
  for (let i = 0; i < rgba.length; i += 4) {
    let red = rgba[i];
    let green = rgba[i + 1];
    let blue = rgba[i + 2];
    const alpha = rgba[i + 3];
    if (alpha < 255) {
      transparent = true;
      [red, green, blue] = [red, green, blue].map((level) => Math.round((level * alpha) / 255));
    }
    grey[at++] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
  }
  return transparent;
}

/**
 * @param {Uint8Array} pixels grey levels
 * @throws {Refusal} if nearly all pixels have one grey level
 */
export function checkContrast(pixels) {
  const counts = new Float64Array(256);
  for (const level of pixels) counts[level]++;
  for (let level = 1; level < 256; level++) counts[level] += counts[level - 1];
  const [low, high] = [0.01, 0.99].map((share) => counts.findIndex((count) => count >= share * pixels.length));
  if (high - low < 4)
    throw new Refusal(
      "blank",
      `The image is blank: nearly every pixel is at grey level ${low} of 255, and a radiograph needs contrast. ` +
        "Check the export, or the display window of the file.",
    );
}
