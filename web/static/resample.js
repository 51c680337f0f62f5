// @ts-check
/** Pillow's antialiased bicubic resize and box thumbnail of 8-bit images, to the last bit (`Resample.c` of Pillow). */

const PRECISION = 22; // bits behind the point of a weight
const HALF = 1 << (PRECISION - 1);
const SUPPORT = 2; // pixels on either side of the centre, at scale 1

/**
 * The weight of a pixel at a distance from the centre: Keys' cubic convolution with a = -0.5.
 * @param {number} x distance in pixels
 */
function bicubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  if (d < 2) return (((d - 5) * d + 8) * d - 4) * a;
  return 0;
}

/** @typedef {{weight: (x: number) => number, support: number}} Filter */

const BICUBIC = { weight: bicubic, support: SUPPORT };
const BOX = { weight: (/** @type {number} */ x) => Number(x > -0.5 && x <= 0.5), support: 0.5 };

/**
 * For each of `to` output pixels: the first input pixel, how many there are, and their weights in fixed point.
 * @param {number} from input pixels along the side
 * @param {number} to output pixels along the side
 * @param {Filter} filter
 * @param {number} span of the input that is resized, from its first pixel on
 */
function coefficients(from, to, filter, span = from) {
  const scale = span / to;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const size = 2 * Math.ceil(support) + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const weights = new Int32Array(to * size);
  const exact = new Float64Array(size);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const length = Math.min(Math.trunc(centre + support + 0.5), from) - start;
    let sum = 0;
    for (let k = 0; k < length; k++) {
      exact[k] = filter.weight((k + start - centre + 0.5) * (1 / stretch));
      sum += exact[k];
    }
    for (let k = 0; k < length; k++) {
      const scaled = (exact[k] / sum) * (1 << PRECISION);
      weights[i * size + k] = Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    }
    first[i] = start;
    count[i] = length;
  }
  return { first, count, weights, size };
}

/** @param {number} sum in fixed point */
function clip(sum) {
  const value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/**
 * As `Image.fromarray(pixels).resize((toWidth, toHeight), Image.Resampling.BICUBIC)` of Pillow.
 * @param {Uint8Array} pixels height x width grey levels
 * @param {number} width
 * @param {number} height
 * @param {number} toWidth
 * @param {number} toHeight
 * @returns {Uint8Array} toHeight x toWidth grey levels
 */
export function resize(pixels, width, height, toWidth, toHeight) {
  const narrow = toWidth === width ? pixels : across(pixels, height, width, coefficients(width, toWidth, BICUBIC));
  return toHeight === height ? narrow.slice() : down(narrow, toWidth, coefficients(height, toHeight, BICUBIC));
}

/**
 * As `resize((side, side), Image.Resampling.BOX, reducing_gap=gap)` of Pillow.
 * @param {Uint8Array} pixels
 * @param {number} width
 * @param {number} height
 * @param {number} side
 * @param {number} gap
 * @returns {Uint8Array} side x side grey levels
 */
export function shrunk(pixels, width, height, side, gap = 3) {
  const factors = [width, height].map((x) => Math.trunc(x / side / gap) || 1);
  const [columns, rows] = [Math.ceil(width / factors[0]), Math.ceil(height / factors[1])];
  const small = factors[0] * factors[1] > 1 ? reduced(pixels, width, height, factors[0], factors[1]) : pixels;
  const spans = [width / factors[0], height / factors[1]].map(Math.fround); // Pillow's boxes are in single precision
  const narrow =
    spans[0] === side ? small : across(small, rows, columns, coefficients(columns, side, BOX, spans[0]));
  return spans[1] === side ? narrow.slice() : down(narrow, side, coefficients(rows, side, BOX, spans[1]));
}

/**
 * Means of blocks, as Pillow's `reduce`; the last ones in a row and in a column may be smaller.
 * @param {Uint8Array} pixels
 * @param {number} width
 * @param {number} height
 * @param {number} blockWidth
 * @param {number} blockHeight
 */
function reduced(pixels, width, height, blockWidth, blockHeight) {
  const [columns, rows] = [Math.ceil(width / blockWidth), Math.ceil(height / blockHeight)];
  const result = new Uint8Array(columns * rows);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const [left, top] = [column * blockWidth, row * blockHeight];
      const [right, bottom] = [Math.min(left + blockWidth, width), Math.min(top + blockHeight, height)];
      let sum = 0;
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += pixels[y * width + x];
      const count = (right - left) * (bottom - top);
      const factor = Math.floor(Math.fround(2 ** 32 / (256 * count)));
      result[row * columns + column] = Math.floor(((sum + Math.trunc(count / 2)) * factor) / 2 ** 24);
    }
  return result;
}

/** @typedef {ReturnType<typeof coefficients>} Coefficients */

/**
 * @param {Uint8Array} pixels
 * @param {number} height
 * @param {number} width
 * @param {Coefficients} coefficients
 */
function across(pixels, height, width, { first, count, weights, size }) {
  const toWidth = first.length;
  const result = new Uint8Array(height * toWidth);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < toWidth; x++) {
      let sum = HALF;
      const start = y * width + first[x];
      for (let k = 0; k < count[x]; k++) sum += pixels[start + k] * weights[x * size + k];
      result[y * toWidth + x] = clip(sum);
    }
  }
  return result;
}

/**
 * @param {Uint8Array} pixels
 * @param {number} width
 * @param {Coefficients} coefficients
 */
function down(pixels, width, { first, count, weights, size }) {
  const toHeight = first.length;
  const result = new Uint8Array(toHeight * width);
  const sums = new Int32Array(width);
  for (let y = 0; y < toHeight; y++) {
    sums.fill(HALF);
    for (let k = 0; k < count[y]; k++) {
      const start = (first[y] + k) * width;
      const weight = weights[y * size + k];
      for (let x = 0; x < width; x++) sums[x] += pixels[start + x] * weight;
    }
    for (let x = 0; x < width; x++) result[y * width + x] = clip(sums[x]);
  }
  return result;
}
