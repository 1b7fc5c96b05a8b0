/* The cells of a run: a letter for each target, asked for as they change. Waves of up to 800 targets are buttons, larger
   ones are painted. A cursor moves by arrow keys; the line below says what it is on; Enter opens it, f finds failures.
   Repainted at most 4 times a second. A hidden tab asks for nothing. */
import { behaviour } from "./behaviours.js";
import { announce, icon, make } from "./dom.js";
import { onKey } from "./keys.js";
import { gotNews } from "./live.js";

const POLL_MS = 500; // what has ended shows within a second, the engine's own look included
const SLOW_MS = 5000; // after an answer that failed
const PAINT_MS = 250;
const LOOK_MS = 120; // until the line below asks for what the cursor rests on
const SIZES = [[3000, 6], [Infinity, 5]]; // up to so many cells: pixels of one
const GLYPHS = { ok: "circle-check", run: "loader", warn: "alert-triangle", bad: "circle-x", hold: "hand", wait: "circle-dashed", off: "circle-off" };
const lanes = [];

/** A colour token as the canvas takes it. */
function colours(near) {
  const probe = make("i", { hidden: true });
  near.append(probe);
  const read = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const found = { ok: read("--fo-cell-ok"), run: read("--fo-run-fill"), bad: read("--fo-bad-fill"), wait: read("--fo-wait-fill"), off: read("--fo-off-fill"), hold: read("--fo-hold-fill"), warn: read("--fo-warn-fill"), back: read("--fo-surface"), cross: read("--fo-on-bad"), ink: read("--fo-ink-1") };
  probe.remove();
  return found;
}

const glyph = (kind) => icon(GLYPHS[kind] ?? "circle-dashed", kind === "run" ? "fo-spin" : "");

/** One wave's cells, as buttons or painted. `run` holds the letters of all. */
class Lane {
  constructor(run, body) {
    this.run = run;
    this.body = body;
    this.from = Number(body.dataset.from) - 1;
    this.count = Number(body.dataset.count);
    this.cursor = 0;
    this.fold = body.closest("details");
    this.isPainted = body.dataset.kind === "canvas";
    this.readout = make("div", { class: "fo-readout", "aria-live": "polite" }, make("span", { class: "ink-3" }, "Move over a cell, or into the cells with the Tab key."));
    this.grid = this.isPainted ? this.canvas() : make("div", { class: "fo-cells", role: "group", "aria-label": body.dataset.label });
    body.append(this.grid, this.readout);
    this.listen();
    this.fold?.addEventListener("toggle", () => this.fold.open && this.draw(true));
  }

  canvas() {
    return make("canvas", { role: "img", tabindex: "0", "aria-label": this.body.dataset.label });
  }

  letter(at) {
    return this.run.letters[this.from + at] ?? "w";
  }

  code(at) {
    return this.run.codes[this.letter(at)] ?? ["wait", "Waiting"];
  }

