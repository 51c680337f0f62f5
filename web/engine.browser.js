// @ts-check
/** The engine without a server: the network runs in a worker of this browser, and nothing is uploaded. */

import { EngineError } from "./engine.server.js";

/** @typedef {import("./engine.server.js").Engine} Engine */
/** @typedef {import("./prediction.js").Row} Row */
/** @typedef {import("./prediction.js").Info & {download: number}} Info */
/** @typedef {"absent" | "loading" | "ready"} State of the model in this browser */

/**
 * @typedef {object} Waiting
 * @property {(row: Row) => void} resolve
 * @property {(error: Error) => void} reject
 */

const base = new URL("./", import.meta.url);

/** @implements {Engine} */
export class BrowserEngine {
  /** @type {State} */
  state = "absent";
  /** @type {(bytes: number) => void} called with the number of bytes of the model that have arrived, and when `state` changes */
  changed = () => {};
  /** @type {Promise<Info> | undefined} */
  #info;
  /** @type {Worker | undefined} */
  #worker;
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();
  #count = 0;

  /** @returns {Promise<Info>} */
  info() {
    this.#info ??= fetched("model/info.json").then((response) => response.json());
    return this.#info;
  }

  /** Download the model, if this browser does not have it yet, and make it ready. */
  async load() {
    await this.#ask({});
  }

  /**
   * @param {File} file
   * @param {{force?: boolean}} options force: classify a border case that the guard refuses
   * @returns {Promise<Row>}
   */
  async predict(file, { force = false } = {}) {
    return this.#ask({ name: file.name, bytes: new Uint8Array(await file.arrayBuffer()), force });
  }

  /**
   * @param {string} name
   * @returns {Promise<Row>}
   */
  async example(name) {
    const { examples } = await this.info();
    const example = /** @type {any} */ (examples.find(({ file }) => file === name));
    if (example.row) return { ...(await (await fetched(example.row)).json()), truth: example.truth };
    const bytes = await (await fetched(`examples/${encodeURIComponent(name)}`)).arrayBuffer();
    return { ...(await this.#ask({ name, bytes: new Uint8Array(bytes) })), truth: example.truth };
  }

  /**
   * @param {{name?: string, bytes?: Uint8Array<ArrayBuffer>, force?: boolean}} request without bytes: only to load the model
   * @returns {Promise<Row>}
   */
  #ask(request) {
    this.#worker ??= this.#start();
    const id = this.#count++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker?.postMessage({ id, ...request }, request.bytes ? [request.bytes.buffer] : []);
    });
  }

  #start() {
    // The page's content security policy binds a worker with a blob: address, but not one with an address of its own.
    const source = `import ${JSON.stringify(new URL("static/worker.js", base).href)};`;
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })), { type: "module" });
    worker.addEventListener("message", ({ data }) => this.#receive(data));
    worker.addEventListener("error", (event) => {
      for (const { reject } of this.#waiting.values()) reject(new EngineError("worker", event.message));
      this.#waiting.clear();
      this.#worker = undefined;
      this.#change("absent");
    });
    return worker;
  }

  /** @param {{id?: number, row?: Row, error?: {code: string, message: string}, state?: State, bytes?: number}} data */
  #receive({ id, row, error, state, bytes }) {
    if (id === undefined) return this.#change(state ?? this.state, bytes);
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error) waiting?.reject(new EngineError(error.code, error.message));
    else waiting?.resolve(/** @type {Row} */ (row));
  }

  /** @param {State} state @param {number} bytes */
  #change(state, bytes = 0) {
    this.state = state;
    this.changed(bytes);
  }
}

/** @param {string} path */
async function fetched(path) {
  const response = await fetch(new URL(path, base)).catch((error) => {
    throw new EngineError("connection", String(error));
  });
  if (!response.ok) throw new EngineError("connection", `${path}: status ${response.status}.`);
  return response;
}
