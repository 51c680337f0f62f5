// @ts-check
/** Pixels: the saliency map enlarged and laid over the image, and the image's window. As `pneumocam.overlay`. */

/** @typedef {import("./prediction.js").Box} Box */

/**
 * Base64 of 256 RGB triples -> bytes.
 * @param {string} base64
 */
export const colourTable = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

/**
 * For each of `count` pixels along a side of the image: the two map cells around it, and the weight of the second.
 * @param {number} count
 * @param {number} side of the image, in the unit of `from` and `to`
 * @param {number} from where the map begins
 * @param {number} to where it ends
 * @param {number} cells
 */
export function samples(count, side, from, to, cells) {
  const result = [];
  for (let i = 0; i < count; i++) {
    const place = (((i + 0.5) * side) / count - from) / (to - from);
    const cell = Math.min(Math.max(place * cells - 0.5, 0), cells - 1);
    const first = Math.floor(cell);
    const second = Math.min(first + 1, cells - 1);
    result.push({ seen: place >= 0 && place <= 1, first, second, weight: cell - first });
  }
  return result;
}

/**
 * A map, bilinearly enlarged to `width` x `height` pixels; 0 where the network saw nothing.
 * @param {number[][] | null | undefined} map rows of values in [0, 1]
 * @param {Box} box what it covers of an image of `size`
 * @param {[number, number]} size
 * @param {number} width
 * @param {number} height
 */
export function heat(map, box, size, width, height) {
  const result = new Float32Array(width * height);
  if (!map) return result;
  const columns = samples(width, size[0], box[0], box[2], map[0].length);
  const rows = samples(height, size[1], box[1], box[3], map.length);
  for (let y = 0; y < height; y++) {
    const { seen, first, second, weight } = rows[y];
    if (!seen) continue;
    const across = map[first].map((value, i) => value * (1 - weight) + map[second][i] * weight);
    for (let x = 0; x < width; x++) {
      const column = columns[x];
      if (column.seen)
        result[y * width + x] = across[column.first] * (1 - column.weight) + across[column.second] * column.weight;
    }
  }
  return result;
}

/**
 * @typedef {object} Window which grey levels are shown between black and white
 * @property {number} centre
 * @property {number} width
 * @property {boolean} inverted
 */

/** @type {Readonly<Window>} */
export const WHOLE_WINDOW = Object.freeze({ centre: 127.5, width: 255, inverted: false });

/**
 * What each grey level is shown as; as DICOM's linear window.
 * @param {Window} window
 */
export function windowTable({ centre, width, inverted }) {
  return Uint8ClampedArray.from({ length: 256 }, (_, grey) => {
    const shown = (255 * (grey - centre)) / width + 127.5;
    return inverted ? 255 - shown : shown;
  });
}

/**
 * The window after a drag, as in OHIF: to the right it widens, downwards it gets darker.
 * @param {Window} window
 * @param {number} x CSS pixels
 * @param {number} y CSS pixels
 * @returns {Window}
 */
export function draggedWindow({ centre, width, inverted }, x, y) {
  return {
    centre: Math.min(Math.max(centre + y / 2, 0), 255),
    width: Math.min(Math.max(width + x, 2), 510),
    inverted,
  };
}

/**
 * Grey levels -> RGBA.
 * @param {Uint8Array} grey
 * @param {Uint8ClampedArray} table as from `windowTable`
 * @param {Uint8ClampedArray} target four bytes per pixel
 */
export function plain(grey, table, target) {
  for (let i = 0; i < grey.length; i++) {
    target[4 * i] = target[4 * i + 1] = target[4 * i + 2] = table[grey[i]];
    target[4 * i + 3] = 255;
  }
}

/**
 * Grey levels with the map over them: colour is as opaque as the map is strong.
 * @param {Uint8Array} grey
 * @param {Uint8ClampedArray} table as from `windowTable`
 * @param {Float32Array} heat one value per pixel, in [0, 1]
 * @param {Uint8Array} colours as from `colourTable`
 * @param {number} opacity at the map's peak
 * @param {Uint8ClampedArray} target four bytes per pixel
 */
export function blend(grey, table, heat, colours, opacity, target) {
  for (let i = 0; i < grey.length; i++) {
    const share = opacity * heat[i];
    const colour = 3 * Math.min(Math.floor(heat[i] * 256), 255);
    const under = table[grey[i]] * (1 - share);
    target[4 * i] = under + colours[colour] * share;
    target[4 * i + 1] = under + colours[colour + 1] * share;
    target[4 * i + 2] = under + colours[colour + 2] * share;
    target[4 * i + 3] = 255;
  }
}
