/* The replay of a recording: xterm.js, so that it looks as it did; quick seeks; search; a link to a moment. */
import { SearchAddon } from "@xterm/addon-search";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { Terminal } from "@xterm/xterm";
import { copyText } from "./clipboard.js";
import { announce, isTyping, make } from "./dom.js";
import { load, save } from "./settings.js";
import { consoleOf } from "./term/console.js";
import { clock, spoken } from "./term/format.js";
import { guardQueries } from "./term/queries.js";
import { FONT, fontReady, themeOf } from "./term/theme.js";
import { toast } from "./toasts.js";

const SPEEDS = [0.5, 1, 2, 4, 8];
const PAUSE_SECONDS = 2; // what is longer counts as a pause
const JUMP_SECONDS = 5;
const FORWARD_CHARACTERS = 1024 * 1024; // up to that much is played through rather than begun from a picture
const LARGEST_FONT = 13;
const NARROWEST_FONT = 10; // a screen whose letters would be smaller gets the whole width, and the search stands below
const SMALLEST_FONT = 6;
const MARGIN = 28 + 16; // around the screen, and its scroll bar
const SIDE = 372 + 16; // the search beside it
const CELL = 0.6; // width of a character of our font, in its size
const LINE = 1.2;
const MOST_MARKS = 200;

const player = document.querySelector(".fo-player");
const part = (id) => document.querySelector(`[data-part="${id}"]`);
const stage = player.querySelector(".fo-player-stage");
const host = player.querySelector(".fo-term-screen");
const scrub = part("scrub");

/* --- the recording, as far as it is here --- */

const times = []; // seconds since the session's start
const texts = [];
const sizes = [];
const reach = []; // characters of output up to and with the event
const snapshots = [];
let isWhole = false;
let knownLength = Number(player.dataset.duration) || 0;

const length = () => Math.max(knownLength, times.length ? times[times.length - 1] : 0);
const charactersTo = (event) => (event > 0 ? reach[event - 1] : 0);

/** How many events have happened at `moment`. */
function eventsAt(moment) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= moment) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* --- the screen --- */

const term = stage.closest(".fo-term");
const terminal = new Terminal({
  allowProposedApi: true,
  cols: Number(player.dataset.cols) || 80,
  rows: Number(player.dataset.rows) || 24,
  cursorInactiveStyle: "block",
  disableStdin: true,
  fontFamily: FONT,
  fontSize: LARGEST_FONT,
  fontWeightBold: 640,
  lineHeight: LINE,
  scrollback: 2000,
  theme: themeOf(term),
  windowsPty: consoleOf(player),
});
const search = new SearchAddon();
terminal.loadAddon(search);
terminal.loadAddon(new Unicode11Addon());
terminal.unicode.activeVersion = "11";
guardQueries(terminal, () => false); // a recording asks nobody

/** The screen keeps the width it had; where that does not fit, the letters get smaller. */
function fitScreen() {
  const { cols, rows } = terminal;
  const full = document.fullscreenElement === player;
  const columns = player.parentElement;
  columns.classList.toggle("is-wide", (columns.clientWidth - SIDE - MARGIN) / (cols * CELL) < NARROWEST_FONT);
  const width = stage.clientWidth - MARGIN;
  const height = full ? stage.clientHeight - 20 : Math.max(300, innerHeight - 330);
  const size = Math.min(full ? 28 : LARGEST_FONT, width / (cols * CELL), height / (rows * LINE));
  const font = Math.max(SMALLEST_FONT, Math.floor(size * 2) / 2);
  if (terminal.options.fontSize !== font) terminal.options.fontSize = font;
  part("size").textContent = `${cols}×${rows}, ${font === LARGEST_FONT ? "played at 1:1" : `played at ${Math.round((font / LARGEST_FONT) * 100)} %`}`;
}

const write = (text) => new Promise((resolve) => terminal.write(text, resolve));

function resize(cols, rows) {
  if (cols === terminal.cols && rows === terminal.rows) return;
  terminal.resize(cols, rows);
  fitScreen();
}

let shown = 0; // events on the screen

/** Puts the events from `shown` to `until` on the screen. */
async function advance(until) {
  let pending = "";
  for (; shown < until; shown += 1) {
    const size = sizes[shown];
    if (!size) {
      pending += texts[shown];
      continue;
    }
    await write(pending);
    pending = "";
    resize(...size);
  }
  await write(pending);
}

/* One seek at a time; of those that come meanwhile the last counts. */
let wanted = null;
let isSeeking = false;

