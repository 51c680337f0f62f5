// @ts-check
/** The large files of the page: downloaded once, checked, kept in the browser's cache, unpacked. */

const CACHE = "pneumocam-model"; // the service worker leaves it to this module

/**
 * @typedef {object} Part a file that is gzip-compressed by us, whatever the host does
 * @property {string} file
 * @property {number} bytes of the compressed file
 * @property {string} sha256 of the compressed file, in hexadecimal digits
 */

/**
 * @param {Part[]} parts
 * @param {URL} base what their names are relative to
 * @param {(bytes: number) => void} arrived is told how many bytes of all parts together are there
 * @returns {Promise<Uint8Array<ArrayBuffer>[]>} the unpacked contents
 */
export async function load(parts, base, arrived) {
  let bytes = 0;
  const add = (/** @type {number} */ count) => arrived((bytes += count));
  return Promise.all(parts.map((part) => loadPart(part, new URL(part.file, base), add)));
}

/**
 * Whether all parts are in this browser's cache.
 * @param {Part[]} parts
 * @param {URL} base
 */
export async function isCached(parts, base) {
  const cache = await openCache();
  const found = await Promise.all(parts.map((part) => cache?.match(new URL(part.file, base))));
  return found.every(Boolean);
}

/**
 * @param {Part} part
 * @param {URL} url
 * @param {(bytes: number) => void} add
 */
async function loadPart(part, url, add) {
  const cache = await openCache();
  const kept = await cache?.match(url);
  if (kept) {
    const bytes = new Uint8Array(await kept.arrayBuffer());
    add(bytes.length);
    return unpacked(bytes);
  }
  const bytes = await download(part, url, add);
  try {
    await cache?.put(url, new Response(bytes));
  } catch (error) {
    console.info("The model is not kept for the next visit:", error); // no room; the page works all the same
  }
  return unpacked(bytes);
}

/**
 * @param {Part} part
 * @param {URL} url
 * @param {(bytes: number) => void} add
 */
async function download(part, url, add) {
  const response = await fetch(url);
  if (!response.ok || !response.body) throw new Error(`${part.file} came with status ${response.status}.`);
  const bytes = new Uint8Array(part.bytes);
  let length = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (length + value.length > bytes.length) throw new Error(`${part.file} is longer than it was published.`);
    bytes.set(value, length);
    length += value.length;
    add(value.length);
  }
  if (length !== bytes.length || (await digest(bytes)) !== part.sha256)
    throw new Error(`${part.file} came damaged; its SHA-256 is not the published one.`);
  return bytes;
}

/** @param {Uint8Array<ArrayBuffer>} bytes */
async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Uint8Array<ArrayBuffer>} bytes */
async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The cache, or undefined where the browser has none: in private windows of some. */
async function openCache() {
  try {
    return await caches.open(CACHE);
  } catch {
    return undefined;
  }
}
