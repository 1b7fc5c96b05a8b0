/* What a person chose in this browser. Storage may be blocked or full; then the defaults hold. */
const PREFIX = "fleetops.";

export function load(name, fallback) {
  try {
    return localStorage.getItem(PREFIX + name) ?? fallback;
  } catch {
    return fallback;
  }
}

export function save(name, value) {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // Private windows refuse; the choice then lasts as long as the page.
  }
}

/** "light", "dark", or "" for whatever the system says. */
export function storedTheme() {
  const theme = load("theme", "");
  return theme === "light" || theme === "dark" ? theme : "";
}

export function shownTheme() {
  return document.documentElement.dataset.bsTheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}
