/* Toasts: what just happened by one's own deed. They leave after 6 s; errors stay until dismissed. */
import { behaviour } from "./behaviours.js";
import { icon, make } from "./dom.js";

const GLYPHS = { ok: "circle-check", bad: "circle-x", warn: "alert-triangle", run: "info" };
const STAY_MS = 6000;

function start(toast) {
  toast.querySelector("button")?.addEventListener("click", () => toast.remove());
  if (toast.classList.contains("toast-bad")) return;
  let timer;
  const leave = () => (timer = setTimeout(() => toast.remove(), STAY_MS));
  leave();
  toast.addEventListener("pointerenter", () => clearTimeout(timer));
  toast.addEventListener("pointerleave", leave);
}

behaviour("toast", start);

export function toast(text, kind = "ok") {
  const place = document.getElementById("toasts");
  for (const shown of place.children) if (shown.children[1]?.textContent === text) shown.remove();
  const element = make("div", { class: `toast toast-${kind}`, role: kind === "bad" ? "alert" : "status" },
    icon(GLYPHS[kind]), make("div", {}, text),
    make("button", { class: "btn btn-ghost btn-icon btn-sm", type: "button", "aria-label": "Dismiss" }, icon("x")));
  place.append(element);
  start(element);
  while (place.children.length > 4) place.firstElementChild.remove();
  return element;
}
