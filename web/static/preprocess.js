// @ts-check
/** A grey image -> the network's input, as timm's evaluation transform makes it of the bundle's preprocessing. */

import { resize } from "./resample.js";

/**
 * @typedef {object} Preprocessing of the bundle; crop mode `squash` and bicubic interpolation
 * @property {[number, number, number]} input_size channels, height, width
 * @property {number[]} mean one number a channel, for pixel values in [0, 1]
 * @property {number[]} std
 * @property {number} crop_pct share of the resized image's side that is kept
 */

/**
 * @param {Uint8Array} pixels height x width grey levels
 * @param {number} width
 * @param {number} height
 * @param {Preprocessing} preprocessing
 * @returns {Float32Array} channels x height x width of `input_size`
 */
export function networkInput(pixels, width, height, preprocessing) {
  const [channels, inputHeight, inputWidth] = preprocessing.input_size;
  const scaledHeight = Math.floor(inputHeight / preprocessing.crop_pct);
  const scaledWidth = Math.floor(inputWidth / preprocessing.crop_pct);
  const scaled = resize(pixels, width, height, scaledWidth, scaledHeight);
  const top = halfToEven(scaledHeight - inputHeight);
  const left = halfToEven(scaledWidth - inputWidth);
  const input = new Float32Array(channels * inputHeight * inputWidth);
  for (let channel = 0; channel < channels; channel++) {
    const table = normalised(preprocessing.mean[channel], preprocessing.std[channel]);
    for (let y = 0; y < inputHeight; y++)
      for (let x = 0; x < inputWidth; x++)
        input[(channel * inputHeight + y) * inputWidth + x] = table[scaled[(y + top) * scaledWidth + x + left]];
  }
  return input;
}

/**
 * The network's number for each grey level, in the single precision of torchvision.
 * @param {number} mean
 * @param {number} std
 */
function normalised(mean, std) {
  return Float32Array.from({ length: 256 }, (_, level) =>
    Math.fround(Math.fround(Math.fround(level / 255) - Math.fround(mean)) / Math.fround(std)),
  );
}

/**
 * Half of a whole number; halves go to the even neighbour, as in Python's `round`.
 * @param {number} value
 */
function halfToEven(value) {
  const half = Math.floor(value / 2);
  return value % 2 && half % 2 ? half + 1 : half;
}

/**
 * What the network sees of an image: left, top, right, bottom in its pixels.
 * @param {Preprocessing} preprocessing
 * @param {number} width
 * @param {number} height
 * @returns {[number, number, number, number]}
 */
export function inputBox(preprocessing, width, height) {
  const [, inputHeight, inputWidth] = preprocessing.input_size;
  const horizontal = width / Math.floor(inputWidth / preprocessing.crop_pct);
  const vertical = height / Math.floor(inputHeight / preprocessing.crop_pct);
  const halfWidth = (inputWidth * horizontal) / 2;
  const halfHeight = (inputHeight * vertical) / 2;
  return [width / 2 - halfWidth, height / 2 - halfHeight, width / 2 + halfWidth, height / 2 + halfHeight];
}