async function showEvents(event) {
  wanted = Math.max(0, Math.min(times.length, event));
  if (isSeeking) return;
  isSeeking = true;
  while (wanted !== null) {
    const goal = wanted;
    wanted = null;
    const from = snapshots.findLast((snapshot) => snapshot.event <= goal);
    const ahead = goal >= shown && charactersTo(goal) - charactersTo(shown) <= FORWARD_CHARACTERS;
    if (!ahead && from && !(shown <= goal && shown >= from.event)) {
      terminal.reset();
      resize(from.cols, from.rows);
      await write(from.data);
      shown = from.event;
    }
    await advance(goal);
  }
  isSeeking = false;
}

/* --- playing --- */

let now = 0; // seconds
let isPlaying = false;
let speed = SPEEDS.includes(Number(load("replay.speed", 1))) ? Number(load("replay.speed", 1)) : 1;
let lastFrame = 0;

function frame(at) {
  if (!isPlaying) return;
  const passed = Math.min(0.25, (at - lastFrame) / 1000);
  lastFrame = at;
  if (!isSeeking) {
    now = Math.min(length(), now + passed * speed);
    const next = times[shown];
    if (part("skip").checked && next !== undefined && next - now > PAUSE_SECONDS) now = next - 0.2;
    if (next === undefined && !isWhole) now = Math.min(now, times.at(-1) ?? 0); // wait for what is still to come
    showEvents(eventsAt(now));
    if (isWhole && shown >= times.length && (now >= length() || part("skip").checked)) {
      now = length();
      pause();
    }
  }
  showPosition();
  requestAnimationFrame(frame);
}

function play() {
  if (isWhole && now >= length()) {
    now = 0;
    showEvents(0);
  }
  isPlaying = true;
  lastFrame = performance.now();
  showButton();
  requestAnimationFrame(frame);
}

function pause() {
  isPlaying = false;
  showButton();
  showPosition();
}

function seek(moment) {
  now = Math.max(0, Math.min(length(), moment));
  showPosition();
  return showEvents(eventsAt(now));
}

/** One event back or forward. */
function step(by) {
  pause();
  const event = Math.max(0, Math.min(times.length, (wanted ?? shown) + by));
  now = event ? times[event - 1] : 0;
  showPosition();
  showEvents(event);
}

function showButton() {
  const button = part("play");
  button.querySelector("[data-icon=play]").toggleAttribute("hidden", isPlaying);
  button.querySelector("[data-icon=pause]").toggleAttribute("hidden", !isPlaying);
  button.setAttribute("aria-label", isPlaying ? "Pause (Space)" : "Play (Space)");
}

let saidPosition = "";
let markedLength = -1;

function showPosition() {
  const share = length() ? (now / length()) * 100 : 0;
  scrub.querySelector(".played").style.width = `${share}%`;
  scrub.querySelector(".head").style.left = `${share}%`;
  const text = clock(now);
  if (text === saidPosition) return;
  saidPosition = text;
  part("now").textContent = text;
  showCommand();
  showPassing();
  scrub.setAttribute("aria-valuenow", Math.round(now));
  scrub.setAttribute("aria-valuetext", `${spoken(now)} of ${spoken(length())}`);
}

function showLength() {
  part("length").textContent = clock(length());
  scrub.setAttribute("aria-valuemax", Math.round(length()));
  const share = isWhole ? 100 : length() ? ((times.at(-1) ?? 0) / length()) * 100 : 0;
  scrub.querySelector(".loaded").style.width = `${isWhole ? 0 : share}%`;
  if (length() === markedLength) return;
  markedLength = length();
  showMarks();
}

function setSpeed(value) {
  speed = value;
  save("replay.speed", value);
  for (const button of part("speeds").children) button.setAttribute("aria-pressed", Number(button.dataset.speed) === value);
}

async function copyLink() {
  const link = new URL(location.pathname, location.origin);
  link.searchParams.set("t", String(Math.floor(now)));
  toast(await copyText(link.href) ? `Copied a link to ${clock(now)}.` : `The browser did not allow copying. The link is ${link.href}`, "ok");
}

/* --- buttons, the bar, keys --- */

part("play").addEventListener("click", () => (isPlaying ? pause() : play()));
part("back").addEventListener("click", () => step(-1));
part("forward").addEventListener("click", () => step(1));
part("link").addEventListener("click", copyLink);
part("full").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : player.requestFullscreen?.()));
document.addEventListener("fullscreenchange", fitScreen);
for (const button of part("speeds").children) button.addEventListener("click", () => setSpeed(Number(button.dataset.speed)));
setSpeed(speed);
part("skip").checked = load("replay.skip", "on") === "on";
part("skip").addEventListener("change", (event) => save("replay.skip", event.target.checked ? "on" : "off"));

