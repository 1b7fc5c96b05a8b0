/* The window: tabs, each divided among panes, each pane one session with a link of its own. What stands where is in the
   address, behind the #, so a reload and a bookmark bring it back. */
import { ask } from "../ask.js";
import { announce, csrfToken, icon, make } from "../dom.js";
import { toast } from "../toasts.js";
import { Pane } from "./pane.js";
import { dividers, leaves, lineBeside, moved, neighbour, places, read, replaced, split, without, write } from "./tree.js";

const ID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}!?$/; // a session; with ! it is another's that one has joined
const MOST = 12; // panes: browsers have few contexts to draw with, and people few eyes
const STEP = 5; // hundredths by which an arrow moves a line
const NARROW = matchMedia("(max-width: 767px)");

const KEPT = "terminals";

/** The layout as this browser tab had it last. */
function kept() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return ""; // storage may be blocked; then the address alone tells
  }
}

function keep(layout) {
  try {
    sessionStorage.setItem(KEPT, layout);
  } catch {
    // as above
  }
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

export class Workspace {
  constructor(page, settings) {
    this.page = page;
    this.settings = settings;
    this.panes = new Map(); // by id, a joined session's with its !
    this.tabs = []; // trees
    this.last = new Map(); // of each tab (its index), the pane that had the keys last
    this.receiving = new Set(); // ids that one types into at once
    this.lines = []; // between panes
    const { port, url } = page.dataset;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const base = url ? url.replace(/^http/, "ws").replace(/\/$/, "") : `${scheme}//${location.hostname}:${port}`;
    this.address = /^wss?:/.test(base) ? base : `${scheme}//${base}`;
    this.baseTitle = document.title;
    this.part("switcher").addEventListener("change", (event) => this.show(event.target.value));
    this.part("broadcast").addEventListener("click", () => this.toggleBroadcast());
    NARROW.addEventListener("change", () => this.place());
  }

  part(id) {
    return this.page.querySelector(`[data-part="${id}"]`);
  }

  get active() {
    return this.panes.get(this.activeId);
  }

  keyOf(pane) {
    return pane.id + (pane.join ? "!" : "");
  }

  tabOf(key) {
    return this.tabs.findIndex((tree) => leaves(tree).includes(key));
  }

  /* --- begin --- */

  /** The page's own session, and around it what the address tells. */
  async start() {
    const own = this.adopt(this.part("first"));
    const key = this.keyOf(own);
    const wanted = [location.hash.slice(1), kept()].map((text) => read(unescaped(text), ID));
    this.tabs = wanted.find((tabs) => tabs.some((tree) => leaves(tree).includes(key))) ?? [key];
    this.activeId = key;
    this.place();
    own.start();
    own.focus();
    for (const other of this.tabs.flatMap(leaves)) if (other !== key) await this.bring(other);
    this.render();
  }

  /** Make a pane of the parts that a template brought. */
  adopt(place) {
    const parts = { banner: place.querySelector(".fo-banner"), screen: place.querySelector(".fo-term"), facts: place.querySelector(".fo-facts") };
    this.part("banners").append(parts.banner);
    this.part("main").append(parts.screen);
    this.part("facts").append(parts.facts);
    place.remove();
    const pane = new Pane(parts, this, this.address);
    this.panes.set(this.keyOf(pane), pane);
    return pane;
  }

  /** Fetch a session that stands in the layout already; what cannot be had leaves it, in words. */
  async bring(key) {
    const id = key.replace("!", "");
    const url = this.page.dataset.pane.replace(this.page.dataset.session, id) + (key.endsWith("!") ? "?join=1" : "");
    try {
      const answer = await fetch(url, { headers: { "HX-Request": "true" } });
      if (answer.status !== 200) {
        const why = answer.status === 410 ? `A session of this window has ended. ${await answer.text()}` : answer.status === 403 ? await answer.text() : "A session of this window cannot be shown any more.";
        throw new Error(why);
      }
      const place = make("div", { hidden: true });
      const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
      place.append(...parsed.body.children);
      this.page.append(place);
      const pane = this.adopt(place);
      if (this.keyOf(pane) !== key) this.tabs = this.tabs.map((tree) => replaced(tree, key, this.keyOf(pane))); // may no longer join
      this.place();
      pane.start();
      return pane;
    } catch (error) {
      toast(error instanceof TypeError ? "FleetOps could not be reached for a session of this window." : error.message, "warn");
      this.take(key);
      return null;
    }
  }

  /* --- opening and closing --- */

  /** Open a session on an instance. Resolves to its id, or null if the person gave up or it was refused. */
  async open(instance, reason = "") {
    if (this.panes.size >= MOST) return toast(`A window holds ${MOST} terminals. Close one, or open a second window.`, "warn"), null;
    const body = new URLSearchParams({ instance, reason });
    const answer = await fetch(this.page.dataset.open, { method: "POST", headers: { Accept: "application/json", "X-CSRFToken": csrfToken() }, body }).catch(() => null);
    const said = await answer?.json().catch(() => null);
    if (answer?.ok && said?.id) return said.id;
    if (said?.needs_reason) {
      const input = make("input", { class: "form-control", "aria-label": "Reason", maxlength: "256", autocomplete: "off", required: true });
      const agreed = await ask({ title: "Why do you need this shell?", text: "It is kept in the audit log and shown with the session.", verb: "Connect", danger: false, body: input, focus: input });
      return agreed && input.value.trim() ? this.open(instance, input.value) : null;
    }
    toast(said?.problem ?? "The session was not opened: FleetOps did not take the request. Try again.", "bad");
    return null;
  }

  async openTab(instance) {
    const id = await this.open(instance);
    if (!id) return this.active?.focus();
    this.tabs = [...this.tabs, id];
    const pane = await this.bring(id);
    if (pane) this.show(id);
  }

  /** A new session on the same instance, beside or below. */
  async split(pane, dir) {
    if (!pane.instance || pane.watch || pane.join) return toast("Only a shell of your own can be split: a new one is opened on its instance.", "warn");
    const id = await this.open(pane.instance);
    if (!id) return pane.focus();
    const key = this.keyOf(pane);
    this.tabs = this.tabs.map((tree) => split(tree, key, dir, id));
    const added = await this.bring(id);
    if (added) this.show(id);
  }

  /** Type into another's session that one has watched, in the place of its pane. */
  async joinIn(pane) {
    const key = this.keyOf(pane);
    const joined = `${pane.id}!`;
    this.tabs = this.tabs.map((tree) => replaced(tree, key, joined));
    this.drop(key);
    if (this.activeId === key) this.activeId = joined;
    if (await this.bring(joined)) this.show(joined);
  }

  /** A new session in the place of one that has ended. */
  async again(pane, reason) {
    const id = await this.open(pane.instance, reason ?? "");
    if (!id) return;
    const key = this.keyOf(pane);
    this.tabs = this.tabs.map((tree) => replaced(tree, key, id));
    this.drop(key);
    if (this.activeId === key) this.activeId = id;
    const added = await this.bring(id);
    if (added) this.show(id);
  }

  /** Close a pane; what happens to its shell is asked. */
  async close(pane) {
    const key = this.keyOf(pane);
    if (!pane.link.ended && pane.writable && !pane.join) {
      const answer = await ask({
        title: `Close the shell on ${pane.name}?`,
        text: "It can go on without this pane: it stays among your live sessions until you end it, or half an hour has passed without anybody.",
        verb: "End session", other: "Leave it running",
      });
      if (!answer) return pane.focus();
      if (answer === true && !(await pane.askForEnd())) return;
      if (answer === "other") toast(`The shell on ${pane.name} keeps running; it is under Sessions.`);
    }
    if (this.panes.size === 1) return location.assign(this.page.querySelector(".fo-brand").href);
    this.take(key);
  }

  /** Out of the layout. */
  take(key) {
    const tab = this.tabOf(key);
    const beside = tab < 0 ? [] : leaves(this.tabs[tab]).filter((other) => other !== key && this.panes.has(other));
    this.tabs = this.tabs.map((tree) => without(tree, key)).filter((tree) => tree !== null);
    this.drop(key);
    if (this.activeId === key) this.activeId = beside[0] ?? this.tabs.flatMap(leaves).find((other) => this.panes.has(other));
    this.place();
    this.render();
    this.active?.focus();
  }

  drop(key) {
    this.panes.get(key)?.dispose();
    this.panes.delete(key);
    this.receiving.delete(key);
    if (this.receiving.size < 2) this.receiving.clear();
  }

  /* --- showing --- */

  /** Give the keys to a pane. */
  show(key) {
    if (!this.panes.has(key)) return;
    this.activeId = key;
    this.place();
    this.render();
    this.active.focus();
  }

  /** A pane got the focus by itself. */
  focused(pane) {
    const key = this.keyOf(pane);
    if (key === this.activeId) return;
    this.activeId = key;
    this.render();
  }

  step(by) {
    const tab = this.tabOf(this.activeId);
    const next = (tab + by + this.tabs.length) % this.tabs.length;
    const remembered = this.last.get(this.tabs[next]);
    this.show(this.panes.has(remembered) ? remembered : leaves(this.tabs[next])[0]);
  }

  /** To the pane on that side. False if there is none. */
  move(side) {
    const key = neighbour(this.tabs[this.tabOf(this.activeId)], this.activeId, side);
    if (!key || NARROW.matches) return false;
    this.show(key);
    return true;
  }

  /** Give each pane its place. Those of other tabs keep theirs, unseen: their shells keep their size. */
  place() {
    for (const tree of this.tabs) {
      for (const [key, { x, y, w, h }] of places(tree)) {
        const pane = this.panes.get(key);
        if (!pane) continue;
        const [left, top, width, height] = NARROW.matches ? [0, 0, 1, 1] : [x, y, w, h];
        Object.assign(pane.screen.style, { left: `${left * 100}%`, top: `${top * 100}%`, width: `${width * 100}%`, height: `${height * 100}%` });
        pane.screen.classList.toggle("is-split-x", left > 0);
        pane.screen.classList.toggle("is-split-y", top > 0);
      }
    }
    this.placeDividers();
    this.see();
  }

  /** Lines between the panes of this tab, to be dragged, or moved by the arrows. They are kept while they are dragged. */
  placeDividers() {
    const tab = this.tabOf(this.activeId);
    const lines = tab < 0 || NARROW.matches ? [] : dividers(this.tabs[tab]);
    while (this.lines.length > lines.length) this.lines.pop().remove();
    while (this.lines.length < lines.length) this.lines.push(this.makeDivider());
    lines.forEach((line, index) => {
      const element = this.lines[index];
      const isRow = line.dir === "row";
      element.line = { ...line, tab };
      element.classList.toggle("is-row", isRow);
      element.setAttribute("aria-orientation", isRow ? "vertical" : "horizontal");
      element.setAttribute("aria-valuenow", Math.round(line.share));
      const [left, top, width, height] = isRow ? [line.at.x, line.at.y, 0, line.at.h] : [line.at.x, line.at.y, line.at.w, 0];
      Object.assign(element.style, { left: `${left * 100}%`, top: `${top * 100}%`, width: width ? `${width * 100}%` : "", height: height ? `${height * 100}%` : "" });
    });
  }

  moveLine({ tab, path, n }, by) {
    this.tabs = this.tabs.map((tree, index) => (index === tab ? moved(tree, path, n, by) : tree));
    this.last.set(this.tabs[tab], this.activeId);
    this.place();
    this.render();
  }

  /** Move the line beside the pane that has the keys. False if there is none. */
  resize(dir, sign) {
    const tab = this.tabOf(this.activeId);
    const line = NARROW.matches ? null : lineBeside(this.tabs[tab], this.activeId, dir);
    if (line) this.moveLine({ tab, ...line }, sign * STEP);
    return line !== null;
  }

  makeDivider() {
    const element = make("div", { class: "fo-divider", role: "separator", tabindex: "0", "aria-label": "Line between panes", "aria-valuemin": "10", "aria-valuemax": "90" });
    const move = (by) => this.moveLine(element.line, by);
    element.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -STEP, ArrowUp: -STEP, ArrowRight: STEP, ArrowDown: STEP }[event.key];
      if (!by || event.ctrlKey) return;
      event.preventDefault();
      move(by);
    });
    element.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      element.setPointerCapture(event.pointerId);
    });
    element.addEventListener("pointermove", (event) => {
      if (!element.hasPointerCapture(event.pointerId)) return;
      const { dir, room, at } = element.line;
      const box = this.part("main").getBoundingClientRect();
      const [whole, from, to] = dir === "row" ? [box.width * room.w, box.left + box.width * at.x, event.clientX] : [box.height * room.h, box.top + box.height * at.y, event.clientY];
      move(((to - from) / whole) * 100);
    });
    element.addEventListener("pointerup", () => this.active?.focus());
    this.part("main").append(element);
    return element;
  }

  /** Only the tab that has the keys is seen; on a narrow screen only the pane. */
  see() {
    const tab = this.tabOf(this.activeId);
    const seen = new Set(tab < 0 ? [] : NARROW.matches ? [this.activeId] : leaves(this.tabs[tab]));
    for (const [key, pane] of this.panes) {
      pane.screen.classList.toggle("is-away", !seen.has(key));
      pane.screen.classList.toggle("is-focus", key === this.activeId);
      if (seen.has(key)) pane.news = false;
      for (const element of [pane.banner, pane.facts]) element.hidden = key !== this.activeId;
    }
  }

  /** What a pane says of itself has changed. */
  changed(pane) {
    if (this.panes.get(this.keyOf(pane)) === pane) this.render();
  }

  /** Output has come; worth a word if nobody sees it. */
  heard(pane) {
    if (pane.news || !pane.screen.classList.contains("is-away")) return;
    pane.news = true;
    this.render();
  }

  render() {
    cancelAnimationFrame(this.rendering);
    this.rendering = requestAnimationFrame(() => this.renderNow());
  }

  renderNow() {
    const { active } = this;
    if (!active) return;
    const tab = this.tabOf(this.activeId);
    this.last.set(this.tabs[tab], this.activeId);
    this.see();
    this.renderTabs(tab);
    this.renderSwitcher();
    const many = this.panes.size > 1;
    this.page.classList.toggle("has-panes", many);
    for (const pane of this.panes.values()) pane.part("end-close").hidden = !many;
    const shown = active.title ? `${active.title} · ${active.name}` : this.baseTitleOf(active);
    document.title = active.link.ended ? `Ended · ${this.baseTitleOf(active)}` : shown;
    this.part("heading").textContent = active.name;
    this.part("keyrow").hidden = active.link.ended || !active.writable;
    const receivers = this.candidates();
    this.part("broadcast").hidden = receivers.length < 2 && !this.receiving.size;
    this.part("broadcast").setAttribute("aria-pressed", this.receiving.size > 0);
    for (const [key, pane] of this.panes) {
      const on = this.receiving.has(key);
      pane.screen.classList.toggle("is-receiving", on);
      pane.part("receives").hidden = !on;
      pane.part("receives").textContent = `one of ${this.receiving.size} that receive what you type`;
    }
    this.keepAddress();
  }

  baseTitleOf(pane) {
    return this.baseTitle.replace(this.panes.values().next().value.name, pane.name);
  }

  renderTabs(current) {
    const nav = this.part("tabs");
    const focused = [...nav.querySelectorAll("button")].indexOf(document.activeElement);
    nav.replaceChildren(...this.tabs.map((tree, n) => {
      const panes = leaves(tree).map((key) => this.panes.get(key)).filter(Boolean);
      if (!panes.length) return "";
      const first = (n === current ? this.active : panes.find((pane) => this.keyOf(pane) === this.last.get(tree))) ?? panes[0];
      const lost = panes.some((pane) => pane.status === "Reconnecting");
      const words = lost ? "reconnecting" : first.link.ended ? "ended" : panes.some((pane) => pane.news) && n !== current ? "new output" : "";
      const name = make("button", { class: "fo-tab-name", type: "button", "aria-current": n === current && "page" },
        make("span", { class: `fo-rec${panes.every((pane) => pane.link.ended) ? " is-off" : ""}`, "aria-hidden": "true" }),
        make("span", { class: "truncate" }, first.name),
        panes.length > 1 ? make("span", { class: "badge" }, `${panes.length} panes`) : null,
        words ? make("span", { class: "t-xs ink-3" }, words) : null);
      name.addEventListener("click", () => this.show(this.keyOf(first)));
      const close = make("button", { class: "btn btn-ghost btn-icon btn-sm", type: "button", "aria-label": `Close ${first.name}` }, icon("x", "icon-sm"));
      close.addEventListener("click", async () => {
        for (const pane of panes) await this.close(pane);
      });
      return make("span", { class: `fo-term-tab${n === current ? " active" : ""}` }, name, this.tabs.length > 1 ? close : null);
    }));
    if (focused >= 0) nav.querySelectorAll("button")[focused]?.focus();
  }

  renderSwitcher() {
    const box = this.part("switcher");
    box.hidden = this.panes.size < 2;
    const keys = this.tabs.flatMap(leaves).filter((key) => this.panes.has(key));
    box.replaceChildren(...keys.map((key, n) => {
      const pane = this.panes.get(key);
      return make("option", { value: key, selected: key === this.activeId }, `${n + 1} of ${keys.length}, ${pane.name}${pane.watch ? " (watched)" : ""}${pane.news ? ", new output" : ""}`);
    }));
  }

  /** The address leads back to this: the pane that has the keys, and behind the # how all of it stands. */
  keepAddress() {
    const path = this.page.dataset.pane.replace(this.page.dataset.session, this.active.id).replace(/pane\/$/, "");
    const layout = this.panes.size > 1 ? `#${write(this.tabs)}` : "";
    keep(layout.slice(1)); // a log-in on the way back takes the # away
    const url = path + (this.active.join ? "?join=1" : "") + layout;
    if (url !== location.pathname + location.search + location.hash) history.replaceState(null, "", url);
  }

  /* --- several at once --- */

  /** Panes of this tab that can be typed into by whoever types into all: one's own to type in, never one only watched. */
  candidates() {
    const tab = this.tabOf(this.activeId);
    return tab < 0 ? [] : leaves(this.tabs[tab]).filter((key) => this.panes.get(key)?.writable && !this.panes.get(key).link.ended);
  }

  /** Where a key or a paste in `pane` goes. */
  receivers(pane) {
    if (!this.receiving.has(this.keyOf(pane))) return [pane];
    return [...this.receiving].map((key) => this.panes.get(key)).filter((each) => each?.takesKeys);
  }

  typed(pane, text) {
    const changed = pane === this.active ? this.keyRow.typed(text) : text;
    for (const target of this.receivers(pane)) {
      if (target === pane) target.type(changed);
      else target.typeAs(changed);
    }
  }

  async toggleBroadcast() {
    if (this.receiving.size) {
      this.receiving.clear();
      announce("You type into one terminal again.", { now: true });
    } else {
      const keys = this.candidates();
      if (keys.length < 2) return toast("There is no second terminal in this tab that you may type into.", "warn");
      const names = keys.map((key) => this.panes.get(key).name);
      const list = make("ul", { class: "fo-names" }, ...names.map((name) => make("li", {}, name)));
      const agreed = await ask({ title: `Type into ${keys.length} terminals at once?`, text: "Each key goes to each of these, until you switch it off:", verb: `Type into ${keys.length}`, danger: false, body: list });
      if (!agreed) return this.active.focus();
      this.receiving = new Set(keys.filter((key) => this.panes.has(key)));
      announce(`What you type goes to ${keys.length} terminals.`, { now: true });
    }
    this.render();
    this.active.focus();
  }

  chord(event, pane) {
    return this.chords(event, pane);
  }
}