  listen() {
    this.grid.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.per ?? 1, ArrowUp: -(this.per ?? 1), Home: -this.count, End: this.count }[event.key];
      if (by) {
        event.preventDefault();
        this.go(Math.min(this.count - 1, Math.max(0, this.cursor + by)), true);
      } else if (event.key === "Enter" && this.isPainted) {
        event.preventDefault();
        this.open(this.cursor);
      }
    });
    this.grid.addEventListener("pointermove", (event) => {
      const at = this.under(event);
      if (at >= 0 && at !== this.cursor) this.go(at, false);
    });
    this.grid.addEventListener("click", (event) => {
      const at = this.under(event);
      if (at >= 0) this.open(at);
    });
    this.grid.addEventListener("focusin", (event) => {
      const at = this.isPainted ? this.cursor : Number(event.target.dataset.at ?? this.cursor);
      this.go(at, false);
    });
    this.grid.addEventListener("blur", () => this.draw(true));
  }

  under(event) {
    if (!this.isPainted) return Number(event.target.closest("[data-at]")?.dataset.at ?? -1);
    const column = Math.floor(event.offsetX / this.step);
    const at = Math.floor(event.offsetY / this.step) * this.per + column;
    return column < this.per && at < this.count && at >= 0 ? at : -1;
  }

  go(at, takesFocus) {
    if (!this.isPainted) {
      this.grid.children[this.cursor]?.setAttribute("tabindex", "-1");
      const button = this.grid.children[at];
      button?.setAttribute("tabindex", "0");
      if (takesFocus) button?.focus();
    }
    this.cursor = at;
    this.look();
    if (this.isPainted) this.draw(true);
  }

  /** The line below: at once what is known, then what the server says of it. */
  look() {
    const at = this.cursor;
    const [kind, word] = this.code(at);
    const name = this.names?.[at] ?? "";
    this.say(kind, word, name, "");
    clearTimeout(this.asking);
    this.asking = setTimeout(async () => {
      const answer = await fetch(`${this.run.url}${this.from + at + 1}/`, { headers: { Accept: "application/json" } }).catch(() => null);
      if (!answer?.ok || this.cursor !== at) return;
      const found = await answer.json();
      this.say(found.kind, found.word, found.name, found.said);
    }, LOOK_MS);
  }

  say(kind, word, name, said) {
    const state = make("span", { class: `status status-${kind}` }, glyph(kind), word);
    this.readout.replaceChildren(state, make("b", { class: "medium" }, name || `Target ${this.from + this.cursor + 1}`), make("span", { class: "ink-2 grow truncate" }, said));
  }

  async open(at) {
    this.cursor = at;
    const answer = await fetch(`${this.run.url}${this.from + at + 1}/`, { headers: { Accept: "application/json" } }).catch(() => null);
    if (!answer?.ok) return;
    const { url } = await answer.json();
    this.grid.focus?.({ preventScroll: true });
    htmx.ajax("GET", `${url}?from=${encodeURIComponent(location.pathname)}`, { target: "#drawer", swap: "outerHTML" });
  }

  next(by) {
    for (let step = 1; step <= this.count; step++) {
      const at = (this.cursor + by * step + this.count * 2) % this.count;
      if (this.code(at)[0] === "bad") {
        this.go(at, !this.isPainted);
        if (this.isPainted) this.grid.focus({ preventScroll: true });
        const [, word] = this.code(at);
        announce(`${word}: target ${this.from + at + 1}`);
        return true;
      }
    }
    return false;
  }

  async draw(isWhole, changed = []) {
    if (this.fold && !this.fold.open) return;
    if (this.isPainted) return this.paint();
    if (!this.grid.children.length) {
      this.grid.append(...Array.from({ length: this.count }, (_, at) => make("button", { class: "fo-cell", type: "button", "data-at": at, tabindex: at ? "-1" : "0" })));
      this.name();
      isWhole = true;
    }
    const per = Math.floor((this.grid.clientWidth + 2) / ((this.grid.children[0]?.offsetWidth || 11) + 2));
    this.per = Math.max(1, per);
    for (const at of isWhole ? this.grid.children.length && [...this.grid.children].keys() : changed) this.dress(at);
  }

  dress(at) {
    const button = this.grid.children[at];
    if (!button) return;
    const [kind, word] = this.code(at);
    const name = this.names?.[at] ?? `Target ${this.from + at + 1}`;
    const css = `fo-cell is-${kind}`;
    if (button.className !== css) button.className = css;
    const label = `${name}: ${word}`;
    if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
  }

  async name() {
    const answer = await fetch(`${this.run.namesUrl}?from=${this.from + 1}`).catch(() => null);
    if (!answer?.ok) return;
    this.names = (await answer.json()).names;
    for (let at = 0; at < this.count; at++) this.dress(at);
  }

  paint() {
    const canvas = this.grid;
    const size = SIZES.find(([most]) => this.count <= most)[1];
    const step = size + (size > 5 ? 2 : 1);
    const width = canvas.clientWidth || canvas.parentElement.clientWidth;
    const per = Math.max(1, Math.floor((width + step - size) / step));
    const rows = Math.ceil(this.count / per);
    const ratio = devicePixelRatio || 1;
    Object.assign(this, { per, step });
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round((rows * step + 2) * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round((rows * step + 2) * ratio);
      canvas.style.height = `${rows * step + 2}px`;
    }
    const colour = colours(this.body);
    const g = canvas.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, rows * step + 2);
    const counts = {};
    for (let at = 0; at < this.count; at++) {
      const [kind, word] = this.code(at);
      counts[word] = (counts[word] ?? 0) + 1;
      cell(g, kind, (at % per) * step, Math.floor(at / per) * step, size, colour);
    }
    if (document.activeElement === canvas) {
      g.strokeStyle = colour.ink;
      g.lineWidth = 2;
      g.strokeRect((this.cursor % per) * step - 2, Math.floor(this.cursor / per) * step - 2, size + 4, size + 4);
    }
    const said = Object.entries(counts).map(([word, count]) => `${count.toLocaleString("en")} ${word.toLowerCase()}`).join(", ");
    canvas.setAttribute("aria-label", `${this.body.dataset.label}: ${said}. Arrow keys move, Enter opens.`);
  }
}

