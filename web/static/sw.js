// @ts-check
/** The service worker: the page from the browser's own cache, so that it works offline after the first visit. */

const scope = /** @type {any} */ (self);
scope.importScripts("files.js"); // `pneumocam static` writes it: self.FILES = {version, page: [...], parts: [...]}

/** @type {{version: string, page: string[], parts: string[]}} */
const { version, page, parts } = scope.FILES;
const CACHE = `pneumocam-page-${version}`;
const MODEL = "pneumocam-model"; // filled by download.js

/** Fetch the page's files as they are on the host now, past the browser's HTTP cache. */
async function install() {
  const cache = await caches.open(CACHE);
  await cache.addAll(page.map((file) => new Request(file, { cache: "reload" })));
}

/** Remove what earlier versions left. */
async function tidy() {
  for (const name of await caches.keys())
    if (name.startsWith("pneumocam-page-") && name !== CACHE) await caches.delete(name);
  const wanted = parts.map((file) => new URL(file, scope.registration.scope).href);
  const model = await caches.open(MODEL);
  for (const request of await model.keys()) if (!wanted.includes(request.url)) await model.delete(request);
  await scope.clients.claim();
}

/**
 * From the cache; else from the host, and an example is kept.
 * @param {Request} request
 */
async function respond(request) {
  const cache = await caches.open(CACHE);
  const found = await cache.match(request, { ignoreSearch: true });
  if (found) return found;
  const response = await fetch(request);
  if (response.ok && request.url.startsWith(new URL("examples/", scope.registration.scope).href))
    await cache.put(request, response.clone());
  return response;
}

scope.addEventListener("install", (/** @type {any} */ event) => event.waitUntil(install()));
scope.addEventListener("activate", (/** @type {any} */ event) => event.waitUntil(tidy()));
scope.addEventListener("fetch", (/** @type {any} */ event) => {
  const { request } = event;
  const wanted = parts.some((file) => request.url.endsWith(file)); // download.js keeps these
  if (request.method === "GET" && request.url.startsWith(scope.registration.scope) && !wanted)
    event.respondWith(respond(request));
});
