/* The websocket to the terminal process: attaches, sends keys, hands output on in order, says what has been seen, and
   comes back by itself. It knows nothing of the screen.

   Output is counted in bytes since the session's start. `received` is how far this browser has got: after a loss it
   asks from there, so nothing is shown twice. The server keeps at most 512 KiB unseen in flight. */

const SEEN_BYTES = 64 * 1024; // after that many shown bytes the server is told at once
const SEEN_MS = 200; // and else after that long
const FRAME_BYTES = 32 * 1024; // of input; the server takes 64 KiB
const LONGEST_WAIT_MS = 5000;
const SIZE_MS = 60; // while a window is being dragged only every so often
const LOOK_MS = 1000;
const SLEPT_MS = 10_000; // a second that took so long was spent asleep
const PONG_MS = 2000;
const STEADY_MS = 3000; // a link that lasted as long was a good one; before that, trying again gets slower
const FINAL = { 4400: "fault", 4401: "login", 4403: "refused", 4404: "unknown", 4409: "over" };
const FAULTS = 4; // answers 4500 in a row after which a person decides

export class Link {
  /** `wish`: {watch, join}. handlers: onOutput(bytes, shown), onMessage(message), onState(state, {reason, seconds}). */
  constructor(url, size, wish, handlers) {
    Object.assign(this, { url, size, wish, handlers });
    this.received = null; // null: nothing yet, the screen and scroll-back are wanted
    this.shown = 0;
    this.toldSeen = 0;
    this.tries = 0;
    this.faults = 0;
    this.ended = false;
    this.encoder = new TextEncoder();
    addEventListener("online", () => this.hurry());
    addEventListener("offline", () => this.socket && this.lost({ code: 1006 }));
    document.addEventListener("visibilitychange", () => document.hidden || this.hurry());
    this.lookedAt = Date.now();
    setInterval(() => this.look(), LOOK_MS);
  }

  /** A computer that slept has a websocket that is dead and does not say so. Ask it, and do not wait for long. */
  look() {
    const slept = Date.now() - this.lookedAt > SLEPT_MS;
    this.lookedAt = Date.now();
    if (!slept || this.ended) return;
    if (this.timer) return this.connect();
    if (!this.isOpen) return;
    const socket = this.socket;
    socket.send('{"type":"ping"}');
    this.pong = setTimeout(() => socket === this.socket && this.lost({ code: 1006 }), PONG_MS);
  }

  get isOpen() {
    return this.attached && this.socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    clearTimeout(this.timer);
    this.timer = null;
    this.drop();
    const socket = (this.socket = new WebSocket(this.url));
    this.attached = false;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      const { cols, rows } = this.size();
      socket.send(JSON.stringify({ type: "attach", cols, rows, from: this.received, ...this.wish }));
      this.sentSize = `${cols}x${rows}`;
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.read(JSON.parse(data)) : this.output(data));
    socket.onclose = (event) => socket === this.socket && this.lost(event);
  }

  drop() {
    clearTimeout(this.steady);
    clearTimeout(this.pong);
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  read(message) {
    if (message.type === "hello") {
      this.attached = true;
      this.steady = setTimeout(() => (this.tries = this.faults = 0), STEADY_MS);
      this.toldSeen = this.shown;
      this.handlers.onState("connected", {});
    }
    if (message.type === "ended") this.ended = true;
    if (message.type === "pong") return clearTimeout(this.pong);
    this.handlers.onMessage(message);
  }

  output(data) {
    // Never cut by its offset: after a gap the server sends a reset of its own making, counted before the output.
    const end = Number(new DataView(data).getBigUint64(0)) + data.byteLength - 8;
    this.received = Math.max(end, this.received ?? 0);
    this.handlers.onOutput(new Uint8Array(data, 8), () => this.showed(end));
  }

  showed(offset) {
    this.shown = Math.max(this.shown, offset);
    if (this.shown - this.toldSeen >= SEEN_BYTES) this.tellSeen();
    else this.seenTimer ??= setTimeout(() => this.tellSeen(), SEEN_MS);
  }

  tellSeen() {
    clearTimeout(this.seenTimer);
    this.seenTimer = null;
    if (!this.isOpen || this.shown === this.toldSeen) return;
    this.toldSeen = this.shown;
    this.socket.send(JSON.stringify({ type: "seen", offset: this.shown }));
  }

  /** Keys as typed. Returns false if they cannot go now: they are never kept, so that none runs later unseen. */
  type(text, binary = false) {
    if (!this.isOpen) return false;
    const bytes = binary ? Uint8Array.from(text, (character) => character.charCodeAt(0) & 255) : this.encoder.encode(text);
    if (bytes.length <= FRAME_BYTES) this.socket.send(bytes);
    else for (let at = 0; at < bytes.length; at += FRAME_BYTES) this.socket.send(bytes.subarray(at, at + FRAME_BYTES));
    return true;
  }

  /** Tells our size, at once or after a moment in which more may change. */
  resize({ now = false } = {}) {
    if (now) return this.tellSize();
    this.sizeTimer ??= setTimeout(() => this.tellSize(), SIZE_MS);
  }

  tellSize() {
    clearTimeout(this.sizeTimer);
    this.sizeTimer = null;
    const { cols, rows } = this.size();
    if (!this.isOpen || this.sentSize === `${cols}x${rows}`) return;
    this.sentSize = `${cols}x${rows}`;
    this.socket.send(JSON.stringify({ type: "size", cols, rows }));
  }

  /** Somebody else set another size: ours must be told again even if it is the one we sent last. */
  forgetSize() {
    this.sentSize = "";
  }

  lost({ code, reason = "" }) {
    this.drop();
    this.attached = false;
    if (this.ended) return;
    if (code === 4500) this.faults += 1;
    const final = FINAL[code] ?? (this.faults >= FAULTS ? "fault" : null);
    if (final) return this.handlers.onState(final, { reason });
    const wait = this.tries ? Math.min(LONGEST_WAIT_MS, 250 * 2 ** (this.tries - 1)) * (0.85 + Math.random() * 0.3) : 0;
    this.tries += 1;
    this.timer = setTimeout(() => this.connect(), wait);
    this.handlers.onState("lost", { reason, seconds: wait / 1000, tries: this.tries });
  }

  /** Try now instead of when the next turn comes. */
  hurry() {
    if (this.timer && !this.ended) this.connect();
  }
}
