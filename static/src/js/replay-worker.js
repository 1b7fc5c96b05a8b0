/* Reads a recording (asciicast 2 or 3) while it arrives, beside the page: hands its events on, keeps pictures of the
   screen from which one can go on (so that a seek is quick in an hour's recording too), and searches what was shown.

   In:  {type: "load", url, windowsPty}   {type: "find", words, turn}
   Out: {type: "events", times: Float64Array, texts, sizes}   texts[n]: output; sizes[n]: [cols, rows] or null
        {type: "snapshot", event, cols, rows, data}   the screen before that event
        {type: "note", time, text}   what happened besides output, at that second
        {type: "end", events, bytes}   {type: "fault", text}   {type: "found", turn, hits, more} */
import "./worker-window.js";
import { SerializeAddon } from "@xterm/addon-serialize";
import { Terminal } from "@xterm/headless";

const BATCH_CHARACTERS = 256 * 1024;
const SNAPSHOT_CHARACTERS = 512 * 1024; // of output between two pictures: written again in well under 0.1 s
const SNAPSHOT_SCROLLBACK = 300; // lines kept above the screen in a picture
const MOST_CHARACTERS = 256 * 1024 * 1024; // more would not fit a tab; the download has all
const MOST_HITS = 300;
const BLOCK_CHARACTERS = 256 * 1024; // of plain text that is searched at once
const CONTEXT = 90; // characters shown around a hit

let screen;
let windowsPty; // see term/console.js
let serialize;
let count = 0; // events read
let characters = 0;
let sinceSnapshot = 0;

/* --- plain text, for the search --- */

const ESCAPES = /\u001b\[[0-?]*[ -/]*[@-~]|\u001b[\]PX^_][^\u0007\u001b]{0,4096}(?:\u0007|\u001b\\)|\u001b[ -/]*[0-OQ-WYZ\\`-~]|[\u0000-\u0007\u000b\u000c\u000e-\u001a\u001c-\u001f\u007f]/g;
const UNFINISHED = /\u001b(?:\[[0-?]*[ -/]*|[\]PX^_][^\u0007\u001b]{0,4096}\u001b?|[ -/]*)?$/;
const blocks = [];
let block;
let rest = "";

function openBlock() {
  block = { parts: [], length: 0, events: [], offsets: [], text: null };
  blocks.push(block);
}

function remember(text, event) {
  let raw = rest + text;
  const cut = raw.search(UNFINISHED);
  rest = cut >= 0 ? raw.slice(cut) : "";
  raw = (cut >= 0 ? raw.slice(0, cut) : raw).replace(ESCAPES, "").replace(/\r\n?/g, "\n");
  if (!raw) return;
  block.events.push(event);
  block.offsets.push(block.length);
  block.parts.push(raw);
  block.length += raw.length;
  block.text = null;
  if (block.length > BLOCK_CHARACTERS && raw.includes("\n")) openBlock();
}

const last = (sorted, value) => {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
};

/** A backspace takes back what was typed; kept until here, since offsets count it. */
const typed = (line) => {
  let text = line;
  while (text.includes("\b")) text = text.replace(/[^\b]?\b/, "");
  return text;
};

function find(words) {
  const wanted = words.toLowerCase();
  const hits = [];
  for (const { parts, events, offsets, ...block } of blocks) {
    const text = block.text ?? parts.join("");
    const low = text.toLowerCase();
    let lineEnd = -1;
    for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, Math.max(at + 1, lineEnd))) {
      const lineStart = text.lastIndexOf("\n", at) + 1;
      lineEnd = text.indexOf("\n", at);
      if (lineEnd < 0) lineEnd = text.length;
      const from = Math.max(lineStart, at - CONTEXT / 3);
      hits.push({ event: events[last(offsets, at + wanted.length - 1)], before: typed(text.slice(from, at)), match: text.slice(at, at + wanted.length), after: typed(text.slice(at + wanted.length, Math.min(lineEnd, at + CONTEXT))) });
      if (hits.length >= MOST_HITS) return { hits, more: true };
    }
  }
  return { hits, more: false };
}

/* --- pictures of the screen --- */

const write = (text) => new Promise((resolve) => screen.write(text, resolve));

/** May one go on from here? Not within an escape sequence, and not while a scroll region is set: a picture has neither. */
function isRestful() {
  const { buffer, _inputHandler } = screen._core;
  return _inputHandler._parser.currentState === 0 && buffer.scrollTop === 0 && buffer.scrollBottom === screen.rows - 1;
}

function snapshot() {
  sinceSnapshot = 0;
  const data = serialize.serialize({ scrollback: SNAPSHOT_SCROLLBACK });
  postMessage({ type: "snapshot", event: count, cols: screen.cols, rows: screen.rows, data });
}

/* --- reading --- */

let version = 2;
let clock = 0;
let times = [];
let texts = [];
let sizes = [];
let batch = 0;

function flush() {
  if (!times.length) return;
  const moments = Float64Array.from(times);
  postMessage({ type: "events", times: moments, texts, sizes }, [moments.buffer]);
  times = [];
  texts = [];
  sizes = [];
  batch = 0;
}

async function event(line) {
  const [when, code, data] = JSON.parse(line);
  clock = version === 3 ? clock + when : when;
  if (code === "m") postMessage({ type: "note", time: clock, text: data });
  if (code !== "o" && code !== "r") return;
  const size = code === "r" ? data.split("x").map(Number) : null;
  times.push(clock);
  texts.push(size ? "" : data);
  sizes.push(size);
  if (size) {
    await write("");
    screen.resize(...size);
  } else {
    remember(data, count);
    batch += data.length;
    characters += data.length;
    sinceSnapshot += data.length;
    screen.write(data);
  }
  count += 1;
  if (batch >= BATCH_CHARACTERS) flush();
  if (sinceSnapshot >= SNAPSHOT_CHARACTERS) {
    await write("");
    if (isRestful()) snapshot();
    else if (sinceSnapshot < 4 * SNAPSHOT_CHARACTERS) sinceSnapshot = SNAPSHOT_CHARACTERS - 4096; // look again soon
    else sinceSnapshot = 0; // a program keeps a scroll region all the time
  }
}

function header(line) {
  const head = JSON.parse(line);
  version = head.version;
  const [cols, rows] = version === 3 ? [head.term.cols, head.term.rows] : [head.width, head.height];
  screen = new Terminal({ cols, rows, scrollback: SNAPSHOT_SCROLLBACK, allowProposedApi: true, windowsPty });
  serialize = new SerializeAddon();
  screen.loadAddon(serialize);
  openBlock();
  postMessage({ type: "snapshot", event: 0, cols, rows, data: "" });
}

async function load(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`FleetOps answered ${answer.status}.`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let tail = "";
  let isFirst = true;
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (tail + (value ?? "")).split("\n");
    tail = done ? "" : lines.pop();
    for (const line of lines) {
      if (!line.trim()) continue;
      if (isFirst) header(line);
      else await event(line);
      isFirst = false;
    }
    flush();
    if (done || characters > MOST_CHARACTERS) break;
  }
  if (characters > MOST_CHARACTERS) reader.cancel();
  postMessage({ type: "end", events: count, bytes: characters, cut: characters > MOST_CHARACTERS });
}

onmessage = ({ data }) => {
  if (data.type === "load") windowsPty = data.windowsPty;
  if (data.type === "load") load(data.url).catch((error) => (flush(), postMessage({ type: "fault", text: error.message })));
  if (data.type === "find") postMessage({ type: "found", turn: data.turn, ...find(data.words) });
};
