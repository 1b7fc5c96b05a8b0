/* Small helpers to build and find elements. Text goes in as text, never as markup. */

/** make("button", {class: "btn", type: "button"}, "Text", child, …) */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** The icon `name` of the sprite. */
export function icon(name, extra = "") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon ${extra}`.trim());
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${document.documentElement.dataset.icons}#i-${name}`);
  svg.append(use);
  return svg;
}

/** Is the keyboard busy with text? Then single keys belong to it. */
export function isTyping(element) {
  return Boolean(element?.closest("input, textarea, select, [contenteditable], .xterm"));
}

export function csrfToken() {
  return document.querySelector('meta[name="csrf-token"]')?.content ?? "";
}

/** Sends a form that no template holds. */
export function post(url, fields = {}) {
  const form = make("form", { method: "post", action: url, hidden: true });
  for (const [name, value] of Object.entries({ csrfmiddlewaretoken: csrfToken(), ...fields })) {
    form.append(make("input", { type: "hidden", name, value }));
  }
  document.body.append(form);
  form.submit();
}

let lastSaid = 0;
let saying;

/** Tells screen readers, at most one message in 10 s; the newest wins. */
export function announce(text, { now = false } = {}) {
  clearTimeout(saying);
  const wait = now ? 0 : Math.max(0, lastSaid + 10_000 - Date.now());
  saying = setTimeout(() => {
    lastSaid = Date.now();
    document.getElementById("live-region").textContent = text;
  }, wait);
}
