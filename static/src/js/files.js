/* Files to and from an instance: one after the other, each through a session and a websocket of its own, which
   sessions_app/transfers/engine.py serves. Markup: templates/sessions/_files.html. */
import { behaviour } from "./behaviours.js";
import { announce, csrfToken, icon, make } from "./dom.js";
import { bytes, harmless, spoken } from "./term/format.js";

const FRAME_BYTES = 64 * 1024; // of an upload; the server takes no more at once
const GATHER_BYTES = 8 << 20; // of a download, before they become a Blob, which the browser may put on its disk
const DIGEST_BYTES = 256 << 20; // a digest needs the whole file in memory
const RATE_MS = 3000; // over which the rate is measured
const SHOW_MS = 200;

let running = 0;
addEventListener("beforeunload", (event) => running && event.preventDefault());

behaviour("files", (root) => (root.files ??= new Files(root)));

export class Files {
  constructor(root) {
    this.root = root;
    this.address = addressOf(root.dataset);
    this.queue = [];
    const drop = root.querySelector(".fo-drop");
    this.part("chosen").addEventListener("change", (event) => {
      this.upload([...event.target.files]);
      event.target.value = "";
    });
    drop.addEventListener("keydown", (event) => event.key === "Enter" && this.part("chosen").click());
    this.takeDrops(root, drop);
    this.part("upload").addEventListener("submit", (event) => event.preventDefault());
    this.part("download").addEventListener("submit", (event) => {
      event.preventDefault();
      const path = this.part("from").value;
      if (path.trim()) this.add({ direction: "download", path, name: path.replace(/\/+$/, "").split("/").pop() || "file" });
    });
  }

  part(id) {
    return this.root.querySelector(`[data-part="${id}"]`);
  }

  /** Files that are dropped on `place` are uploaded; `sign` shows that they would be. */
  takeDrops(place, sign, onFiles = null) {
    const has = (event) => event.dataTransfer?.types.includes("Files");
    place.addEventListener("dragover", (event) => {
      if (!has(event)) return;
      event.preventDefault();
      sign.classList.add("is-over");
    });
    place.addEventListener("dragleave", () => sign.classList.remove("is-over"));
    place.addEventListener("drop", (event) => {
      if (!has(event)) return;
      event.preventDefault();
      event.stopPropagation();
      sign.classList.remove("is-over");
      onFiles?.();
      this.upload([...event.dataTransfer.files]);
    });
  }

  upload(files) {
    const to = this.part("to").value || "~/";
    const overwrite = this.part("overwrite").checked;
    for (const file of files) this.add({ direction: "upload", path: to, name: file.name, file, overwrite });
  }

  add(job) {
    job.row = new Row(this.part("list"), job);
    const limit = Number(this.root.dataset.limit);
    if (job.file && job.file.size > limit) {
      return job.row.fail(`It has ${bytes(job.file.size)}; files may have up to ${this.root.dataset.limitWords}.`);
    }
    this.queue.push(job);
    if (!this.isBusy) this.work();
  }

  async work() {
    this.isBusy = true;
    while (this.queue.length) {
      const job = this.queue.shift();
      if (job.row.isOver) continue; // cancelled while it waited
      running += 1;
      try {
        await this.carry(job);
      } catch (error) {
        job.row.fail(error.message || "FleetOps did not take the request. Try again.");
      }
      running -= 1;
    }
    this.isBusy = false;
  }

  async carry(job) {
    const { parent, instance, begin } = this.root.dataset;
    job.row.onCancel = () => {}; // said as soon as there is a websocket
    const form = new URLSearchParams({ direction: job.direction, path: job.path, name: job.name, reason: this.part("reason").value });
    if (parent) form.set("parent", parent);
    else form.set("instance", instance);
    if (job.file) form.set("size", job.file.size);
    if (job.overwrite) form.set("overwrite", "1");
    job.row.say("Starting");
    const answer = await fetch(begin, { method: "POST", headers: { "X-CSRFToken": csrfToken(), Accept: "application/json" }, body: form });
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      if (told.needs_reason) {
        this.part("why").hidden = false;
        this.part("why-text").textContent = told.problem;
        this.part("reason").focus();
      }
      throw new Error(told.problem || `FleetOps did not take the request (${answer.status}). Try again.`);
    }
    await new Carrying(job, `${this.address}/ws/sessions/${told.session}/`).over;
  }
}

function addressOf({ url, port }) {
  return url || `${location.protocol === "https:" ? "wss" : "ws"}://${location.hostname}:${port}`;
}

/** One file on its way. `over` is resolved when it has ended, well or not. */
class Carrying {
  constructor(job, url) {
    Object.assign(this, { job, taken: 0, parts: [], gathered: 0, blobs: [] });
    this.over = new Promise((resolve) => (this.end = resolve));
    job.row.onCancel = () => this.say({ type: "cancel" });
    const socket = (this.socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.say({ type: "attach", cols: 80, rows: 24 });
      if (job.row.isCancelled) this.say({ type: "cancel" });
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.read(JSON.parse(data)) : this.receive(data));
    socket.onclose = ({ reason }) => {
      this.wake?.();
      if (!this.settling && !job.row.isOver) job.row.fail(reason || "The connection to FleetOps was lost. Begin it again.");
      Promise.resolve(this.settling).then(this.end, this.end);
    };
  }

