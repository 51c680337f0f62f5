// @ts-check
/** The outlines of the lung fields, as `pneumocam.guard.outline`: marching squares (Lorensen and Cline 1987). */

/** @typedef {[number, number]} Pair x and y */

const LEVEL = 0.5;
const SHORTEST = 9; // corners of a polygon; smaller ones are specks

/**
 * @param {Float32Array} lungs cells x cells, the probability that a cell of the image lies in a lung field
 * @param {[number, number]} size width and height of the image
 * @returns {Pair[][]} polygons in pixels, the last corner equal to the first; the largest comes first
 */
export function outline(lungs, size) {
  const cells = Math.sqrt(lungs.length);
  const side = cells + 2; // a rim of zeros closes the polygons of fields that touch the image's edge
  const padded = new Float64Array(side * side);
  lungs.forEach((value, i) => (padded[(Math.floor(i / cells) + 1) * side + (i % cells) + 1] = value));
  /** The place of a row or column of `padded`, in shares of the image's side. @param {number} i */
  const place = (i) => Math.min(Math.max((i - 0.5) / cells, 0), 1);
  /** Where the level lies between two neighbours. @param {number} from @param {number} to @returns {Pair} */
  const crossing = (from, to) => {
    const share = (LEVEL - padded[from]) / (padded[to] - padded[from]);
    const [a, b] = [from, to].map((i) => [place(i % side), place(Math.floor(i / side))]);
    const [x, y] = [0, 1].map((axis) => (a[axis] + share * (b[axis] - a[axis])) * size[axis]);
    return [Math.round(10 * x) / 10, Math.round(10 * y) / 10];
  };
  const polygons = traced(steps(padded, side)).map((edges) =>
    edges.map((edge) => crossing(edge >> 1, (edge >> 1) + (edge & 1 ? side : 1))),
  );
  return polygons.filter((one) => one.length >= SHORTEST).sort((a, b) => b.length - a.length);
}

/**
 * For each edge that an outline crosses the next one. An edge's number is twice that of its first cell, plus 1 if it
 * leads down and not to the right.
 * @param {Float64Array} values side x side
 * @param {number} side
 * @returns {Map<number, number>}
 */
function steps(values, side) {
  /** @type {Map<number, number>} */
  const next = new Map();
  for (let y = 0; y + 1 < side; y++)
    for (let x = 0; x + 1 < side; x++) {
      const first = y * side + x;
      const corners = [first, first + 1, first + side + 1, first + side]; // clockwise
      const edges = [2 * first, 2 * (first + 1) + 1, 2 * (first + side), 2 * first + 1]; // each after its corner
      const inside = corners.map((corner) => values[corner] > LEVEL);
      const crossed = [0, 1, 2, 3].filter((i) => inside[i] !== inside[(i + 1) % 4]);
      // Where two opposite corners lie inside, the mean decides whether they are joined.
      const joined = corners.reduce((sum, corner) => sum + values[corner], 0) / 4 > LEVEL;
      crossed.forEach((i, k) => {
        if (!inside[i]) return; // the outline leaves the cell here
        const to = crossed[(k + (joined ? 1 : crossed.length - 1)) % crossed.length];
        next.set(edges[i], edges[to]);
      });
    }
  return next;
}

/** The closed lines of edges. @param {Map<number, number>} next @returns {number[][]} */
function traced(next) {
  const lines = [];
  for (const [start] of next) {
    const line = [start];
    for (let edge = next.get(start); edge !== undefined; edge = next.get(edge)) {
      line.push(edge);
      next.delete(line[line.length - 2]);
    }
    if (line.length > 1) lines.push(line);
  }
  return lines;
}
