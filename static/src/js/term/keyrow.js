/* The keys that a phone's keyboard lacks: Esc, Tab, Ctrl, Alt, arrows and some more, in a row below the screen.
   Ctrl and Alt hold for the next key, also for one of the phone's own keyboard. */

const REPEAT_AFTER_MS = 400;
const REPEAT_MS = 70;
const REPEATING = new Set(["ArrowLeft", "ArrowDown", "ArrowUp", "ArrowRight", "PageUp", "PageDown"]);
const CURSOR = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D", Home: "H", End: "F" };
const PAGES = { PageUp: 5, PageDown: 6 };

/** What a terminal sends for `key` (xterm's table): "\x1b[A", with a modifier "\x1b[1;5A", for a full-screen program "\x1bOA". */
export function sequence(key, { ctrl = false, alt = false, application = false } = {}) {
  const modifier = 1 + (alt ? 2 : 0) + (ctrl ? 4 : 0);
  if (key === "Escape") return alt ? "\u001b\u001b" : "\u001b";
  if (key === "Tab") return "\t";
  if (key in PAGES) return `\u001b[${PAGES[key]}${modifier > 1 ? `;${modifier}` : ""}~`;
  if (modifier > 1) return `\u001b[1;${modifier}${CURSOR[key]}`;
  return `\u001b${application ? "O" : "["}${CURSOR[key]}`;
}

/** `text` as typed with the modifiers held: Ctrl and c is \x03, Alt and b is \x1bb. */
export function modified(text, { ctrl = false, alt = false }) {
  let typed = text;
  if (ctrl && text.length === 1) {
    const code = text.toUpperCase().charCodeAt(0);
    if (code >= 64 && code < 96) typed = String.fromCharCode(code & 31);
    else if (text === " ") typed = "\u0000";
    else if (text === "?") typed = "\u007f";
    else if (text === "/" || text === "-") typed = "\u001f";
  }
  return alt && text.length === 1 ? `\u001b${typed}` : typed;
}

export class KeyRow {
  /** `terminal()` is the one that has the keys; `type(text)` sends; `paste` is what a paste does. */
  constructor(row, { terminal, type, paste }) {
    this.row = row;
    this.terminal = terminal;
    this.type = type;
    this.held = { ctrl: false, alt: false };
    // A press must not take the focus from the terminal: the phone's keyboard would go away.
    row.addEventListener("pointerdown", (event) => this.press(event));
    row.addEventListener("mousedown", (event) => event.preventDefault());
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) row.addEventListener(name, () => this.release());
    row.addEventListener("scroll", () => this.release());
    row.addEventListener("click", (event) => this.click(event));
    const button = row.querySelector("[data-part=paste]");
    button.hidden = !navigator.clipboard?.readText; // browsers give it to pages with TLS, or of this machine, only
    button.addEventListener("click", async () => {
      const text = await navigator.clipboard.readText().catch(() => "");
      if (text) paste(text);
    });
  }

  /** What the terminal is about to send: with Ctrl or Alt held, the next key is changed by it. */
  typed(text) {
    if (text.length !== 1 || (!this.held.ctrl && !this.held.alt)) return text; // not a paste, nor an answer to a program
    const changed = modified(text, this.held);
    this.letGo();
    return changed;
  }

  letGo() {
    for (const name of ["ctrl", "alt"]) this.hold(name, false);
  }

  hold(name, on) {
    this.held[name] = on;
    this.row.querySelector(`[data-modifier=${name}]`).setAttribute("aria-pressed", on);
  }

  send({ key, text }) {
    if (text) return this.type(this.typed(text));
    this.type(sequence(key, { ...this.held, application: this.terminal().modes.applicationCursorKeysMode }));
    this.letGo();
  }

  press(event) {
    const { key } = event.target.closest("button")?.dataset ?? {};
    if (!REPEATING.has(key)) return;
    this.repeated = false;
    this.timer = setTimeout(() => {
      this.repeated = true;
      this.timer = setInterval(() => this.send({ key }), REPEAT_MS);
    }, REPEAT_AFTER_MS);
  }

  release() {
    clearTimeout(this.timer);
    clearInterval(this.timer);
  }

  click(event) {
    this.release();
    const button = event.target.closest("button");
    if (!button) return;
    const { modifier, key, text } = button.dataset;
    if (modifier) this.hold(modifier, !this.held[modifier]);
    else if ((key || text) && !this.repeated) this.send({ key, text });
    this.repeated = false;
    if (event.detail) this.terminal().focus(); // by hand; who came by keyboard stays in the row
  }
}
