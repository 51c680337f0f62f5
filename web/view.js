// @ts-check
/** Where the image lies in a pane: zoom, position, turns and flips. All of it is arithmetic. */

/**
 * @typedef {[number, number]} Pair x and y
 * @typedef {[number, number, number, number]} Turn a 2 x 2 matrix by columns, of turns by 90 degrees and flips
 *
 * @typedef {object} View
 * @property {number} zoom 1 if the whole image just fits
 * @property {Pair} centre what is in the middle of the pane, as shares of the image's width and height
 * @property {Turn} turn
 */

export const MOST_ZOOM = 8;

/** @type {Record<"right" | "left" | "horizontal" | "vertical", Turn>} */
const TURNS = { right: [0, 1, -1, 0], left: [0, -1, 1, 0], horizontal: [-1, 0, 0, 1], vertical: [1, 0, 0, -1] };

/** @returns {View} */
export const wholeView = () => ({ zoom: 1, centre: [0.5, 0.5], turn: [1, 0, 0, 1] });

/**
 * @param {Turn} turn
 * @param {Pair} point
 * @returns {Pair}
 */
const apply = ([a, b, c, d], [x, y]) => [a * x + c * y, b * x + d * y];

/**
 * The way back: these matrices are orthogonal.
 * @param {Turn} turn
 * @returns {Turn}
 */
const inverse = ([a, b, c, d]) => [a, c, b, d];

/**
 * What is on screen turned or flipped once more.
 * @param {View} view
 * @param {keyof typeof TURNS} how
 * @returns {View}
 */
export function turned(view, how) {
  const [a, b, c, d] = view.turn;
  return { ...view, turn: [...apply(TURNS[how], [a, b]), ...apply(TURNS[how], [c, d])] };
}

/** Whether left and right are exchanged. @param {View} view */
export const isMirrored = ({ turn: [a, b, c, d] }) => a * d - b * c < 0;

/**
 * CSS pixels per pixel of the image at zoom 1.
 * @param {View} view
 * @param {Pair} pane its size
 * @param {Pair} image its size
 */
export function fitScale({ turn }, pane, image) {
  const [width, height] = apply(turn, image).map(Math.abs);
  return Math.min(pane[0] / width, pane[1] / height);
}

/**
 * The view with its centre where the image still fills the pane, as far as it can.
 * @param {View} view
 * @param {Pair} pane
 * @param {Pair} image
 * @returns {View}
 */
export function clamped(view, pane, image) {
  const scale = fitScale(view, pane, image) * view.zoom;
  const room = apply(view.turn, image).map((side, i) => Math.min(pane[i] / (2 * scale * Math.abs(side)), 0.5));
  const across = apply(inverse(view.turn), [room[0], room[1]]).map(Math.abs);
  const [x, y] = view.centre.map((share, i) => Math.min(Math.max(share, across[i]), 1 - across[i]));
  return { ...view, centre: [x, y] };
}

/**
 * @param {View} view
 * @param {Pair} by CSS pixels
 * @param {Pair} pane
 * @param {Pair} image
 */
export function panned(view, by, pane, image) {
  const scale = fitScale(view, pane, image) * view.zoom;
  const [x, y] = apply(inverse(view.turn), by);
  const centre = /** @type {Pair} */ ([
    view.centre[0] - x / (scale * image[0]),
    view.centre[1] - y / (scale * image[1]),
  ]);
  return clamped({ ...view, centre }, pane, image);
}

/**
 * Zoomed so that what lies at a place of the pane stays there.
 * @param {View} view
 * @param {number} zoom
 * @param {Pair} place CSS pixels from the middle of the pane
 * @param {Pair} pane
 * @param {Pair} image
 */
export function zoomed(view, zoom, place, pane, image) {
  const least = Math.min(1, 1 / fitScale(view, pane, image));
  const bounded = Math.min(Math.max(zoom, least), MOST_ZOOM);
  const factor = bounded / view.zoom;
  const by = /** @type {Pair} */ ([place[0] * (1 - factor), place[1] * (1 - factor)]);
  return panned({ ...view, zoom: bounded }, by, pane, image);
}

/**
 * The transform of a canvas that draws the image, in the order of `setTransform`.
 * @param {View} view
 * @param {Pair} pane
 * @param {Pair} image
 * @param {Pair} middle of the pane on the canvas
 * @param {number} ratio canvas pixels per CSS pixel
 * @returns {[number, number, number, number, number, number]}
 */
export function transform(view, pane, image, middle, ratio) {
  const scale = fitScale(view, pane, image) * view.zoom * ratio;
  const [a, b, c, d] = view.turn.map((x) => x * scale);
  const [x, y] = apply([a, b, c, d], [view.centre[0] * image[0], view.centre[1] * image[1]]);
  return [a, b, c, d, middle[0] - x, middle[1] - y];
}
