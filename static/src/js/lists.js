/* Rows by keyboard, and lists that keep still: what polling swaps keeps focus, cursor, selection and scroll position. */
import { announce } from "./dom.js";
import { onKey } from "./keys.js";

const ROWS = "main .table tbody tr:not(.table-group)";

const rows = () => [...document.querySelectorAll(ROWS)].filter((row) => row.offsetParent !== null && row.querySelector("a, button, input"));
const current = () => document.querySelector(`${ROWS}.is-cursor`);
const mainLink = (row) => row.querySelector("a.fo-name") ?? row.querySelector("a");
const keyOf = (row) => row.id || mainLink(row)?.getAttribute("href") || "";

function step(by) {
  const all = rows();
  if (!all.length) return false;
  const focused = document.activeElement?.closest("tr");
  const from = all.indexOf(current() ?? focused);
  const row = all[from < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, from + by))];
  current()?.classList.remove("is-cursor");
  row.classList.add("is-cursor");
  row.scrollIntoView({ block: "nearest" });
  if (document.activeElement?.closest("tr")) document.activeElement.blur();
  announce(mainLink(row)?.textContent.trim() ?? row.textContent.trim());
}

onKey("j", () => step(1));
onKey("k", () => step(-1));
onKey("Enter", (event) => {
  if (event.target.closest("a, button, summary") || !current()) return false;
  mainLink(current())?.click();
});
onKey("c", () => {
  const connect = current()?.querySelector(".fo-connect");
  if (!connect) return false;
  connect.click();
});
onKey("x", () => {
  const box = current()?.querySelector("input[type=checkbox]");
  if (!box) return false;
  box.click();
});
onKey("Escape", () => {
  if (!current()) return false;
  current().classList.remove("is-cursor");
});

document.addEventListener("change", (event) => {
  if (event.target.matches("td > input[type=checkbox]")) event.target.closest("tr").classList.toggle("is-selected", event.target.checked);
});

/* --- what a swap must not take away --- */

const boxKey = (box) => `${box.name}=${box.value}:${box.getAttribute("aria-label") ?? ""}`;
const within = (root, selector) => [...(root.matches?.(selector) ? [root] : []), ...root.querySelectorAll(selector)];

/** Remembers the state of `root`; returns a function that puts it into what replaced it. */
export function keep(root) {
  const focus = document.activeElement;
  const focusRow = root.contains(focus) && !focus.id ? focus.closest("tr") : null;
  const spot = focusRow && { row: keyOf(focusRow), index: [...focusRow.querySelectorAll("a, button, input")].indexOf(focus) };
  const cursor = root.contains(current()) ? keyOf(current()) : "";
  const checked = within(root, "td > input[type=checkbox]:checked").map(boxKey);
  const scrolled = within(root, ".table-responsive").map((element) => [element.scrollLeft, element.scrollTop]);
  const opened = within(root, "details[open][id]").map((element) => element.id);
  return (fresh) => {
    const all = within(fresh, "tbody tr");
    if (cursor) all.find((row) => keyOf(row) === cursor)?.classList.add("is-cursor");
    for (const box of within(fresh, "td > input[type=checkbox]")) {
      if (!checked.includes(boxKey(box))) continue;
      box.checked = true;
      box.closest("tr").classList.add("is-selected");
    }
    within(fresh, ".table-responsive").forEach((element, n) => scrolled[n] && ([element.scrollLeft, element.scrollTop] = scrolled[n]));
    for (const element of within(fresh, "details[id]")) if (opened.includes(element.id)) element.open = true;
    if (spot && (document.activeElement === document.body || !document.activeElement)) {
      const row = all.find((candidate) => keyOf(candidate) === spot.row);
      row?.querySelectorAll("a, button, input")[spot.index]?.focus({ preventScroll: true });
    }
  };
}
