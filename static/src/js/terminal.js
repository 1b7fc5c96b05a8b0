/* The terminal's page: a window of terminals (term/workspace.js), and what all of them share: settings and keys. */
import { load, save } from "./settings.js";
import { KeyRow } from "./term/keyrow.js";
import { fontReady } from "./term/theme.js";
import { Workspace } from "./term/workspace.js";

const SMALLEST = 8;
const LARGEST = 28;
const DEFAULT_SIZE = 13;
const THEMES = ["night", "day", "contrast"];

const page = document.querySelector(".fo-termpage");
const part = (id) => page.querySelector(`:scope > [data-part="${id}"], .fo-term-tabs [data-part="${id}"], .fo-statusbar [data-part="${id}"]`);

/* --- settings, kept in this browser --- */

const settings = {
  fontSize: Math.min(LARGEST, Math.max(SMALLEST, Number(load("term.font", DEFAULT_SIZE)) || DEFAULT_SIZE)),
  theme: THEMES.includes(load("term.theme", "night")) ? load("term.theme", "night") : "night",
  reader: load("term.reader", "off") === "on",
  copyselect: load("term.copyselect", "off") === "on",
};
const desk = new Workspace(page, settings);
const each = (act) => desk.panes.forEach(act);
const back = () => desk.active?.focus();

function setFont(size) {
  settings.fontSize = Math.min(LARGEST, Math.max(SMALLEST, size));
  save("term.font", settings.fontSize);
  each((pane) => pane.setFont(settings.fontSize));
  part("font").textContent = settings.fontSize;
}

part("font").textContent = settings.fontSize;
part("smaller").addEventListener("click", () => (setFont(settings.fontSize - 1), back()));
part("larger").addEventListener("click", () => (setFont(settings.fontSize + 1), back()));
part("theme").value = settings.theme;
part("theme").addEventListener("change", (event) => {
  settings.theme = event.target.value;
  save("term.theme", settings.theme);
  each((pane) => pane.setTheme(settings.theme));
  back();
});
part("reader").checked = settings.reader;
part("reader").addEventListener("change", (event) => {
  settings.reader = event.target.checked;
  each((pane) => (pane.terminal.options.screenReaderMode = settings.reader));
  save("term.reader", settings.reader ? "on" : "off");
  back();
});
/* Copying by selecting is a habit of some and a trap for others: off until chosen. */
part("copyselect").checked = settings.copyselect;
part("copyselect").addEventListener("change", (event) => {
  settings.copyselect = event.target.checked;
  save("term.copyselect", settings.copyselect ? "on" : "off");
  back();
});

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else page.requestFullscreen?.();
  back();
}
part("full").addEventListener("click", fullScreen);
document.addEventListener("fullscreenchange", () => part("full").setAttribute("aria-pressed", Boolean(document.fullscreenElement)));

const keysDialog = part("keys");
part("keys-opener").addEventListener("click", () => keysDialog.showModal());
keysDialog.addEventListener("close", back);

desk.keyRow = new KeyRow(part("keyrow"), {
  terminal: () => desk.active.terminal,
  type: (text) => desk.typed(desk.active, text),
  paste: (text) => desk.active.paste(text),
});

/* --- keys: only chords with Ctrl Shift, and the browser's own zoom; all else is the shell's --- */

const openPalette = () => page.querySelector("[data-behaviour='palette-opener']").click();
const out = () => (desk.move("up") ? true : desk.active.part("find-opener").focus(), true);

/* Each returns false if it has nothing to do: then the keys are the shell's. */
const CHORDS = {
  KeyC: () => (desk.active.copy(), true),
  KeyF: () => (desk.active.find.open(), true),
  KeyO: () => (openPalette(), true),
  KeyD: () => (desk.split(desk.active, "row"), true),
  KeyE: () => (desk.split(desk.active, "col"), true),
  KeyX: () => (desk.close(desk.active), true),
  KeyB: () => (desk.toggleBroadcast(), true),
  BracketRight: () => desk.tabs.length > 1 && (desk.step(1), true),
  BracketLeft: () => desk.tabs.length > 1 && (desk.step(-1), true),
  ArrowLeft: () => desk.move("left"),
  ArrowRight: () => desk.move("right"),
  ArrowDown: () => desk.move("down"),
  ArrowUp: out,
  Slash: () => (keysDialog.showModal(), true),
};
/* With Alt besides, the arrows move the line beside the pane. */
const LINES = { ArrowLeft: ["row", -1], ArrowRight: ["row", 1], ArrowUp: ["col", -1], ArrowDown: ["col", 1] };
const ZOOM = { Equal: 1, NumpadAdd: 1, Minus: -1, NumpadSubtract: -1, Digit0: 0, Numpad0: 0 };
const isMac = /mac|iphone|ipad/i.test(navigator.platform);

/** True: the chord was ours. "browser": the browser does it (paste). */
desk.chords = (event, pane) => {
  if (event.ctrlKey && event.shiftKey && !event.altKey) {
    if (event.code === "KeyV") return "browser";
    if (CHORDS[event.code]?.()) return true;
  }
  if (event.ctrlKey && event.shiftKey && event.altKey && LINES[event.code] && desk.resize(...LINES[event.code])) return true;
  if (isMac && event.metaKey && !event.ctrlKey) {
    if (event.code === "KeyC" && pane.terminal.hasSelection()) return pane.copy(), true;
    if (event.code === "KeyV") return "browser";
  }
  if (event.shiftKey && event.code === "Insert") return "browser";
  if ((event.ctrlKey || event.metaKey) && !event.altKey && event.code in ZOOM && (!event.shiftKey || event.code === "Equal")) {
    setFont(ZOOM[event.code] ? settings.fontSize + ZOOM[event.code] : DEFAULT_SIZE);
    return true;
  }
  return false;
};

/* Outside of the screens the same chords hold. */
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.target.closest(".fo-term-screen") || document.querySelector("dialog[open]")) return;
  if (event.ctrlKey && event.shiftKey && !event.altKey && event.code !== "ArrowUp" && event.code !== "KeyC" && CHORDS[event.code]?.()) event.preventDefault();
  else if (event.key === "Escape" && !event.target.closest("input, select, details[open]")) back();
});

/* The palette opens here what it opens elsewhere on a page of its own. */
document.addEventListener("fleetops:connect", (event) => {
  event.preventDefault();
  desk.openTab(event.detail.pk);
});

/* --- start: the right size is known before the first prompt --- */

window.fleetopsTerminal = {
  get cols() { return desk.active.terminal.cols; },
  get rows() { return desk.active.terminal.rows; },
  get connected() { return desk.active.link.isOpen; },
  get terminal() { return desk.active.terminal; },
  get renderer() { return desk.active.renderer; },
  get panes() { return [...desk.panes.values()]; },
  text: () => desk.active?.text() ?? "",
};

setInterval(() => each((pane) => pane.showEcho()), 1000);
fontReady(settings.fontSize).then(() => {
  desk.start();
  // Where a phone's keyboard lies over the page instead of making it smaller, the page gives way by itself.
  const seen = window.visualViewport;
  seen?.addEventListener("resize", () => {
    const covered = seen.scale === 1 && innerHeight - seen.height > 1;
    page.style.height = covered ? `${seen.height}px` : "";
    if (covered) scrollTo(0, 0);
  });
});
