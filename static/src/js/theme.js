/* The switch between light and dark. */
import { behaviour } from "./behaviours.js";
import { save, shownTheme } from "./settings.js";

behaviour("theme-switch", (button) => {
  const name = () => button.setAttribute("aria-label", `Switch to the ${shownTheme() === "dark" ? "light" : "dark"} theme`);
  name();
  button.addEventListener("click", () => {
    const theme = shownTheme() === "dark" ? "light" : "dark";
    document.documentElement.dataset.bsTheme = theme;
    save("theme", theme);
    name();
    dispatchEvent(new CustomEvent("fleetops:theme"));
  });
});
