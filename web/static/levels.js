// @ts-check
/** Samples of 16 bits -> 8-bit grey levels, by the rules of `pneumocam.image.grayscale` and `pneumocam.image.levels`. */

const FULL_SCALES = [255, 1023, 4095, 16383, 65535];
const BINS = 64;
const GAP = 8; // bins: an eighth of the range
const SPARSE = 0.0005; // of the pixels: a bin with fewer counts as empty
const FLAT = 0.001; // of the pixels: an area of one value counts as no more, however large it is
const SINGLE = 0.0001; // of the pixels
const FAR = 0.02; // of the range
const FEWEST = 8; // values that tissue has at least
const TAIL = 0.02; // of the middle's pixels
const TOO_WIDE = 3; // widths of the middle's range
const USUAL = 1.5;
const BORDER = 0.1; // of the edge

/**
 * @param {import("./png16.js").Deep} deep
 * @returns {{pixels: Uint8Array, steps: string[]}} height x width grey levels, and the steps in words
 */
export function toGreyLevels(deep) {
  const { samples, width, height, channels } = deep;
  const coloured = channels > 2;
  const transparent = channels % 2 === 0 && hasAlpha(samples, channels);
  const values = channels === 1 ? samples : flattened(samples, channels, transparent);
  const steps = [];
  if (coloured) steps.push("colour converted to grey");
  if (transparent) steps.push("transparency laid on black");
  const [counts, central] = counted(values, width, height);
  const { table, tissue, steps: scaled } = greyTable(counts, central);
  const pixels = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i++) pixels[i] = table[values[i]];
  const white = (/** @type {number} */ value) => value > tissue[1] && table[value] === 255;
  return { pixels, steps: [...steps, ...scaled, ...paintBorder(pixels, values, width, height, white)] };
}

/** @param {Uint16Array} samples @param {number} channels */
function hasAlpha(samples, channels) {
  for (let i = channels - 1; i < samples.length; i += channels) if (samples[i] < 65535) return true;
  return false;
}

/**
 * Colour by ITU-R BT.601, transparency on black.
 * @param {Uint16Array} samples
 * @param {number} channels
 * @param {boolean} transparent
 */
function flattened(samples, channels, transparent) {
  const grey = new Uint16Array(samples.length / channels);
  for (let i = 0; i < grey.length; i++) {
    const at = i * channels;
    let value = samples[at];
    if (channels > 2) value = rint(0.299 * value + 0.587 * samples[at + 1] + 0.114 * samples[at + 2]);
    if (transparent) value = rint(value * (samples[at + channels - 1] / 65535));
    grey[i] = value;
  }
  return grey;
}

/**
 * How many pixels have each value, in the image and in its middle, the half of its height and width.
 * @param {Uint16Array} values
 * @param {number} width
 * @param {number} height
 */
function counted(values, width, height) {
  const [counts, central] = [new Float64Array(65536), new Float64Array(65536)];
  for (const value of values) counts[value]++;
  const [left, top] = [width >> 2, height >> 2];
  for (let y = top; y < height - top; y++)
    for (let x = left; x < width - left; x++) central[values[y * width + x]]++;
  return [counts, central];
}

/**
 * The grey level of each of an image's values.
 * @param {Float64Array} counts (65536,) how many pixels have each value
 * @param {Float64Array} central (65536,) how many in the image's middle
 */
function greyTable(counts, central) {
  const shown = Array.from(counts.keys()).filter((value) => counts[value]);
  const tissue = tissueRange(shown, counts, central);
  const [low, high] = tissue;
  const [start, end, step] = scale(shown.filter((value) => value >= low && value <= high));
  const steps = [step];
  const [widest, highest] = scale(shown);
  if (start !== widest || end !== highest) {
    const outside = shown.filter((value) => value < low || value > high);
    const share = sum(outside.map((value) => counts[value])) / sum(shown.map((value) => counts[value]));
    steps.unshift(`values outside ${low}..${high} (${percent(share)} of the pixels) left out of the scale`);
  }
  const table = Uint8ClampedArray.from(counts, (_, value) => (value - start) * (255 / (end - start || 1)));
  return { table, tissue, steps };
}

/**
 * The values that become 0 and 255, and the step in words.
 * @param {number[]} values increasing
 * @returns {[number, number, string]}
 */
function scale(values) {
  const [low, high] = [values[0], values[values.length - 1]];
  if (values.every((value) => value % 257 === 0)) return [0, 65535, "16 bit scaled to 8 bit"];
  if (high <= 255) return [0, 255, "8 bit values taken out of 16 bit"];
  const full = FULL_SCALES.find((full) => high <= full) ?? 0;
  if (high - low < full / 2) return [low, high, `stretched from ${low}..${high} to 8 bit`];
  return [0, full, `${Math.log2(full + 1)} bit scaled to 8 bit`];
}

/**
 * Lowest and highest value of the picture proper: cut at empty gaps, and where it is far wider than the range of the
 * image's middle, until nothing is cut; then without single pixels.
 * @param {number[]} shown the values that occur, increasing
 * @param {Float64Array} counts of each value
 * @param {Float64Array} central of each value in the image's middle
 * @returns {[number, number]}
 */
