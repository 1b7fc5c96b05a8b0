/* Joins elements with data-behaviour="name other" to what they do, also those that htmx brings in later. */
const known = new Map();
const done = new WeakMap();

export function behaviour(name, start) {
  known.set(name, start);
}

export function startBehaviours(root) {
  const elements = [...root.querySelectorAll("[data-behaviour]")];
  if (root.matches?.("[data-behaviour]")) elements.unshift(root);
  for (const element of elements) {
    const started = done.get(element) ?? new Set();
    done.set(element, started);
    for (const name of element.dataset.behaviour.split(" ")) {
      if (!known.has(name) || started.has(name)) continue;
      started.add(name);
      known.get(name)(element);
    }
  }
}
