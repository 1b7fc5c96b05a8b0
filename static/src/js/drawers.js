/* A drawer beside a list: what opens it (hx-target="#drawer") marks its row; Esc closes it, [ and ] go to its neighbours. */
import { behaviour } from "./behaviours.js";
import { onKey } from "./keys.js";

const OPENERS = 'main a[hx-target="#drawer"]';
const CARRIERS = "tr, .fo-target";
const drawer = () => document.querySelector("#drawer > .offcanvas");
let opener = null;

function mark(link) {
  opener = link;
  for (const row of document.querySelectorAll("main .table tr.is-selected, main .fo-target.is-selected")) row.classList.remove("is-selected");
  link?.closest(CARRIERS)?.classList.add("is-selected");
}

function close() {
  const way = drawer()?.querySelector("[data-drawer-close]");
  if (!way) return false;
  history.pushState({}, "", way.href);
  document.getElementById("drawer").replaceChildren();
  const link = opener ?? document.querySelector("main .table tr.is-selected a.fo-name");
  mark(null);
  link?.focus();
  return true;
}

function step(by) {
  if (!drawer()) return false;
  const all = [...document.querySelectorAll(OPENERS)];
  const at = all.findIndex((link) => link === opener || link.closest(CARRIERS)?.classList.contains("is-selected"));
  const next = all[at + by];
  if (!next) return false;
  next.click();
  next.scrollIntoView({ block: "nearest" });
  return true;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest(OPENERS);
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) return mark(link);
  if (event.target.closest("#drawer [data-drawer-close]") && event.button === 0 && close()) event.preventDefault();
});

/* Focus goes to the drawer itself, not to its buttons: Enter, pressed once too often, does nothing. */
behaviour("drawer", (fresh) => {
  fresh.tabIndex = -1;
  fresh.focus({ preventScroll: true });
});

onKey("Escape", close);
onKey("[", () => step(-1));
onKey("]", () => step(1));