/** One painted cell: shape as well as colour. */
function cell(g, kind, x, y, n, colour) {
  g.fillStyle = colour[kind] ?? colour.wait;
  if (kind === "wait") {
    g.fillRect(x, y, n, n);
    g.fillStyle = colour.back;
    g.fillRect(x + 1, y + 1, n - 2, n - 2);
  } else if (kind === "run") {
    g.fillRect(x, y, n, n);
    g.fillStyle = colour.back;
    g.fillRect(x + 1, y + 1, n - 2, 1);
  } else if (kind === "bad") {
    g.fillRect(x, y, n, n);
    g.strokeStyle = colour.cross;
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(x + 1, y + 1);
    g.lineTo(x + n - 1, y + n - 1);
    g.moveTo(x + n - 1, y + 1);
    g.lineTo(x + 1, y + n - 1);
    g.stroke();
  } else if (kind === "warn") {
    g.fillRect(x, y, n, n);
    g.fillStyle = colour.back;
    g.fillRect(x + 1, y + 1, n - 2, Math.max(1, Math.floor(n / 2) - 1));
  } else if (kind === "hold") {
    g.fillRect(x, y, n, n);
    g.fillStyle = colour.back;
    g.fillRect(x + 2, y + 2, n - 4, n - 4);
  } else if (kind === "off") {
    g.strokeStyle = colour.off;
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(x, y + n);
    g.lineTo(x + n, y);
    g.stroke();
  } else {
    g.fillRect(x, y, n, n);
  }
}

behaviour("cells", (section) => {
  const run = {
    url: section.dataset.url,
    namesUrl: section.dataset.names,
    codes: JSON.parse(document.getElementById(section.dataset.codes).textContent),
    letters: [],
    cursor: "",
  };
  const mine = [...section.querySelectorAll(".fo-lane-body")].map((body) => new Lane(run, body));
  lanes.push(...mine);
  let painted = 0;
  let waiting = 0;

  const draw = (changed) => {
    clearTimeout(waiting);
    const soon = PAINT_MS - (performance.now() - painted);
    if (soon > 0) {
      waiting = setTimeout(() => draw(null), soon);
      return;
    }
    painted = performance.now();
    for (const lane of mine) {
      const here = changed?.filter((at) => at >= lane.from && at < lane.from + lane.count).map((at) => at - lane.from);
      if (!here || here.length || !lane.grid.children.length) lane.draw(!here, here);
    }
  };

  const look = async () => {
    if (!section.isConnected) return;
    let wait = POLL_MS;
    if (!document.hidden) {
      const answer = await fetch(`${run.url}?since=${run.cursor}`, { headers: { Accept: "application/json" } }).catch(() => null);
      if (answer?.redirected) return location.reload(); // the log-in ended
      if (answer?.ok) {
        const news = await answer.json();
        gotNews();
        run.cursor = news.cursor;
        section.dataset.cursor = news.cursor;
        if (news.all !== undefined) {
          run.letters = [...news.all];
          draw(null);
        } else if (news.changed.length) {
          for (const [at, letter] of news.changed) run.letters[at] = letter;
          draw(news.changed.map(([at]) => at));
        }
        for (const lane of mine) {
          const isNow = news.open && ["running", "soaking", "gated", "failed"].includes(news.waves[lane.fold?.dataset.wave]);
          if (lane.fold && isNow !== lane.fold.classList.contains("is-now")) {
            lane.fold.classList.toggle("is-now", isNow);
            if (isNow) lane.fold.open = true;
          }
        }
        if (!news.open) wait = 0;
      } else {
        wait = SLOW_MS;
      }
    }
    if (wait) setTimeout(look, wait);
  };
  look();
  addEventListener("resize", () => draw(null));
  addEventListener("fleetops:theme", () => draw(null));
});

/* f and Shift f: the next failure, in the wave that has the cursor or else in the first with one. */
const failure = (by) => {
  const here = lanes.find((lane) => lane.grid.contains(document.activeElement));
  const open = lanes.filter((lane) => lane.body.isConnected && (!lane.fold || lane.fold.open));
  return [here, ...open].some((lane) => lane?.next(by)) ? undefined : false;
};
onKey("f", () => failure(1));
onKey("F", () => failure(-1));
onKey("p", () => {
  const button = document.querySelector('#run-actions [data-key="p"]');
  if (!button) return false;
  button.click();
});
