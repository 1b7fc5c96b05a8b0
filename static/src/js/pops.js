/* A question below its button (details.fo-pop): one at a time, closed by Esc or by a click elsewhere. */
const open = () => [...document.querySelectorAll(".fo-pop[open]")];

document.addEventListener("toggle", (event) => {
  const pop = event.target;
  if (!(pop instanceof HTMLElement) || !pop.matches(".fo-pop[open]")) return;
  for (const other of open()) if (other !== pop) other.open = false;
  pop.querySelector("input:not([type=hidden]), button")?.focus();
}, true);

document.addEventListener("click", (event) => {
  for (const pop of open()) if (!pop.contains(event.target)) pop.open = false;
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const pop of open()) {
    pop.open = false;
    pop.querySelector("summary").focus();
    event.preventDefault();
  }
});
