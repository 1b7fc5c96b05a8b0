/* data-behaviour="drawer" on an aside that the server renders: focus moves in, Escape follows its link that closes it. */
import { behaviour } from "./behaviours.js";

behaviour("drawer", (drawer) => drawer.querySelector("[data-drawer-close]")?.focus({ preventScroll: true }));

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  const close = document.querySelector("[data-behaviour~=drawer] [data-drawer-close]");
  if (!close) return;
  event.preventDefault();
  close.click();
});
