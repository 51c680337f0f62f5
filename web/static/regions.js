// @ts-check
/** Where a map lies, and one word for it, as `pneumocam.regions`. */

import { heat } from "../overlay.js";

const EMPTY = 0.1; // of the peak of the image's strongest map
const STEADY = 0.8; // agreement of halves of the network's channels
const GRID = 128; // cells of the longer side, of the grid that regions are found on

/**
 * @typedef {object} Map the cells of a map with what it covers, in pixels of an image of `size`
 * @property {number[][]} cells on the scale of the image's maps, in [0, 1]
 * @property {number | null} steadiness
 * @property {[number, number, number, number]} box
 * @property {[number, number]} size
 */

/**
 * What is said of a map, as `Saliency.to_dict`.
 * @param {string} target
 * @param {Map} map
 * @param {Float32Array | null} lungs cells x cells, the probability that a cell of the image lies in a lung field
 */
export function described(target, map, lungs) {
  const peak = Math.max(...map.cells.flat());
  const inside = lungs && share(map, lungs);
  const even = { ...map, cells: map.cells.map((row) => row.map(() => 1)) };
  const expected = lungs && share(even, lungs);
  const quality = word(peak, inside, expected, map.steadiness);
  const found = quality === "empty" ? [] : regions(map);
  return { target, quality, peak, inside_lungs: inside, expected_inside_lungs: expected, steadiness: map.steadiness, regions: found };
}

/**
 * @param {number} peak
 * @param {number | null} inside
 * @param {number | null} expected
 * @param {number | null} steadiness
 */
function word(peak, inside, expected, steadiness) {
  if (!(peak >= EMPTY)) return "empty";
  if (inside !== null && expected !== null && inside <= expected) return "outside_lungs";
  if (steadiness === null) return null;
  return steadiness >= STEADY ? "steady" : "unsteady";
}

/** The share of the map's energy inside the lung fields. @param {Map} map @param {Float32Array} lungs */
function share({ cells, box, size }, lungs) {
  const side = Math.sqrt(lungs.length);
  return part(heat(cells, box, size, side, side), (i) => lungs[i] > 0.5);
}

/** @param {Float32Array} values @param {(i: number) => boolean} inside */
function part(values, inside) {
  const total = values.reduce((sum, value) => sum + value, 0);
  return total > 0 ? values.reduce((sum, value, i) => sum + (inside(i) ? value : 0), 0) / total : 0;
}

/**
 * The connected parts of a map above half of its peak, that with the most energy first.
 * @param {Map} map
 */
function regions({ cells, box, size }) {
  const shrink = Math.min(1, GRID / Math.max(...size));
  const [columns, rows] = size.map((side) => Math.max(1, even(side * shrink)));
  const values = heat(cells, box, size, columns, rows);
  const peak = values.reduce((a, b) => Math.max(a, b), 0);
  const seen = values.map((value) => Number(value <= peak / 2));
  const found = [];
  for (let start = 0; start < values.length; start++) {
    if (seen[start]) continue;
    const region = filled(seen, start, columns);
    const [xs, ys] = [region.map((i) => i % columns), region.map((i) => Math.floor(i / columns))];
    const least = (/** @type {number[]} */ all) => all.reduce((a, b) => Math.min(a, b));
    const most = (/** @type {number[]} */ all) => all.reduce((a, b) => Math.max(a, b)) + 1;
    const across = [least(xs), most(xs)].map((x) => even((x * size[0]) / columns));
    const down = [least(ys), most(ys)].map((y) => even((y * size[1]) / rows));
    const own = new Set(region);
    found.push({
      box: [across[0], down[0], across[1], down[1]],
      score: region.reduce((a, i) => Math.max(a, values[i]), 0),
      share: part(values, (i) => own.has(i)),
    });
  }
  return found.sort((a, b) => b.share - a.share);
}

/**
 * The cells that are connected by their sides with one; marks them as seen.
 * @param {Float32Array} seen
 * @param {number} start
 * @param {number} columns
 */
function filled(seen, start, columns) {
  const region = [start];
  seen[start] = 1;
  for (const cell of region) {
    const beside = [cell % columns ? cell - 1 : -1, (cell + 1) % columns ? cell + 1 : -1];
    for (const one of [...beside, cell - columns, cell + columns])
      if (seen[one] === 0) {
        seen[one] = 1;
        region.push(one);
      }
  }
  return region;
}

/** The nearest integer, of two the even one, as Python rounds. @param {number} x */
function even(x) {
  const rounded = Math.round(x);
  return rounded - x === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
