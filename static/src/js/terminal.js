/* The terminal's page: a screen (xterm.js), a link to the terminal process, and what stands around them. */
import { FitAddon } from "@xterm/addon-fit";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal } from "@xterm/xterm";
import { copyText } from "./clipboard.js";
import { announce, csrfToken } from "./dom.js";
import { load, save } from "./settings.js";
import { Find } from "./term/find.js";
import { bytes as inWords, harmless } from "./term/format.js";
import { KeyRow } from "./term/keyrow.js";
import { Link } from "./term/link.js";
import { guardPaste } from "./term/paste.js";
import { guardQueries } from "./term/queries.js";
import { accelerate } from "./term/renderer.js";
import { FONT, fontReady, themeOf } from "./term/theme.js";
import { toast } from "./toasts.js";

const SCROLLBACK_LINES = 10_000;
const SMALLEST = 8;
const LARGEST = 28;
const DEFAULT_SIZE = 13;
const THEMES = ["night", "day", "contrast"];
const ECHO_MS = 2000; // an answer that comes later was none
const ECHOES = 9; // of which the median is shown
const REST_MS = 300; // a stream that is silent for so long has no history left
const SPINNER_MS = 300; // a wait shorter than this shows nothing

const page = document.querySelector(".fo-termpage");
const { session, port, url, name } = page.dataset;
const watch = "watch" in page.dataset;
const part = (id) => page.querySelector(`[data-part="${id}"]`);
const screen = page.querySelector(".fo-term");
const host = page.querySelector(".fo-term-screen");
const baseTitle = document.title;

let fontSize = Math.min(LARGEST, Math.max(SMALLEST, Number(load("term.font", DEFAULT_SIZE)) || DEFAULT_SIZE));
let theme = THEMES.includes(load("term.theme", "night")) ? load("term.theme", "night") : "night";
screen.dataset.termTheme = theme;

/* --- the screen --- */

const terminal = new Terminal({
  allowProposedApi: true, // decorations of the search, Unicode 11
  allowTransparency: false,
  cursorBlink: false,
  fontFamily: FONT,
  fontSize,
  fontWeightBold: 640,
  lineHeight: 1.2,
  macOptionIsMeta: true,
  minimumContrastRatio: 1,
  scrollback: SCROLLBACK_LINES,
  screenReaderMode: load("term.reader", "off") === "on",
  scrollOnUserInput: true,
  disableStdin: true, // until the link is there
  theme: themeOf(screen),
  linkHandler: { activate: (event, target) => openLink(target), hover: (event, target) => showTarget(target), leave: () => showTarget(""), allowNonHttpProtocols: false },
});
const fit = new FitAddon();
terminal.loadAddon(fit);
terminal.loadAddon(new Unicode11Addon());
terminal.unicode.activeVersion = "11";
terminal.loadAddon(new WebLinksAddon((event, target) => openLink(target), { hover: (event, target) => showTarget(target), leave: () => showTarget("") }));

/** Only web addresses, in a tab that knows nothing of this one. */
function openLink(target) {
  if (/^https?:\/\//i.test(target)) window.open(target, "_blank", "noopener,noreferrer");
}

function showTarget(target) {
  part("link").textContent = target ? `Opens ${harmless(target)}` : "";
}

let isHistory = false; // what comes was shown before; programs that asked something then have their answers
let historyEnd; // output offset, if the server told it; else history is over when the stream first rests
let restTimer;
let windows = 1;
guardQueries(terminal, () => link.isOpen && writable && !isHistory && (windows < 2 || document.hasFocus()));
const paste = guardPaste(terminal, host);

/* --- the link --- */

let writable = true;
let foreign = false; // the size is another window's
const scheme = location.protocol === "https:" ? "wss:" : "ws:";
const base = url ? url.replace(/^http/, "ws").replace(/\/$/, "") : `${scheme}//${location.hostname}:${port}`;
const wantedSize = () => fit.proposeDimensions() ?? { cols: terminal.cols, rows: terminal.rows };

const link = new Link(`${/^wss?:/.test(base) ? base : `${scheme}//${base}`}/ws/sessions/${session}/`, wantedSize, watch, {
  onOutput(data, shown) {
    heard();
    terminal.write(data, () => {
      shown();
      if (isHistory) endHistory();
    });
  },
  onMessage(message) {
    const act = MESSAGES[message.type];
    if (act) act(message);
  },
  onState(state, details) {
    STATES[state](details);
  },
});