function tissueRange(shown, counts, central) {
  const [weights, inside] = [counts, central].map((numbers) => {
    const most = sum([...numbers]) * FLAT;
    return numbers.map((number) => Math.min(number, most));
  });
  let values = shown;
  while (values[values.length - 1] > values[0]) {
    const [low, high] = [values[0], values[values.length - 1]];
    const bin = (/** @type {number} */ value) =>
      Math.min(Math.trunc(((value - low) / (high - low)) * BINS), BINS - 1);
    const [mass, middle] = [new Float64Array(BINS), new Float64Array(BINS)];
    for (const value of values) {
      mass[bin(value)] += weights[value];
      middle[bin(value)] += inside[value];
    }
    const [from, to] = tissuePart(mass, middle);
    const first = from >= GAP ? from - GAP / 4 : 0;
    const last = to < BINS - GAP ? to + GAP / 4 : BINS;
    let kept = values.filter((value) => bin(value) >= first && bin(value) <= last);
    if (kept.length === values.length) kept = nearMiddle(values, inside);
    if (kept.length === values.length || kept.length < FEWEST) break;
    values = kept;
  }
  return withoutSingle(values, counts);
}

/**
 * The values that are no farther than usual from those in the image's middle.
 * @param {number[]} values increasing
 * @param {Float64Array} inside how often each is in the middle
 */
function nearMiddle(values, inside) {
  const [low, high] = [quantile(values, inside, TAIL), quantile(values, inside, 1 - TAIL)];
  const width = high - low;
  const from = low - values[0] > TOO_WIDE * width ? low - USUAL * width : values[0];
  const most = values[values.length - 1];
  const to = most - high > TOO_WIDE * width ? high + USUAL * width : most;
  return values.filter((value) => value >= from && value <= to);
}

/**
 * The first value up to which there is at least that share of all.
 * @param {number[]} values increasing
 * @param {Float64Array} counts of each value
 * @param {number} share
 */
function quantile(values, counts, share) {
  const wanted = share * sum(values.map((value) => counts[value]));
  let below = 0;
  return values.find((value) => (below += counts[value]) >= wanted) ?? values[values.length - 1];
}

/**
 * Lowest and highest value without single pixels that lie far outside of all others.
 * @param {number[]} values increasing
 * @param {Float64Array} counts of each value
 * @returns {[number, number]}
 */
function withoutSingle(values, counts) {
  const [least, most] = [values[0], values[values.length - 1]];
  const [low, high] = [quantile(values, counts, SINGLE), quantile(values, counts, 1 - SINGLE)];
  const far = FAR * (most - least);
  return [low - least > far ? low : least, most - high > far ? high : most];
}

/**
 * First and last bin of the part with most pixels in the image's middle; parts are separated by gaps.
 * @param {Float64Array} mass of each bin
 * @param {Float64Array} middle of each bin, in the image's middle
 * @returns {[number, number]}
 */
function tissuePart(mass, middle) {
  const least = SPARSE * sum([...mass]);
  /** @type {number[][]} */
  const parts = [];
  for (const bin of mass.keys()) {
    if (mass[bin] <= least) continue;
    const part = parts[parts.length - 1];
    if (part && bin - part[part.length - 1] <= GAP) part.push(bin);
    else parts.push([bin]);
  }
  const weight = (/** @type {number[]} */ part, /** @type {Float64Array} */ of) => sum(part.map((bin) => of[bin]));
  const best = parts.reduce((best, part) => {
    const more = weight(part, middle) - weight(best, middle) || weight(part, mass) - weight(best, mass);
    return more > 0 ? part : best;
  });
  return [best[0], best[best.length - 1]];
}

/**
 * Make a white border that is far outside of the tissue black, in place, and say so.
 * @param {Uint8Array} pixels
 * @param {Uint16Array} values
 * @param {number} width
 * @param {number} height
 * @param {(value: number) => boolean} white whether a value is such a border's
 * @returns {string[]}
 */
function paintBorder(pixels, values, width, height, white) {
  let bright = 0;
  for (let x = 0; x < width; x++) bright += Number(white(values[x])) + Number(white(values[(height - 1) * width + x]));
  for (let y = 0; y < height; y++)
    bright += Number(white(values[y * width])) + Number(white(values[(y + 1) * width - 1]));
  if (bright / (2 * (width + height)) < BORDER) return [];
  let painted = 0;
  for (let i = 0; i < values.length; i++)
    if (white(values[i])) {
      pixels[i] = 0;
      painted++;
    }
  return [`white border (${percent(painted / values.length)} of the pixels) painted as background`];
}

/** Round; halves go to the even neighbour, as in NumPy. @param {number} value */
function rint(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** @param {number[]} numbers */
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

/** @param {number} part */
const percent = (part) => (part >= 0.001 ? `${(100 * part).toFixed(1)}%` : "less than 0.1%");