const momentAt = (event) => {
  const { left, width } = scrub.getBoundingClientRect();
  return Math.max(0, Math.min(1, (event.clientX - left) / width)) * length();
};
let dragging = false;
scrub.addEventListener("pointerdown", (event) => {
  if (event.target.classList.contains("mark")) return;
  dragging = true;
  scrub.setPointerCapture(event.pointerId);
  seek(momentAt(event));
});
scrub.addEventListener("pointermove", (event) => {
  const at = part("at");
  at.hidden = false;
  at.style.left = `${length() ? (momentAt(event) / length()) * 100 : 0}%`;
  at.textContent = clock(momentAt(event));
  if (dragging) seek(momentAt(event));
});
for (const name of ["pointerup", "pointercancel"]) scrub.addEventListener(name, () => (dragging = false));
scrub.addEventListener("pointerleave", () => (part("at").hidden = true));

const KEYS = {
  " ": () => (isPlaying ? pause() : play()),
  ",": () => step(-1),
  ".": () => step(1),
  ArrowLeft: () => seek(now - JUMP_SECONDS),
  ArrowRight: () => seek(now + JUMP_SECONDS),
  Home: () => seek(0),
  End: () => seek(length()),
  s: () => setSpeed(SPEEDS[(SPEEDS.indexOf(speed) + 1) % SPEEDS.length]),
  l: copyLink,
  n: () => jumpHit(1),
  b: () => jumpHit(-1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const inPlayer = player.contains(event.target);
  if (!inPlayer && (isTyping(event.target) || load("keys", "on") === "off")) return;
  if (event.key === " " && event.target.closest("button, a, input, summary, select")) return; // a press of that button
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  act();
}, true);

/* --- search over what was shown --- */

const input = part("search");
const list = part("hits");
let turn = 0;
let hits = [];
let current = -1;
let timer;
let isAsking = false; // the answer is under way
let jumpsWhenFound = false; // Enter came before it

function ask() {
  const words = input.value.trim();
  turn += 1;
  isAsking = Boolean(words);
  if (!words) return showHits([], false);
  worker.postMessage({ type: "find", words, turn });
}

function showHits(found, more) {
  hits = found;
  current = -1;
  search.clearDecorations();
  const words = input.value.trim();
  part("hits-none").hidden = Boolean(words);
  part("search-state").hidden = !words;
  part("search-state").textContent = !hits.length ? `“${words}” was not shown${isWhole ? "" : " so far"}.`
    : `${more ? "The first " : ""}${hits.length.toLocaleString("en")} ${hits.length === 1 ? "place" : "places"}`;
  list.replaceChildren(...hits.map((hit, index) => {
    const button = make("button", { class: "fo-cmd", type: "button" },
      make("code", {}, hit.before.trimStart(), make("mark", {}, hit.match), hit.after), make("time", {}, clock(times[hit.event] ?? 0)));
    button.addEventListener("click", () => goToHit(index));
    return make("li", {}, button);
  }));
  showMarks();
  isAsking = false;
  if (jumpsWhenFound) goToHit(0);
  jumpsWhenFound = false;
}

function showMarks() {
  for (const mark of scrub.querySelectorAll(".mark")) mark.remove();
  if (!length()) return;
  if (!input.value.trim()) return showCommandMarks();
  const every = Math.ceil(hits.length / MOST_MARKS) || 1;
  hits.forEach((hit, index) => {
    if (index % every && index !== current) return;
    const mark = make("span", { class: index === current ? "mark active" : "mark", title: clock(times[hit.event]) });
    mark.style.left = `${(times[hit.event] / length()) * 100}%`;
    mark.addEventListener("click", () => goToHit(index));
    scrub.querySelector(".head").before(mark);
  });
}

async function goToHit(index) {
  const hit = hits[index];
  if (!hit) return;
  current = index;
  [...list.querySelectorAll(".fo-cmd")].forEach((button, n) => button.classList.toggle("active", n === index));
  list.querySelectorAll(".fo-cmd")[index]?.scrollIntoView({ block: "nearest" });
  pause();
  now = times[hit.event];
  showPosition();
  showMarks();
  await showEvents(hit.event + 1);
  const { selectionBackground, yellow } = themeOf(term);
  search.findPrevious(hit.match, { decorations: { matchBackground: selectionBackground, matchOverviewRuler: selectionBackground, activeMatchBackground: yellow, activeMatchColorOverviewRuler: yellow } });
}

/* --- what happened besides output: who came, who typed, what was said --- */

const PASSING_SECONDS = 6; // for so long a note stands above the screen when it is passed
const notes = []; // {time, text}, in order

function addNote({ time, text }) {
  notes.push({ time, text });
  part("notes-card").hidden = false;
  const button = make("button", { class: "fo-cmd", type: "button" }, make("span", {}, text), make("time", {}, clock(time)));
  button.addEventListener("click", () => (pause(), seek(time)));
  part("notes").append(make("li", {}, button));
}

