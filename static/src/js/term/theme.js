/* xterm.js's colours, read from the --term-* properties of the element that carries data-term-theme. */
const NAMES = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

export function themeOf(element) {
  const style = getComputedStyle(element);
  const value = (name) => style.getPropertyValue(`--term-${name}`).trim();
  const theme = {
    background: value("bg"),
    foreground: value("fg"),
    cursor: value("cursor"),
    cursorAccent: value("cursor-text"),
    selectionBackground: value("select"),
    find: value("find"), // ours, of the search; xterm.js does not read them
    found: value("found"),
  };
  for (const name of NAMES) {
    theme[name] = value(name);
    theme[`bright${name[0].toUpperCase()}${name.slice(1)}`] = value(`bright-${name}`);
  }
  return theme;
}

export const FONT = '"JetBrains Mono Variable", "JetBrains Mono", ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';

/** Cells are measured once: before the font is there they would have the wrong width. Waits at most 1.5 s. */
export function fontReady(size) {
  const fonts = ["", "bold "].map((weight) => document.fonts.load(`${weight}${size}px "JetBrains Mono Variable"`, "Wm0"));
  return Promise.race([Promise.allSettled(fonts), new Promise((resolve) => setTimeout(resolve, 1500))]);
}
