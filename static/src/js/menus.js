/* Menus on <details>, the sidebar of narrow screens, buttons that close their dialog. */
import { behaviour } from "./behaviours.js";
import { make } from "./dom.js";

behaviour("menu", (details) => {
  const close = (focus) => {
    if (!details.open) return;
    details.open = false;
    if (focus) details.querySelector("summary").focus();
  };
  document.addEventListener("pointerdown", (event) => details.contains(event.target) || close(false));
  details.addEventListener("keydown", (event) => event.key === "Escape" && (event.stopPropagation(), close(true)));
  details.addEventListener("click", (event) => event.target.closest("button, a") && close(false));
  details.addEventListener("toggle", () => details.open && details.querySelector(".dropdown-form .form-control")?.focus());
});

behaviour("sidebar", (button) => {
  const sidebar = document.getElementById(button.getAttribute("aria-controls"));
  let scrim;
  const show = (open) => {
    sidebar.classList.toggle("is-open", open);
    button.setAttribute("aria-expanded", open);
    scrim?.remove();
    if (!open) return;
    scrim = make("div", { class: "fo-scope-scrim" });
    scrim.addEventListener("click", () => show(false));
    sidebar.after(scrim);
    requestAnimationFrame(() => sidebar.querySelector("a").focus({ preventScroll: true })); // hidden things take no focus
  };
  button.addEventListener("click", () => show(!sidebar.classList.contains("is-open")));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !sidebar.classList.contains("is-open")) return;
    show(false);
    button.focus();
  });
  matchMedia("(min-width: 1024px)").addEventListener("change", () => show(false));
});

behaviour("dialog-closer", (button) => button.addEventListener("click", () => button.closest("dialog").close()));