function showPassing() {
  const passed = notes.findLast(({ time }) => time <= now && now - time < PASSING_SECONDS);
  part("passing").textContent = passed?.text ?? "";
}

function jumpHit(by) {
  if (hits.length) goToHit((current + by + hits.length) % hits.length);
}

input.addEventListener("input", () => {
  isAsking = true;
  jumpsWhenFound = false;
  clearTimeout(timer);
  timer = setTimeout(ask, 150);
});
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && isAsking) jumpsWhenFound = true;
  else if (event.key === "Enter") jumpHit(event.shiftKey ? -1 : 1);
  else if (event.key === "Escape") {
    input.value = "";
    ask();
  } else return;
  event.preventDefault();
  event.stopPropagation();
});

/* --- commands: a list beside the picture, and marks in the bar --- */

const commands = [...document.querySelectorAll("[data-part=commands] .fo-cmd")];
for (const row of commands) {
  row.querySelector("time").textContent = clock(Number(row.dataset.seconds));
  row.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    goToCommand(row);
  });
}

function goToCommand(row) {
  pause();
  seek(Number(row.dataset.seconds));
  history.replaceState(null, "", row.getAttribute("href"));
}

function showCommandMarks() {
  const every = Math.ceil(commands.length / MOST_MARKS) || 1;
  commands.forEach((row, index) => {
    if (index % every && !("failed" in row.dataset)) return;
    const mark = make("span", { class: "failed" in row.dataset ? "mark is-failed" : "mark", title: row.title });
    mark.style.left = `${Math.min(100, (Number(row.dataset.seconds) / length()) * 100)}%`;
    mark.addEventListener("click", () => goToCommand(row));
    scrub.querySelector(".head").before(mark);
  });
}

/** The command that ran at the moment that is shown. */
function showCommand() {
  const at = commands.findLastIndex((row) => Number(row.dataset.seconds) <= now + 0.05);
  commands.forEach((row, index) => {
    row.classList.toggle("active", index === at);
    if (index === at) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  });
}

/* --- reading --- */

const asked = Number(new URLSearchParams(location.search).get("t")) || 0;
let arrived = false; // at the moment that the link names

function arrive() {
  if (arrived || (asked > (times.at(-1) ?? 0) && !isWhole)) return;
  arrived = true;
  // Without a moment asked for, the first thing that was shown: better than a black screen.
  const first = times.findIndex((_, event) => texts[event]);
  seek(asked || Math.min(times[first] ?? 0, 5));
}

const worker = new Worker(player.dataset.worker);
const RECEIVED = {
  events(message) {
    for (let n = 0; n < message.times.length; n += 1) {
      times.push(message.times[n]);
      texts.push(message.texts[n]);
      sizes.push(message.sizes[n]);
      reach.push((reach.at(-1) ?? 0) + message.texts[n].length);
    }
    showLength();
    arrive();
  },
  snapshot(message) {
    snapshots.push(message);
    if (message.event === 0) resize(message.cols, message.rows);
  },
  end({ cut }) {
    isWhole = true;
    knownLength = times.at(-1) ?? 0;
    showLength();
    saidPosition = "";
    showPosition();
    arrive();
    part("loading").hidden = true;
    part("empty").hidden = times.some((_, n) => texts[n]);
    if (cut) toast("This recording is too long to be replayed whole in a browser. Download it to see the rest.", "warn");
    if (input.value.trim()) ask();
  },
  fault({ text }) {
    part("loading").hidden = true;
    part("fault").hidden = false;
    part("fault").querySelector("[data-part=fault-text]").textContent = `${text} Nothing of the recording is lost. Reload the page to try again.`;
    announce("The recording could not be read.");
  },
  note: addNote,
  found(message) {
    if (message.turn === turn) showHits(message.hits, message.more);
  },
};
worker.onmessage = ({ data }) => RECEIVED[data.type](data);
worker.onerror = () => RECEIVED.fault({ text: "The recording could not be read." });

window.fleetopsReplay = {
  seek,
  terminal,
  get time() { return now; },
  get loaded() { return isWhole; },
  get snapshots() { return snapshots.length; },
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

fontReady(LARGEST_FONT).then(() => {
  terminal.open(host);
  terminal.focus(); // xterm.js draws no cursor before it once had the focus
  terminal.blur();
  terminal.textarea.tabIndex = -1; // nothing can be typed there
  fitScreen();
  showButton();
  showLength();
  showPosition();
  worker.postMessage({ type: "load", url: player.dataset.cast, windowsPty: consoleOf(player) });
  new ResizeObserver(() => fitScreen()).observe(stage);
  addEventListener("fleetops:theme", () => (terminal.options.theme = themeOf(term)));
});
