/* The command palette: instances to connect to, pages to go to. Ctrl K, or the search box; in a terminal Ctrl Shift Space. */
import { behaviour } from "./behaviours.js";
import { icon, make, post } from "./dom.js";

const WAIT_MS = 90; // of silence before the server is asked
const MOST = 12;
const dialog = document.getElementById("palette");
const input = dialog?.querySelector("input");
const list = dialog?.querySelector(".fo-palette-list");
let instances = [];
let failed = false;
let asked = 0;
let timer;
let active = 0;

const pages = () => [...document.querySelectorAll(".fo-nav a.nav-link")].map((link) => ({
  name: [...link.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.textContent).join("").trim(),
  url: link.getAttribute("href"),
}));

async function load(query) {
  const turn = ++asked;
  try {
    const answer = await fetch(`${dialog.dataset.url}?q=${encodeURIComponent(query)}`, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(answer.status);
    const found = await answer.json();
    if (turn !== asked) return; // a later question is on its way
    instances = Array.isArray(found) ? found : found.instances ?? found.results ?? [];
    failed = false;
  } catch {
    if (turn !== asked) return;
    instances = [];
    failed = true;
  }
  show();
}

/** `text` with the parts that match `query` marked. */
function marked(text, query) {
  const span = make("span");
  const words = query.toLowerCase().split(/\s+/).filter(Boolean).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!words.length) return span.append(text), span;
  const parts = text.split(new RegExp(`(${words.join("|")})`, "i"));
  parts.forEach((part, n) => part && span.append(n % 2 ? make("mark", {}, part) : part));
  return span;
}

function item(glyph, name, query, { id = "", hint = [], act, detail }) {
  const option = make("div", { class: "fo-palette-item", role: "option", "aria-selected": "false" },
    icon(glyph), marked(name, query), id && make("span", { class: "fo-id" }, id), make("span", { class: "hint" }, ...hint));
  option.act = act;
  option.detail = detail ?? act;
  option.addEventListener("click", (event) => (event.shiftKey ? option.detail : option.act)(event));
  option.addEventListener("pointermove", () => choose([...options()].indexOf(option)));
  return option;
}

const options = () => list.querySelectorAll(".fo-palette-item");
const go = (url) => (event) => (event?.ctrlKey || event?.metaKey ? window.open(url, "_blank", "noopener") : location.assign(url));

/** A window of terminals opens it in a tab of its own; everywhere else it is a page. */
function connectTo(instance) {
  const isElsewhere = document.dispatchEvent(new CustomEvent("fleetops:connect", { cancelable: true, detail: instance }));
  if (isElsewhere) post(instance.connect_url, instance.pk ? { instance: instance.pk } : {});
  else dialog.close();
}

function choose(n) {
  const all = options();
  active = Math.max(0, Math.min(all.length - 1, n));
  all.forEach((option, index) => {
    option.classList.toggle("active", index === active);
    option.setAttribute("aria-selected", index === active);
    option.id = `palette-option-${index}`;
  });
  if (all.length) input.setAttribute("aria-activedescendant", `palette-option-${active}`);
  else input.removeAttribute("aria-activedescendant");
}

function show() {
  const query = input.value.trim();
  const found = instances.slice(0, MOST).map((instance) => {
    const open = go(instance.url);
    const connect = instance.connect_url ? () => connectTo(instance) : null;
    return item(connect ? "terminal" : "server", instance.name, query, {
      id: instance.instance_id ?? instance.id,
      hint: connect ? ["Connect", make("kbd", {}, "Enter")] : [instance.status ?? ""],
      act: connect ?? open,
      detail: open,
    });
  });
  const first = instances[0];
  if (query && first?.as_url) found.push(item("lock", `Open ${first.name} as…`, query, { act: go(first.as_url) }));
  const places = pages().filter((page) => page.name.toLowerCase().includes(query.toLowerCase()))
    .map((page) => item("arrow-right", page.name, query, { act: go(page.url) }));
  list.replaceChildren(
    ...(found.length ? [make("h3", {}, "Instances"), ...found] : []),
    ...(places.length ? [make("h3", {}, "Pages"), ...places] : []),
  );
  if (failed) list.prepend(make("p", { class: "fo-palette-none" }, "The list of instances cannot be read now. Pages still open."));
  else if (!found.length && !places.length) list.append(make("p", { class: "fo-palette-none" }, query ? `Nothing is called “${query}”.` : "No instances yet."));
  choose(0);
}

export function openPalette() {
  if (!dialog || dialog.open) return;
  input.value = "";
  instances = [];
  show();
  dialog.showModal();
  input.focus();
  load("");
}

if (dialog) {
  input.addEventListener("input", () => {
    show();
    clearTimeout(timer);
    timer = setTimeout(() => load(input.value.trim()), WAIT_MS);
  });
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      choose(active + (event.key === "ArrowDown" ? 1 : -1));
      options()[active]?.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter") {
      event.preventDefault();
      const option = options()[active];
      if (option) (event.shiftKey ? option.detail : option.act)(event);
    }
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.addEventListener("keydown", (event) => {
    const inTerminal = document.body.dataset.page === "terminal";
    const wanted = inTerminal
      ? event.ctrlKey && event.shiftKey && event.code === "Space"
      : (event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "k";
    if (!wanted) return;
    event.preventDefault();
    event.stopPropagation();
    if (dialog.open) dialog.close();
    else openPalette();
  }, true);
  behaviour("palette-opener", (button) => button.addEventListener("click", openPalette));
}
