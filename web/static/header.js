// @ts-check
/** What the first bytes of a file say: its format, size, channels and orientation; nothing is decoded. */

import { Refusal } from "./refusal.js";

const MOST_PIXELS = 64e6; // the limits of pneumocam.image
const COSTLY = 4;
const LEAST_SIDE = 64;

/**
 * @typedef {object} Header
 * @property {"JPEG" | "PNG" | "WEBP"} format
 * @property {number} width as stored, before any turning
 * @property {number} height
 * @property {number} channels colour channels: 1 for grey, 3 for colour
 * @property {number} depth bits a channel
 * @property {number} orientation of EXIF: 1 is upright
 */

const ACCEPTED = "This page reads JPEG, PNG and WebP";
/** Formats that the Python package reads and a browser does not; the sentence says what to do. */
const ELSEWHERE = "Save the image as PNG, or use the Python package: pneumocam predict FILE.";

/**
 * @param {Uint8Array} bytes the whole file
 * @returns {Header}
 * @throws {Refusal} if this is no whole image that the page reads
 */
export function readHeader(bytes) {
  if (!bytes.length) throw new Refusal("not_an_image", `The upload is empty. ${ACCEPTED}; choose the file again.`);
  const header = parse(bytes);
  const { width, height } = header;
  if (width * height > MOST_PIXELS / (header.format === "WEBP" ? COSTLY : 1))
    throw new Refusal(
      "too_large",
      `The image claims ${width} x ${height} pixels, which is more than is accepted. Export it at a lower resolution.`,
    );
  if (Math.min(width, height) < LEAST_SIDE)
    throw new Refusal(
      "too_small",
      `The image is ${width} x ${height} pixels; each side needs at least ${LEAST_SIDE}. Upload the original ` +
        "radiograph, not a thumbnail.",
    );
  return header;
}

/**
 * @param {Uint8Array} bytes
 * @returns {Header}
 */
function parse(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    if (starts(bytes, "\xff\xd8\xff")) return jpeg(view);
    if (starts(bytes, "\x89PNG\r\n\x1a\n")) return png(view);
    if (starts(bytes, "RIFF") && starts(bytes, "WEBP", 8)) return webp(view);
  } catch (error) {
    if (error instanceof RangeError) throw damaged();
    throw error;
  }
  const name = foreign(bytes);
  if (name)
    throw new Refusal("unsupported_here", `The upload is ${name}, which a browser does not read. ${ELSEWHERE}`);
  throw new Refusal("not_an_image", `The upload is no image that is known here. ${ACCEPTED}; save it as PNG.`);
}

/** @param {Uint8Array} bytes */
function foreign(bytes) {
  const nameless = [2, 8].includes(bytes[0]) && !bytes[1] && !bytes[3]; // begins with an element of group 2 or 8
  if (starts(bytes, "DICM", 128) || nameless) return "a DICOM file";
  if (["II*\0", "II+\0", "MM\0*", "MM\0+"].some((sign) => starts(bytes, sign))) return "a TIFF file";
  if (starts(bytes, "BM")) return "a BMP file";
  if (starts(bytes, "GIF8")) return "a GIF file";
  return "";
}

/** @param {DataView} view @returns {Header} */
function jpeg(view) {
  let orientation = 1;
  /** @type {Header | null} */
  let frame = null;
  for (let at = 2; ; ) {
    while (view.getUint8(at) !== 0xff) at++; // what Pillow steps over
    while (view.getUint8(at) === 0xff) at++;
    const marker = view.getUint8(at++);
    if ((marker >= 0xd0 && marker <= 0xd8) || marker === 0x01) continue;
    if (marker === 0xd9) throw damaged();
    const length = view.getUint16(at);
    if (marker === 0xda) break;
    if (marker === 0xe1 && latin(view, at + 2, 6) === "Exif\0\0")
      orientation = exifOrientation(part(view, at + 8, at + length));
    else if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker))
      frame = {
        format: "JPEG",
        width: view.getUint16(at + 5),
        height: view.getUint16(at + 3),
        channels: view.getUint8(at + 7),
        depth: view.getUint8(at + 2),
        orientation: 1,
      };
    at += length;
  }
  if (!frame || !endsWithMarker(view)) throw damaged();
  if (frame.depth !== 8 || (frame.channels !== 1 && frame.channels !== 3))
    throw new Refusal("unsupported_here", `The JPEG has ${frame.channels} channels of ${frame.depth} bits. ${ELSEWHERE}`);
  return { ...frame, orientation };
}

