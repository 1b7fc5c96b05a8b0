/* Runs before the first paint: the theme that was chosen in this browser. Without one the system decides. */
import { storedTheme } from "./settings.js";

const theme = storedTheme();
if (theme) document.documentElement.dataset.bsTheme = theme;
