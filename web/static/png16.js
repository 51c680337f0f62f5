// @ts-check
/** PNG with 16 bits a channel, which a browser's own decoder would cut down to 8. */

/**
 * @typedef {object} Deep
 * @property {Uint16Array} samples height x width x channels
 * @property {number} width
 * @property {number} height
 * @property {number} channels 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha
 */

const CHANNELS = new Map([
  [0, 1],
  [2, 3],
  [4, 2],
  [6, 4],
]);
const INTERLACED = [
  // first column and row, step between columns and rows, of each of Adam7's passes
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
];

/**
 * @param {Uint8Array<ArrayBuffer>} bytes a whole PNG of 16 bits a channel
 * @returns {Promise<Deep>}
 * @throws {Error} if it is damaged
 */
export async function readPng16(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const channels = CHANNELS.get(bytes[25]);
  if (!channels) throw new Error("A PNG of 16 bits a channel has no palette.");
  const passes = bytes[28] ? INTERLACED : [[0, 0, 1, 1]];
  const pixel = 2 * channels; // bytes
  const sizes = passes.map(([left, top, across, down]) => ({
    columns: Math.max(Math.ceil((width - left) / across), 0),
    rows: Math.max(Math.ceil((height - top) / down), 0),
  }));
  const length = sizes.reduce((sum, { columns, rows }) => sum + (columns && rows * (1 + columns * pixel)), 0);
  const data = await inflated(imageData(bytes, view), length);
  const samples = new Uint16Array(width * height * channels);
  let at = 0;
  passes.forEach(([left, top, across, down], i) => {
    const { columns, rows } = sizes[i];
    if (!columns) return;
    let above = new Uint8Array(columns * pixel);
    for (let row = 0; row < rows; row++) {
      const line = data.subarray(at + 1, at + 1 + columns * pixel);
      unfilter(data[at], line, above, pixel);
      for (let column = 0; column < columns; column++) {
        const target = ((top + row * down) * width + left + column * across) * channels;
        for (let channel = 0; channel < channels; channel++) {
          const source = (column * channels + channel) * 2;
          samples[target + channel] = (line[source] << 8) | line[source + 1];
        }
      }
      above = line;
      at += 1 + columns * pixel;
    }
  });
  return { samples, width, height, channels };
}

/**
 * The content of all IDAT chunks.
 * @param {Uint8Array<ArrayBuffer>} bytes
 * @param {DataView} view
 */
function imageData(bytes, view) {
  const parts = [];
  for (let at = 8; at + 12 <= bytes.length; at += view.getUint32(at) + 12)
    if (view.getUint32(at + 4) === 0x49444154) parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
  return parts;
}

/**
 * Undo zlib's compression, and no more of it than the image takes.
 * @param {Uint8Array<ArrayBuffer>[]} parts
 * @param {number} length expected
 */
async function inflated(parts, length) {
  const data = new Uint8Array(length);
  let there = 0;
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  while (there < length) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The PNG has fewer rows than it claims.");
    const chunk = value.subarray(0, length - there);
    data.set(chunk, there);
    there += chunk.length;
  }
  await reader.cancel();
  return data;
}

/**
 * Undo a row's filter in place.
 * @param {number} filter
 * @param {Uint8Array} line
 * @param {Uint8Array} above the row before it, or zeros
 * @param {number} pixel bytes
 */
function unfilter(filter, line, above, pixel) {
  for (let i = 0; i < line.length; i++) {
    const left = i < pixel ? 0 : line[i - pixel];
    if (filter === 1) line[i] += left;
    else if (filter === 2) line[i] += above[i];
    else if (filter === 3) line[i] += (left + above[i]) >> 1;
    else if (filter === 4) line[i] += paeth(left, above[i], i < pixel ? 0 : above[i - pixel]);
    else if (filter) throw new Error("The PNG has a filter that does not exist.");
  }
}

/** @param {number} left @param {number} up @param {number} corner */
function paeth(left, up, corner) {
  const guess = left + up - corner;
  const a = Math.abs(guess - left);
  const b = Math.abs(guess - up);
  const c = Math.abs(guess - corner);
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}
