// @ts-check
/** Cut off a flat border: `pneumocam.image.border` in JavaScript. */

/** @typedef {import("./decode.js").Radiograph} Radiograph */

const FLAT = 6; // grey levels
const NARROW = 0.004; // share of a side
const EDGE = 0.02; // share of a side that the edge of a border may take
const STEEP = 3; // times the usual difference of two lines
const LONG = 0.2; // share of two lines' pixels that differ somewhere in an edge; a marker beside the border takes less
const SMALLEST = 0.4; // share of a side that must be left

/**
 * The radiograph without a flat border of more than 0.4% of a side and its blurred edge, and a step; else itself.
 * @param {Radiograph} radiograph
 * @returns {Radiograph}
 */
export function withoutBorder(radiograph) {
  const { pixels, width, height, steps } = radiograph;
  const rows = (/** @type {number} */ from, /** @type {number} */ step) =>
    flatLines(height, width, (line, i) => pixels[(from + step * line) * width + i]);
  const top = rows(0, 1);
  const bottom = rows(height - 1, -1);
  const kept = height - top - bottom;
  if (kept < SMALLEST * height) return radiograph;
  const columns = (/** @type {number} */ from, /** @type {number} */ step) =>
    flatLines(width, kept, (line, i) => pixels[(top + i) * width + from + step * line]);
  const left = columns(0, 1);
  const right = columns(width - 1, -1);
  const across = width - left - right;
  if ((kept === height && across === width) || across < SMALLEST * width) return radiograph;
  const inside = new Uint8Array(across * kept);
  for (let y = 0; y < kept; y++) {
    const start = (top + y) * width + left;
    inside.set(pixels.subarray(start, start + across), y * across);
  }
  const step = `cut off a flat border: ${top} px above, ${bottom} below, ${left} left, ${right} right`;
  return { ...radiograph, pixels: inside, width: across, height: kept, steps: [...steps, step] };
}

/**
 * How many lines from the edge of the image on are flat or the edge of these; 0 if no more than NARROW of all are flat.
 * @param {number} lines
 * @param {number} length of a line
 * @param {(line: number, i: number) => number} at
 */
function flatLines(lines, length, at) {
  const stride = Math.max(1, Math.floor(length / 256));
  const flat = (/** @type {number} */ line) => {
    const values = [];
    for (let i = 0; i < length; i += stride) values.push(at(line, i));
    values.sort((a, b) => a - b);
    return quantile(values, 0.95) - quantile(values, 0.05) <= FLAT;
  };
  const first = Math.floor(NARROW * lines);
  if (!flat(first)) return 0;
  let count = 0;
  while (count < lines && flat(count)) count++;
  if (count <= first) return 0;
  if (count === lines) return count;
  const compared = Math.ceil(length / stride);
  const changes = Array.from({ length: lines - count - 1 }, (_, line) => {
    const found = { sum: 0, unlike: 0 };
    for (let i = 0; i < length; i += stride) {
      const difference = Math.abs(at(count + line, i) - at(count + line + 1, i));
      found.sum += difference;
      found.unlike += Number(difference > FLAT);
    }
    return found;
  });
  const usual = quantile(
    changes.map(({ sum }) => sum).sort((a, b) => a - b),
    0.5,
  );
  let edge = Math.min(changes.length, Math.round(EDGE * (lines - count)));
  while (edge && changes[edge - 1].sum <= STEEP * usual) edge--;
  const steep = changes.slice(0, edge).filter(({ sum }) => sum > STEEP * usual);
  return steep.some(({ unlike }) => unlike >= LONG * compared) ? count + edge : count;
}

/**
 * As NumPy interpolates it.
 * @param {number[]} sorted
 * @param {number} share
 */
function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}