/** History ends at the offset that the server told, or when all that came is shown and no more follows. */
function endHistory() {
  clearTimeout(restTimer);
  if (historyEnd !== undefined) isHistory = link.shown < historyEnd;
  else restTimer = setTimeout(() => (isHistory = link.shown < link.received), REST_MS);
}

function applySize({ now = false } = {}) {
  const size = wantedSize();
  if (size.cols !== terminal.cols || size.rows !== terminal.rows) terminal.resize(size.cols, size.rows);
  foreign = false;
  if (writable) link.resize({ now });
  showSize();
}

function showSize() {
  part("size").textContent = `${terminal.cols}×${terminal.rows}${foreign ? ", set in another window" : ""}`;
}

const SKIPPED = {
  interrupt: (size) => `FleetOps left out ${size} that were on their way when you pressed Ctrl C. The recording has them.`,
  quota: (size) => `FleetOps left out ${size} that are too old to be shown again. The recording has them.`,
};

const MESSAGES = {
  hello(message) {
    writable = message.writable !== false;
    historyEnd = message.end;
    isHistory = message.state !== "opening";
    if (isHistory) endHistory();
    terminal.options.disableStdin = !writable;
    part("readonly").hidden = writable;
    if (message.state === "open") hideNote();
    else note(`Opening a shell on ${name}`, { wait: SPINNER_MS });
    applySize();
  },
  size({ cols, rows }) {
    // In order with the output: what is still to be parsed belongs to the size before.
    terminal.write("", () => {
      if (cols === terminal.cols && rows === terminal.rows) return;
      terminal.resize(cols, rows);
      foreign = true;
      link.forgetSize();
      showSize();
    });
  },
  skipped({ bytes, why }) {
    const text = (SKIPPED[why] ?? SKIPPED.interrupt)(inWords(bytes));
    terminal.write(`\r\n\u001b[2m${text}\u001b[22m\r\n`);
  },
  status({ state, text }) {
    if (state === "open") {
      hideNote();
      announce(`The shell on ${name} is open.`);
      return;
    }
    note(text || (state === "opening" ? `Opening a shell on ${name}` : `The way to ${name} is interrupted. Trying again.`), { wait: state === "opening" ? SPINNER_MS : 0, warn: state === "reconnecting" });
  },
  ended({ text, replay }) {
    end({ title: "This session has ended", text, kind: "ended", replay });
  },
  people({ count }) {
    windows = count;
    part("people").hidden = count < 2;
    part("people").querySelector("span").textContent = `Open in ${count} windows`;
  },
  recorded({ bytes }) {
    part("recorded").textContent = `Recording, ${inWords(bytes)}`;
  },
};

const STATES = {
  connected() {
    terminal.options.disableStdin = !writable;
    state("Connected");
    echoes.length = 0;
  },
  lost({ tries }) {
    terminal.options.disableStdin = true;
    state("Reconnecting", "stale");
    if (tries > 1) note(navigator.onLine ? "The connection to FleetOps is lost. Trying again; the shell keeps running." : "This computer is offline. The shell keeps running.", { warn: true });
  },
  login() {
    end({ title: "You are logged out", text: "The shell keeps running for a while. Log in again to get back to it.", kind: "login" });
  },
  refused({ reason }) {
    end({ title: "This shell cannot be opened", text: reason || "You may not open it. The attempt is in the audit log.", kind: "refused" });
  },
  unknown() {
    end({ title: "There is no such session", text: "Its address may be cut off, or it belongs to somebody else.", kind: "refused" });
  },
  over({ reason }) {
    end({ title: "This session has ended", text: reason, kind: "ended" });
  },
  fault({ reason }) {
    end({ title: "FleetOps has a fault of its own", text: reason || "The shell may still be running; nothing that was shown is lost. Its log says more.", kind: "fault" });
  },
};

/* --- from key to echo --- */

const echoes = [];
let typedAt = 0;

function heard() {
  if (!typedAt) return;
  const took = performance.now() - typedAt;
  typedAt = 0;
  if (took > ECHO_MS) return;
  echoes.push(took);
  if (echoes.length > ECHOES) echoes.shift();
}

setInterval(() => {
  if (!link.isOpen || !echoes.length) return;
  const median = [...echoes].sort((a, b) => a - b)[echoes.length >> 1];
  state(`Connected, ${median < 10 ? median.toFixed(1) : Math.round(median)} ms`);
}, 1000);

function type(text, binary = false) {
  if (!writable) return;
  if (foreign) applySize({ now: true }); // before the keys: what they start sees this window's size
  if (link.type(text, binary) && !typedAt) typedAt = performance.now();
}
const keyRow = new KeyRow(terminal, part("keyrow"), { type, paste });
terminal.onData((text) => type(keyRow.typed(text)));
terminal.onBinary((text) => type(text, true));