/** Whether the JPEG has its end: a browser shows the part that came of one that was cut off. @param {DataView} view */
function endsWithMarker(view) {
  for (let at = view.byteLength - 2; at > 0; at--)
    if (view.getUint16(at) === 0xffd9) return true;
    else if (view.getUint16(at) === 0xffda) return false;
  return false;
}

/** @param {DataView} view @returns {Header} */
function png(view) {
  const depth = view.getUint8(24);
  const kind = view.getUint8(25);
  let orientation = 1;
  for (let at = 8; ; at += view.getUint32(at) + 12) {
    const name = latin(view, at + 4, 4);
    if (name === "acTL") throw several("PNG");
    if (name === "eXIf") orientation = exifOrientation(part(view, at + 8, at + 8 + view.getUint32(at)));
    if (name === "IEND") break;
  }
  const header = { width: view.getUint32(16), height: view.getUint32(20), channels: kind & 2 ? 3 : 1, depth };
  return upright({ format: "PNG", ...header, orientation });
}

/** @param {DataView} view @returns {Header} */
function webp(view) {
  if (view.getUint32(4, true) + 8 > view.byteLength) throw damaged();
  let orientation = 1;
  let [width, height] = [0, 0];
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const name = latin(view, at, 4);
    const length = view.getUint32(at + 4, true);
    if (name === "ANIM") throw several("WebP");
    if (name === "EXIF") orientation = exifOrientation(part(view, at + 8, at + 8 + length));
    if (name === "VP8 ")
      [width, height] = [view.getUint16(at + 14, true) & 0x3fff, view.getUint16(at + 16, true) & 0x3fff];
    if (name === "VP8L") {
      const bits = view.getUint32(at + 9, true);
      [width, height] = [(bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1];
    }
    at += 8 + length + (length & 1);
  }
  if (!width) throw damaged();
  return upright({ format: "WEBP", width, height, channels: 3, depth: 8, orientation });
}

/**
 * The EXIF orientation, 1..8, of a TIFF structure; 1 if it is not there.
 * @param {DataView | null} tiff
 */
function exifOrientation(tiff) {
  try {
    if (!tiff) return 1;
    if (latin(tiff, 0, 6) === "Exif\0\0") return exifOrientation(part(tiff, 6, tiff.byteLength));
    const little = latin(tiff, 0, 2) === "II";
    const directory = tiff.getUint32(4, little);
    for (let i = 0; i < tiff.getUint16(directory, little); i++) {
      const entry = directory + 2 + 12 * i;
      if (tiff.getUint16(entry, little) !== 0x0112) continue;
      const value = tiff.getUint16(entry + 8, little);
      return value >= 1 && value <= 8 ? value : 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // a directory that is cut off
  }
  return 1;
}

/**
 * Browsers turn a JPEG by its EXIF orientation; they do not agree about other formats.
 * @param {Header} header
 */
function upright(header) {
  if (header.orientation === 1) return header;
  throw new Refusal(
    "unsupported_here",
    `The ${header.format} is stored turned, with an EXIF orientation, and browsers disagree about that. ${ELSEWHERE}`,
  );
}

const damaged = () =>
  new Refusal(
    "damaged_image",
    "The image is truncated or damaged, or of a rare variant, and cannot be decoded. Export it again, or save it as PNG.",
  );

/** @param {string} format */
const several = (format) =>
  new Refusal(
    "multi_frame",
    `The ${format} holds several images; one radiograph is accepted at a time. Save the one you mean as a file of its own.`,
  );

/** @param {Uint8Array} bytes @param {string} sign @param {number} [at] */
const starts = (bytes, sign, at = 0) => text(bytes, at, sign.length) === sign;

/** @param {Uint8Array} bytes @param {number} at @param {number} length */
const text = (bytes, at, length) => String.fromCharCode(...bytes.subarray(at, at + length));

/** @param {DataView} view @param {number} at @param {number} length @throws {RangeError} behind the end */
function latin(view, at, length) {
  let result = "";
  for (let i = 0; i < length; i++) result += String.fromCharCode(view.getUint8(at + i));
  return result;
}

/** @param {DataView} view @param {number} from @param {number} to */
function part(view, from, to) {
  return to <= view.byteLength && from <= to ? new DataView(view.buffer, view.byteOffset + from, to - from) : null;
}
