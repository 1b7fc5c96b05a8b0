/* One session of the window: its screen (xterm.js), its link to the terminal process, and what stands around them. */
import { FitAddon } from "@xterm/addon-fit";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal } from "@xterm/xterm";
import { copyText } from "../clipboard.js";
import { Files } from "../files.js";
import { announce, csrfToken } from "../dom.js";
import { load, save } from "../settings.js";
import { toast } from "../toasts.js";
import { consoleOf } from "./console.js";
import { Countdown } from "./countdown.js";
import { Find } from "./find.js";
import { bytes as inWords, harmless } from "./format.js";
import { Link } from "./link.js";
import { guardPaste } from "./paste.js";
import { People } from "./people.js";
import { guardQueries } from "./queries.js";
import { accelerate } from "./renderer.js";
import { FONT, themeOf } from "./theme.js";

const SCROLLBACK_LINES = 10_000;
const SMALLEST_WATCHED = 6; // a shell that is larger than the window is shown in smaller letters, down to this
const ECHO_MS = 2000; // an answer that comes later was none
const ECHOES = 9; // of which the median is shown
const REST_MS = 300; // a stream that is silent for so long has no history left
const SPINNER_MS = 300; // a wait shorter than this shows nothing
/* What a screen says of its own: positions of the mouse, whether it has the focus. */
const REPORT = /^\u001b\[(?:<[\d;]+[Mm]|M...|[IO])$/s;
const ARROW = /^\u001b[[O]([ABCDHF])$/;

const SKIPPED = {
  interrupt: (size) => `FleetOps left out ${size} that were on their way when you pressed Ctrl C. The recording has them.`,
  quota: (size) => `FleetOps left out ${size} that are too old to be shown again. The recording has them.`,
};

export class Pane {
  /** `parts`: {banner, screen, facts} of _session.html. `desk`: the window, see workspace.js. */
  constructor(parts, desk, address) {
    Object.assign(this, parts, { desk });
    const { of: id, name, instance } = this.screen.dataset;
    Object.assign(this, { id, name, instance });
    this.watch = "watch" in this.screen.dataset;
    this.join = "join" in this.screen.dataset;
    this.host = this.screen.querySelector(".fo-term-screen");
    this.writable = !this.watch;
    this.held = false; // input waits for a moderator
    this.foreign = false; // the size is another window's
    this.isHistory = false; // what comes was shown before; programs that asked something then have their answers
    this.windows = 1; // of this person, in this mode
    this.types = true; // nobody else typed last
    this.echoes = [];
    this.typedAt = 0;
    this.status = "Connecting";
    this.makeScreen();
    this.people = new People(this);
    this.countdown = new Countdown(this);
    this.link = new Link(`${address}/ws/sessions/${id}/`, () => this.wantedSize(), { watch: this.watch, join: this.join }, {
      onOutput: (data, shown) => this.output(data, shown),
      onMessage: (message) => this[`told_${message.type}`]?.(message),
      onState: (state, details) => this[`link_${state}`](details),
    });
    this.find = new Find(this.terminal, this.part("find"), { colours: () => { const { find, found } = themeOf(this.screen); return { match: find, active: found }; } });
    this.joinButtons();
  }

  /** The element that this session's template calls `id`. */
  part(id) {
    for (const place of [this.banner, this.screen, this.facts]) {
      const found = place.querySelector(`[data-part="${id}"]`);
      if (found) return found;
    }
    return null;
  }

  /* --- the screen --- */

  makeScreen() {
    const { settings } = this.desk;
    this.screen.dataset.termTheme = settings.theme;
    const links = {
      activate: (event, target) => openLink(target),
      hover: (event, target) => this.showTarget(target),
      leave: () => this.showTarget(""),
    };
    this.terminal = new Terminal({
      allowProposedApi: true, // decorations of the search, Unicode 11
      allowTransparency: false,
      cursorBlink: false,
      fontFamily: FONT,
      fontSize: settings.fontSize,
      fontWeightBold: 640,
      lineHeight: 1.2,
      macOptionIsMeta: true,
      minimumContrastRatio: 1,
      scrollback: SCROLLBACK_LINES,
      screenReaderMode: settings.reader,
      scrollOnUserInput: true,
      disableStdin: true, // until the link is there
      theme: themeOf(this.screen),
      windowsPty: consoleOf(this.screen),
      linkHandler: { ...links, allowNonHttpProtocols: false },
    });
    this.fit = new FitAddon();
    this.terminal.loadAddon(this.fit);
    this.terminal.loadAddon(new Unicode11Addon());
    this.terminal.unicode.activeVersion = "11";
    this.terminal.loadAddon(new WebLinksAddon((event, target) => openLink(target), links));
    guardQueries(this.terminal, () => this.mayAnswer(), () => this.answers());
    this.paste = guardPaste(this, this.host);
    this.terminal.onData((text) => this.data(text));
    this.terminal.onBinary((text) => this.type(text, true));
    this.terminal.onTitleChange((title) => {
      this.title = harmless(title);
      this.part("title").textContent = this.title || this.name;
      this.desk.changed(this);
    });
    this.terminal.onBell(() => {
      this.screen.classList.add("is-bell");
      setTimeout(() => this.screen.classList.remove("is-bell"), 260);
    });
    this.terminal.attachCustomKeyEventHandler((event) => {
      if (event.type !== "keydown") return true;
      const taken = this.desk.chord(event, this);
      if (taken === true) event.preventDefault();
      return !taken;
    });
    this.screen.addEventListener("focusin", () => this.desk.focused(this));
    this.screen.addEventListener("pointerdown", () => this.desk.focused(this));
    this.host.addEventListener("mouseup", () => this.desk.settings.copyselect && this.terminal.hasSelection() && copyText(this.terminal.getSelection()));
  }

  /** Begin: the right size is known before the first prompt. */
  start() {
    this.terminal.open(this.host);
    this.renderer = accelerate(this.terminal, () => this.applySize());
    if (this.isPlaced && this.writable && !this.join) this.fit.fit();
    this.showSize();
    this.link.connect();
    new ResizeObserver(() => requestAnimationFrame(() => this.applySize())).observe(this.host);
  }

  get isPlaced() {
    return this.host.clientWidth > 40 && this.host.clientHeight > 20;
  }

  wantedSize() {
    const wanted = this.isPlaced ? this.fit.proposeDimensions() : null;
    return wanted && Number.isFinite(wanted.cols) ? wanted : { cols: this.terminal.cols, rows: this.terminal.rows };
  }

  applySize({ now = false, take = false } = {}) {
    if (!this.isPlaced || !this.terminal.element) return;
    if (!this.writable || (this.join && !take && this.foreign)) return this.shrink();
    const size = this.wantedSize();
    if (size.cols !== this.terminal.cols || size.rows !== this.terminal.rows) this.terminal.resize(size.cols, size.rows);
    this.foreign = false;
    this.link.resize({ now });
    this.showSize();
  }

  /** Show a size that is not ours: in smaller letters if it is larger than the pane. */
  shrink() {
    this.terminal.options.fontSize = this.desk.settings.fontSize;
    const room = this.fit.proposeDimensions();
    if (!room || !Number.isFinite(room.cols)) return;
    const share = Math.min(1, room.cols / this.terminal.cols, room.rows / this.terminal.rows);
    if (share < 1) this.terminal.options.fontSize = Math.max(SMALLEST_WATCHED, Math.floor(this.desk.settings.fontSize * share));
  }

  showSize() {
    const other = this.writable ? "set in another window" : "its user’s window";
    this.part("size").textContent = `${this.terminal.cols}×${this.terminal.rows}${this.foreign ? `, ${other}` : ""}`;
  }

  showTarget(target) {
    this.part("link").textContent = target ? `Opens ${harmless(target)}` : "";
  }

  /** Scroll-back and screen, one string; wrapped lines joined. */
  text() {
    const { active } = this.terminal.buffer;
    let all = "";
    for (let y = 0; y < active.length; y += 1) {
      const line = active.getLine(y);
      all += (y && !line.isWrapped ? "\n" : "") + line.translateToString(true);
    }
    return all.replace(/\n+$/, "");
  }

  setFont(size) {
    this.terminal.options.fontSize = size;
    this.applySize();
  }

  setTheme(name) {
    this.screen.dataset.termTheme = name;
    this.terminal.options.theme = themeOf(this.screen);
  }

  async copy() {
    if (!this.terminal.hasSelection()) return;
    if (!(await copyText(this.terminal.getSelection()))) toast("The browser did not allow copying. Use its own menu.", "warn");
    this.terminal.focus();
  }

  /* --- keys --- */

  get takesKeys() {
    return this.writable && !this.held && this.link.isOpen && !this.link.ended;
  }

  /** Whether this screen answers what a program asks of its terminal: of many that show it, one does. */
  mayAnswer() {
    return this.takesKeys && !this.isHistory && this.types && (this.windows < 2 || document.hasFocus());
  }

  /** The answer follows in this very turn; it is this screen's own and goes to no other. */
  answers() {
    this.answering = true;
    queueMicrotask(() => (this.answering = false));
  }

  data(text) {
    if (this.answering || this.pasting || REPORT.test(text)) return this.type(text);
    this.desk.typed(this, text);
  }

  /** Keys as this screen's program wants them: an arrow's sequence hangs on its mode. */
  typeAs(text) {
    const arrow = ARROW.exec(text);
    this.type(arrow ? `\u001b${this.terminal.modes.applicationCursorKeysMode ? "O" : "["}${arrow[1]}` : text);
  }

  type(text, binary = false) {
    if (!this.takesKeys) return;
    if (this.foreign) this.applySize({ now: true, take: true }); // before the keys: what they start sees this window's size
    if (!this.link.type(text, binary)) return;
    this.typedAt ||= performance.now();
    this.countdown.active();
  }

  /** Put `text` in as a paste, as this screen's program takes one. */
  insert(text) {
    this.pasting = true;
    this.terminal.paste(text);
    this.pasting = false;
  }

  /* --- what comes --- */

  output(data, shown) {
    if (this.typedAt) this.heard();
    this.countdown.active();
    this.desk.heard(this);
    this.terminal.write(data, () => {
      shown();
      if (this.isHistory) this.endHistory();
    });
  }

  /** From key to echo. */
  heard() {
    const took = performance.now() - this.typedAt;
    this.typedAt = 0;
    if (took > ECHO_MS) return;
    this.echoes.push(took);
    if (this.echoes.length > ECHOES) this.echoes.shift();
  }

  showEcho() {
    if (!this.link.isOpen || !this.echoes.length) return;
    const median = [...this.echoes].sort((a, b) => a - b)[this.echoes.length >> 1];
    this.state(`Connected, ${median < 10 ? median.toFixed(1) : Math.round(median)} ms`);
  }

  /** History ends at the offset that the server told, or when all that came is shown and no more follows. */
  endHistory() {
    clearTimeout(this.restTimer);
    if (this.historyEnd !== undefined) this.isHistory = this.link.shown < this.historyEnd;
    else this.restTimer = setTimeout(() => (this.isHistory = this.link.shown < this.link.received), REST_MS);
  }

  told_hello(message) {
    this.writable = message.writable !== false;
    this.you = message.you ?? {};
    this.historyEnd = message.end;
    this.isHistory = message.state !== "opening";
    if (this.isHistory) this.endHistory();
    this.part("readonly").hidden = this.writable;
    this.allowKeys();
    if (message.state === "open") this.hideNote();
    else this.note(`Opening a shell on ${this.name}`, { wait: SPINNER_MS });
    if (this.writable && !this.join) this.applySize();
    else this.take(message);
    this.desk.changed(this);
  }

  told_size(size) {
    this.take(size);
  }

  /** Have the size that somebody else gave the shell. */
  take({ cols, rows }) {
    // In order with the output: what is still to be parsed belongs to the size before.
    this.terminal.write("", () => {
      if (cols === this.terminal.cols && rows === this.terminal.rows) return;
      this.terminal.resize(cols, rows);
      this.foreign = true;
      this.link.forgetSize();
      if (!this.writable || this.join) this.shrink();
      this.showSize();
    });
  }

  told_skipped({ bytes, why }) {
    const text = (SKIPPED[why] ?? SKIPPED.interrupt)(inWords(bytes));
    this.terminal.write(`\r\n\u001b[2m${text}\u001b[22m\r\n`);
  }

  told_status({ state, text }) {
    if (state === "open") {
      if (text) return this.note(text, { warn: true });
      this.hideNote();
      announce(`The shell on ${this.name} is open.`);
      return;
    }
    this.note(text || (state === "opening" ? `Opening a shell on ${this.name}` : `The way to ${this.name} is interrupted. Trying again.`), { wait: state === "opening" ? SPINNER_MS : 0, warn: state === "reconnecting" });
  }

  told_ended({ text, replay }) {
    this.end({ title: "This session has ended", text, kind: "ended", replay });
  }

  told_people(message) {
    this.people.told(message);
    this.held = message.held === true;
    this.allowKeys();
    this.desk.changed(this);
  }

  told_note({ note }) {
    this.people.noted(note);
  }

  told_deadlines(message) {
    this.countdown.told(message);
  }

  told_recorded({ bytes }) {
    this.part("recorded").textContent = `Recording, ${inWords(bytes)}`;
  }

  allowKeys() {
    this.terminal.options.disableStdin = !this.takesKeys;
  }

  /* --- the link --- */

  link_connected() {
    this.state("Connected");
    this.echoes.length = 0;
    this.allowKeys();
    this.desk.changed(this);
  }

  link_lost({ tries }) {
    this.allowKeys();
    this.state("Reconnecting", "stale");
    if (tries > 1) this.note(navigator.onLine ? "The connection to FleetOps is lost. Trying again; the shell keeps running." : "This computer is offline. The shell keeps running.", { warn: true });
    this.desk.changed(this);
  }

  link_login() {
    this.end({ title: "You are logged out", text: "The shell keeps running for a while. Log in again to get back to it.", kind: "login" });
  }

  link_refused({ reason }) {
    this.end({ title: "This shell cannot be opened", text: reason || "You may not open it. The attempt is in the audit log.", kind: "refused" });
  }

  link_unknown() {
    this.end({ title: "There is no such session", text: "Its address may be cut off, or it belongs to somebody else.", kind: "refused" });
  }

  link_over({ reason }) {
    this.end({ title: "This session has ended", text: reason, kind: "ended" });
  }

  link_fault({ reason }) {
    this.end({ title: "FleetOps has a fault of its own", text: reason || "The shell may still be running; nothing that was shown is lost. Its log says more.", kind: "fault" });
  }

  /* --- words around the screen --- */

  note(text, { wait = 0, warn = false } = {}) {
    clearTimeout(this.noteTimer);
    const box = this.part("note");
    this.noteTimer = setTimeout(() => {
      box.classList.toggle("is-warn", warn);
      box.querySelector("span").textContent = text;
      box.hidden = false;
      announce(text);
    }, box.hidden ? wait : 0);
  }

  hideNote() {
    clearTimeout(this.noteTimer);
    this.part("note").hidden = true;
  }

  state(text, kind = "") {
    const dot = this.part("state");
    if (text !== this.status) dot.textContent = this.status = text;
    dot.classList.toggle("is-stale", kind === "stale");
    dot.classList.toggle("is-off", kind === "off");
  }

  /** The session is over for this pane. What was on the screen stays readable above the bar. */
  end({ title, text, kind, replay }) {
    this.link.ended = true;
    this.link.drop();
    this.hideNote();
    this.countdown.stop();
    this.terminal.options.disableStdin = true;
    this.terminal.options.cursorInactiveStyle = "none";
    this.terminal.blur();
    this.state(kind === "ended" ? "Ended" : "Not connected", "off");
    this.part("recording").classList.add("is-off");
    if (kind === "ended") this.part("recorded").textContent = "Recorded";
    if (this.part("end-form")) this.part("end-form").hidden = kind === "ended" || kind === "refused";
    const bar = this.part("end");
    bar.querySelector("[data-part=end-title]").textContent = title;
    bar.querySelector("[data-part=end-text]").textContent = text ? harmless(text) : "";
    bar.querySelector("[data-part=end-replay]").hidden = kind !== "ended";
    if (replay) bar.querySelector("[data-part=end-replay]").href = replay;
    bar.querySelector("[data-part=end-again]").hidden = kind !== "ended";
    this.screen.classList.add("is-over");
    bar.querySelector("[data-part=end-login]").hidden = kind !== "login";
    bar.querySelector("[data-part=end-retry]").hidden = kind !== "fault";
    for (const glyph of bar.querySelectorAll("[data-kind]")) glyph.hidden = !glyph.dataset.kind.split(" ").includes(kind);
    bar.hidden = false;
    if (this.desk.active === this) bar.focus({ preventScroll: true }); // not a button: somebody may still be typing
    announce(`${title}. ${text ?? ""}`, { now: true });
    this.desk.changed(this);
  }

  focus() {
    if (this.link.ended) this.part("end").focus({ preventScroll: true });
    else this.terminal.focus();
  }

  joinButtons() {
    const listen = (id, act) => this.part(id)?.addEventListener("click", act);
    listen("end-retry", () => location.reload());
    listen("end-login", () => location.reload());
    listen("end-close", () => this.desk.close(this));
    listen("find-opener", () => this.find.open());
    listen("join", (event) => {
      if (this.desk.panes.size < 2) return; // alone in its window it is a page of its own
      event.preventDefault();
      this.desk.joinIn(this);
    });
    this.joinFiles(listen);
    listen("split-right", () => this.desk.split(this, "row"));
    listen("split-down", () => this.desk.split(this, "col"));
    const today = this.part("said").querySelector(".alert");
    if (today && load("term.today", "") === this.id) today.remove();
    listen("said", (event) => {
      const strip = event.target.closest("button")?.closest(".alert");
      if (strip && strip === today) save("term.today", this.id); // read, for this session
      strip?.remove();
      this.focus();
    });
    /* Connect again, in the place of this pane. */
    this.part("end-again")?.addEventListener("submit", (event) => {
      event.preventDefault();
      this.desk.again(this, new FormData(event.target).get("reason"));
    });
    /* End session: asked once, sent without leaving the page; the end itself comes over the link. */
    this.part("end-form")?.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = this.part("end-form").querySelector("button");
      button.disabled = true;
      if (await this.askForEnd()) this.note("Ending the session", { wait: SPINNER_MS });
      else button.disabled = false;
    });
  }

  /** Files to and from the instance: a panel over the screen, which they may be dropped on too. */
  joinFiles(listen) {
    const panel = this.part("files");
    if (!panel) return;
    const root = panel.querySelector(".fo-files");
    const files = (root.files ??= new Files(root));
    const open = (isOpen) => {
      panel.hidden = !isOpen;
      this.part("files-opener").setAttribute("aria-expanded", String(isOpen));
    };
    listen("files-opener", () => {
      open(panel.hidden);
      if (!panel.hidden) panel.querySelector("[data-part=to]").focus();
      else this.focus();
    });
    listen("files-close", () => (open(false), this.focus()));
    panel.addEventListener("keydown", (event) => {
      event.stopPropagation(); // none of it is for the shell
      if (event.key === "Escape") (open(false), this.focus());
    });
    const sign = { classList: { add: () => this.screen.classList.add("is-over-drop"), remove: () => this.screen.classList.remove("is-over-drop") } };
    files.takeDrops(this.host, sign, () => open(true));
  }

  async askForEnd() {
    try {
      const answer = await fetch(this.part("end-form").action, { method: "POST", headers: { "X-CSRFToken": csrfToken(), "HX-Request": "true" } });
      if (!answer.ok) throw new Error(answer.status);
      return true;
    } catch {
      toast("The session was not ended: FleetOps did not take the request. Try again.", "bad");
      return false;
    }
  }

  /** Take it out of the window; the session goes on. */
  dispose() {
    this.link.ended = true;
    this.link.drop();
    this.countdown.stop();
    this.terminal.dispose();
    for (const element of [this.banner, this.screen, this.facts]) element.remove();
  }
}

/** Only web addresses, in a tab that knows nothing of this one. */
function openLink(target) {
  if (/^https?:\/\//i.test(target)) window.open(target, "_blank", "noopener,noreferrer");
}