/* --- words around the screen --- */

let noteTimer;

function note(text, { wait = 0, warn = false } = {}) {
  clearTimeout(noteTimer);
  const box = part("note");
  noteTimer = setTimeout(() => {
    box.classList.toggle("is-warn", warn);
    box.querySelector("span").textContent = text;
    box.hidden = false;
    announce(text);
  }, box.hidden ? wait : 0);
}

function hideNote() {
  clearTimeout(noteTimer);
  part("note").hidden = true;
}

let stateText = "";

function state(text, kind = "") {
  const dot = part("state");
  if (text !== stateText) dot.textContent = stateText = text;
  dot.classList.toggle("is-stale", kind === "stale");
  dot.classList.toggle("is-off", kind === "off");
}

/** The session is over for this page. What was on the screen stays readable above the bar. */
function end({ title, text, kind, replay }) {
  link.ended = true;
  link.drop();
  hideNote();
  terminal.options.disableStdin = true;
  terminal.options.cursorInactiveStyle = "none";
  terminal.blur();
  state(kind === "ended" ? "Ended" : "Not connected", "off");
  part("keyrow").hidden = true;
  part("recording").classList.add("is-off");
  if (kind === "ended") part("recorded").textContent = "Recorded";
  if (part("end-form")) part("end-form").hidden = kind === "ended" || kind === "refused";
  const bar = part("end");
  bar.querySelector("[data-part=end-title]").textContent = title;
  bar.querySelector("[data-part=end-text]").textContent = text ? harmless(text) : "";
  bar.querySelector("[data-part=end-replay]").hidden = kind !== "ended";
  if (replay) bar.querySelector("[data-part=end-replay]").href = replay;
  bar.querySelector("[data-part=end-again]").hidden = kind !== "ended";
  screen.classList.add("is-over");
  page.querySelector(".fo-term-tab .fo-rec").classList.add("is-off");
  bar.querySelector("[data-part=end-login]").hidden = kind !== "login";
  bar.querySelector("[data-part=end-retry]").hidden = kind !== "fault";
  for (const glyph of bar.querySelectorAll("[data-kind]")) glyph.hidden = !glyph.dataset.kind.split(" ").includes(kind);
  bar.hidden = false;
  bar.focus({ preventScroll: true }); // not a button: somebody may still be typing
  announce(`${title}. ${text ?? ""}`, { now: true });
  document.title = `Ended · ${baseTitle}`;
}

part("end-retry").addEventListener("click", () => location.reload());
part("end-login").addEventListener("click", () => location.reload());

/* End session: asked once, sent without leaving the page; the end itself comes over the link. */
part("end-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = part("end-form").querySelector("button");
  button.disabled = true;
  try {
    const answer = await fetch(part("end-form").action, { method: "POST", headers: { "X-CSRFToken": csrfToken(), "HX-Request": "true" } });
    if (!answer.ok) throw new Error(answer.status);
    note("Ending the session", { wait: SPINNER_MS });
  } catch {
    button.disabled = false;
    toast("The session was not ended: FleetOps did not take the request. Try again.", "bad");
  }
});

terminal.onTitleChange((title) => {
  const shown = harmless(title);
  part("title").textContent = shown || name;
  document.title = shown ? `${shown} · ${baseTitle}` : baseTitle;
});

terminal.onBell(() => {
  screen.classList.add("is-bell");
  setTimeout(() => screen.classList.remove("is-bell"), 260);
});

/* --- settings, kept in this browser --- */

function setFont(size) {
  fontSize = Math.min(LARGEST, Math.max(SMALLEST, size));
  save("term.font", fontSize);
  terminal.options.fontSize = fontSize;
  part("font").textContent = fontSize;
  applySize();
}

function setTheme(name) {
  theme = name;
  save("term.theme", name);
  screen.dataset.termTheme = name;
  terminal.options.theme = themeOf(screen);
}

part("font").textContent = fontSize;
part("smaller").addEventListener("click", () => (setFont(fontSize - 1), terminal.focus()));
part("larger").addEventListener("click", () => (setFont(fontSize + 1), terminal.focus()));
part("theme").value = theme;
part("theme").addEventListener("change", (event) => (setTheme(event.target.value), terminal.focus()));
part("reader").checked = terminal.options.screenReaderMode;
part("reader").addEventListener("change", (event) => {
  terminal.options.screenReaderMode = event.target.checked;
  save("term.reader", event.target.checked ? "on" : "off");
  terminal.focus();
});

