// @ts-check
/** The choices that hold for every image; none of them runs the network again. */

/**
 * @typedef {object} Settings
 * @property {string | null} point operating point; null: the model's default
 * @property {number | null} prevalence null: the model's default
 * @property {number} opacity of the map's peak, in [0, 1]
 * @property {string} colours
 */

/** @type {Settings} */
export const settings = { point: null, prevalence: null, opacity: 0.6, colours: "inferno" };

/** @type {((changes: Partial<Settings>) => void)[]} */
const listeners = [];

/** @param {(changes: Partial<Settings>) => void} listener */
export const onSettings = (listener) => void listeners.push(listener);

/** @param {Partial<Settings>} changes */
export function choose(changes) {
  Object.assign(settings, changes);
  for (const listener of listeners) listener(changes);
}
