/* Keys of the pages. Single keys are off while text is typed, in dialogs, in terminals, and when switched off (WCAG 2.1.4). */
import { behaviour } from "./behaviours.js";
import { isTyping } from "./dom.js";
import { load, save } from "./settings.js";

const SEQUENCE_MS = 1200;
const PLACES = { f: "/fleet/", s: "/sessions/", u: "/audit/" };
const single = new Map();
let leader = 0;

/** `act(event)` returns false if the key means nothing here. */
export function onKey(key, act) {
  single.set(key, [...(single.get(key) ?? []), act]);
}

export const keysDialog = () => document.getElementById("keys");

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (load("keys", "on") === "off" || isTyping(event.target) || document.querySelector("dialog[open]")) return;
  const now = performance.now();
  if (now - leader < SEQUENCE_MS) {
    leader = 0;
    const link = PLACES[event.key] && document.querySelector(`.fo-nav a[href^="${PLACES[event.key]}"]`);
    if (link) return event.preventDefault(), link.click();
  }
  if (event.key === "g") {
    leader = now;
    return;
  }
  for (const act of single.get(event.key) ?? []) {
    if (act(event) !== false) return event.preventDefault();
  }
});

onKey("?", () => (keysDialog() ? keysDialog().showModal() : false));

onKey("/", () => {
  const input = document.querySelector("main .fo-filterinput input:not([type=hidden]), main [type=search]");
  if (!input) return false;
  input.focus();
  input.select();
});

behaviour("keys-opener", (button) => button.addEventListener("click", () => keysDialog()?.showModal()));

behaviour("keys-switch", (box) => {
  box.checked = load("keys", "on") !== "off";
  box.addEventListener("change", () => save("keys", box.checked ? "on" : "off"));
});