/* Copying by selecting is a habit of some and a trap for others: off until chosen. */
part("copyselect").checked = load("term.copyselect", "off") === "on";
part("copyselect").addEventListener("change", (event) => (save("term.copyselect", event.target.checked ? "on" : "off"), terminal.focus()));
host.addEventListener("mouseup", () => part("copyselect").checked && terminal.hasSelection() && copyText(terminal.getSelection()));

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else page.requestFullscreen?.();
  terminal.focus();
}
part("full").addEventListener("click", fullScreen);
document.addEventListener("fullscreenchange", () => part("full").setAttribute("aria-pressed", Boolean(document.fullscreenElement)));

/* --- keys: only chords with Ctrl Shift, and the browser's own zoom; all else is the shell's --- */

const find = new Find(terminal, part("find"), {
  colours: () => ({ match: themeOf(screen).find, active: themeOf(screen).found }),
});
part("find-opener").addEventListener("click", () => find.open());
const keysDialog = part("keys");
part("keys-opener").addEventListener("click", () => keysDialog.showModal());
keysDialog.addEventListener("close", () => terminal.focus());

async function copy() {
  if (!terminal.hasSelection()) return;
  if (!(await copyText(terminal.getSelection()))) toast("The browser did not allow copying. Use its own menu.", "warn");
  terminal.focus();
}

const CHORDS = {
  KeyC: copy,
  KeyF: () => find.open(),
  Slash: () => keysDialog.showModal(),
  ArrowUp: () => part("find-opener").focus(),
};
const ZOOM = { Equal: 1, NumpadAdd: 1, Minus: -1, NumpadSubtract: -1, Digit0: 0, Numpad0: 0 };
const isMac = /mac|iphone|ipad/i.test(navigator.platform);

/** True: the chord was ours. "browser": the browser does it (paste). */
function chord(event) {
  if (event.ctrlKey && event.shiftKey && !event.altKey) {
    if (event.code === "KeyV") return "browser";
    if (CHORDS[event.code]) return CHORDS[event.code](), true;
  }
  if (isMac && event.metaKey && !event.ctrlKey) {
    if (event.code === "KeyC" && terminal.hasSelection()) return copy(), true;
    if (event.code === "KeyV") return "browser";
  }
  if (event.shiftKey && event.code === "Insert") return "browser";
  if ((event.ctrlKey || event.metaKey) && !event.altKey && event.code in ZOOM && (!event.shiftKey || event.code === "Equal")) {
    setFont(ZOOM[event.code] ? fontSize + ZOOM[event.code] : DEFAULT_SIZE);
    return true;
  }
  return false;
}

terminal.attachCustomKeyEventHandler((event) => {
  if (event.type !== "keydown") return true;
  const taken = chord(event);
  if (taken === true) event.preventDefault();
  return !taken;
});
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || host.contains(event.target) || document.querySelector("dialog[open]")) return;
  if (event.ctrlKey && event.shiftKey && ["KeyF", "Slash"].includes(event.code)) {
    event.preventDefault();
    CHORDS[event.code]();
  } else if (event.key === "Escape" && !event.target.closest("input, select") && !link.ended) terminal.focus();
});

/* --- start: the right size is known before the first prompt --- */

window.fleetopsTerminal = {
  get cols() { return terminal.cols; },
  get rows() { return terminal.rows; },
  get connected() { return link.isOpen; },
  terminal,
  /** Scroll-back and screen, one string; wrapped lines joined. */
  text() {
    const { active } = terminal.buffer;
    let all = "";
    for (let y = 0; y < active.length; y += 1) {
      const line = active.getLine(y);
      all += (y && !line.isWrapped ? "\n" : "") + line.translateToString(true);
    }
    return all.replace(/\n+$/, "");
  },
};

state("Connecting", "off");
fontReady(fontSize).then(start);

function start() {
  terminal.open(host);
  window.fleetopsTerminal.renderer = accelerate(terminal, () => applySize());
  fit.fit();
  showSize();
  link.connect();
  terminal.focus();
  new ResizeObserver(() => requestAnimationFrame(() => applySize())).observe(host);
  // Where a phone's keyboard lies over the page instead of making it smaller, the page gives way by itself.
  const seen = window.visualViewport;
  seen?.addEventListener("resize", () => {
    const covered = seen.scale === 1 && innerHeight - seen.height > 1;
    page.style.height = covered ? `${seen.height}px` : "";
    if (covered) scrollTo(0, 0);
  });
}
