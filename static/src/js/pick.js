/* data-behaviour="pick": choose some of many. A box that is ticked among the found ones moves up to the chosen ones;
   Down leads from the search into what it found. Without this module the form's own button searches. */
import { behaviour } from "./behaviours.js";
import { announce } from "./dom.js";

behaviour("pick", (set) => {
  const chosen = set.querySelector("[data-pick=chosen]");
  const search = set.querySelector("input[type=search]");
  if (!search) return;
  const boxes = () => [...set.querySelectorAll("[data-pick=found] input[type=checkbox]")];
  set.querySelector("[data-pick=find]").hidden = true; // it is searched while one types

  set.addEventListener("change", ({ target }) => {
    const label = target.closest("[data-pick=found] label");
    if (!label || !target.checked) return;
    const all = boxes();
    const next = all[all.indexOf(target) + 1] ?? all[all.indexOf(target) - 1] ?? search;
    const held = document.activeElement === target;
    chosen.querySelector(".fo-pick-none").before(label);
    if (held) next.focus();
    announce(`${label.textContent.trim()} is chosen`);
  });

  set.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.isComposing) return;
    if (target === search && key === "Enter") {
      event.preventDefault(); // it would save the rule
      search.dispatchEvent(new Event("search"));
      return;
    }
    if (key !== "ArrowDown" && key !== "ArrowUp") return;
    const all = [search, ...boxes()];
    const at = all.indexOf(target);
    const next = all[at + (key === "ArrowDown" ? 1 : -1)];
    if (at < 0 || !next) return;
    event.preventDefault();
    next.focus();
  });
});

// What is chosen already, saved or not, is not found once more.
behaviour("pick-found", (found) => {
  const chosen = found.closest(".fo-pick").querySelectorAll("[data-pick=chosen] input");
  const keys = new Set([...chosen].map((box) => box.value));
  for (const box of found.querySelectorAll("input[type=checkbox]")) if (keys.has(box.value)) box.closest("label").remove();
});