  say(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  read(message) {
    const { row, file } = this.job;
    if (message.type === "ready") {
      row.begin(message);
      if (file) this.send(file, message.window);
    } else if (message.type === "taken") {
      this.taken = message.bytes;
      row.moved(message.bytes);
      this.wake?.();
    } else if (message.type === "checking") row.say("Comparing digests");
    else if (message.type === "failed") row.fail(message.text, message.cancelled);
    else if (message.type === "ended") row.isOver || row.fail(message.text);
    else if (message.type === "done") this.settling = this.done(message);
  }

  /** Send `file`, never more than `window` bytes ahead of what the instance has. */
  async send(file, window) {
    let sent = 0;
    try {
      while (sent < file.size && this.socket.readyState === WebSocket.OPEN) {
        while (sent - this.taken >= window && this.socket.readyState === WebSocket.OPEN) await new Promise((resolve) => (this.wake = resolve));
        const piece = await file.slice(sent, sent + FRAME_BYTES).arrayBuffer();
        if (this.socket.readyState !== WebSocket.OPEN) return;
        this.socket.send(piece);
        sent += piece.byteLength;
      }
    } catch {
      this.say({ type: "cancel" });
      this.job.row.fail("The browser could not read the file. Has it been changed or moved?");
    }
  }

  receive(data) {
    this.parts.push(data);
    this.gathered += data.byteLength;
    this.taken += data.byteLength;
    if (this.gathered > GATHER_BYTES) this.gather();
    this.job.row.moved(this.taken);
  }

  gather() {
    this.blobs.push(new Blob(this.parts));
    this.parts = [];
    this.gathered = 0;
  }

  /** What the browser has is compared too, where it can be: it reckons digests on safe origins alone. */
  async done({ text, sha256, path, bytes: size }) {
    const { row, file, name } = this.job;
    let blob = file;
    if (!file) {
      this.gather();
      blob = new Blob(this.blobs, { type: "application/octet-stream" });
    }
    const own = globalThis.crypto?.subtle && blob.size <= DIGEST_BYTES ? await digest(blob).catch(() => "") : "";
    if ((own && own !== sha256) || blob.size !== size) return row.fail("What this browser has is not what the instance has: the digests differ.");
    row.done({ text, sha256, path, size });
    if (!file) save(blob, name);
  }
}

async function digest(blob) {
  const found = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  return [...found].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** What is shown of one file. */
class Row {
  constructor(list, { direction, path, name }) {
    this.isOver = false;
    this.isUpload = direction === "upload";
    this.words = make("span", { class: "fo-files-words", "aria-live": "off" }, "Waiting");
    this.bar = make("div", { class: "progress-bar" });
    this.progress = make("div", { class: "progress", role: "progressbar", "aria-label": `${name}`, "aria-valuemin": 0, "aria-valuemax": 100, hidden: true }, this.bar);
    this.button = make("button", { class: "btn btn-sm", type: "button", "aria-label": `Cancel ${name}` }, "Cancel");
    this.button.addEventListener("click", () => (this.isOver ? this.element.remove() : this.cancel()));
    this.title = make("span", { class: "fo-files-path mono" }, harmless(this.isUpload ? `${name} → ${path}` : path));
    this.element = make("li", {}, icon(this.isUpload ? "send" : "download"), make("div", { class: "grow" }, this.title, this.progress, this.words), this.button);
    list.prepend(this.element);
  }

  cancel() {
    this.button.disabled = true;
    this.isCancelled = true;
    if (this.onCancel) this.onCancel();
    else this.fail("Cancelled.", true);
  }

  say(text) {
    this.words.textContent = text;
  }

  begin({ path, size }) {
    this.size = size;
    this.title.textContent = harmless(path);
    this.title.title = harmless(path);
    this.progress.hidden = false;
    this.marks = [[performance.now(), 0]];
    this.moved(0);
  }

  moved(count) {
    const moment = performance.now();
    this.marks.push([moment, count]);
    while (this.marks.length > 2 && moment - this.marks[0][0] > RATE_MS) this.marks.shift();
    if (count < this.size && moment - (this.shownAt ?? 0) < SHOW_MS) return;
    this.shownAt = moment;
    const share = this.size ? Math.min(1, count / this.size) : 1;
    this.bar.style.setProperty("width", `${share * 100}%`);
    this.progress.setAttribute("aria-valuenow", Math.round(share * 100));
    const [since, before] = this.marks[0];
    const rate = moment > since ? ((count - before) / (moment - since)) * 1000 : 0;
    const left = rate > 0 && count < this.size ? `, ${spoken((this.size - count) / rate)} left` : "";
    this.say(`${bytes(count)} of ${bytes(this.size)}${rate > 0 ? `, ${bytes(Math.round(rate))}/s` : ""}${left}`);
  }

  done({ text, sha256, path, size }) {
    this.finish("is-done", "circle-check");
    this.title.textContent = harmless(path);
    this.words.replaceChildren(`${this.isUpload ? "Uploaded" : "Downloaded"}, ${bytes(size)}, SHA-256 `, make("code", { title: sha256 }, sha256));
    announce(text, { now: true });
  }

  fail(text, isCancelled = false) {
    this.finish(isCancelled ? "is-cancelled" : "is-failed", isCancelled ? "circle-off" : "circle-x");
    this.say(harmless(text).length < text.length ? text.replace(/[\u0000-\u001f\u007f-\u009f]/g, " ") : text);
    announce(text, { now: true });
  }

  finish(kind, glyph) {
    this.isOver = true;
    this.element.classList.add(kind);
    this.element.firstElementChild.replaceWith(icon(glyph));
    this.progress.hidden = true;
    this.button.disabled = false;
    this.button.textContent = "Dismiss";
    this.button.setAttribute("aria-label", `Dismiss ${this.title.textContent}`);
  }
}
