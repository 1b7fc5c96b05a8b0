/* The Live dot: green while news come, amber after 15 s without, and after 40 s an alert that tells the age of the page.
   It is there only where something polls. A hidden tab asks for nothing. */
import { behaviour } from "./behaviours.js";

const STALE_MS = 15_000;
const ALERT_MS = 40_000;
let lastNews = Date.now();

const polling = () => [...document.querySelectorAll("[hx-trigger*='every']")];
const clock = (moment) => new Date(moment).toISOString().slice(11, 19);

export function gotNews() {
  lastNews = Date.now();
}

/** Milliseconds between two questions of the page, at its slowest. */
function rhythm() {
  return Math.max(0, ...polling().map((element) => 1000 * (Number(/every\s+([\d.]+)s/.exec(element.getAttribute("hx-trigger"))?.[1]) || 0)));
}

behaviour("live", (dot) => {
  const alert = document.querySelector("[data-behaviour='live-alert']");
  alert?.querySelector("button").addEventListener("click", () => polling().forEach((element) => htmx.trigger(element, "fleetops:refresh")));
  const look = () => {
    dot.hidden = polling().length === 0;
    // The tab slept, or it waits for an answer: nobody asked the server.
    if (document.hidden || document.querySelector("dialog[open], .fo-pop[open]")) gotNews();
    const silent = Date.now() - lastNews;
    const stale = silent > Math.max(STALE_MS, rhythm() + 5000);
    dot.classList.toggle("is-stale", stale);
    dot.textContent = stale ? `No news for ${Math.round(silent / 1000)} s` : "Live";
    if (!alert) return;
    alert.hidden = dot.hidden || silent < ALERT_MS;
    if (!alert.hidden) alert.querySelector("div").replaceChildren(
      Object.assign(document.createElement("b"), { textContent: `Live updates stopped ${Math.round(silent / 1000)} s ago.` }),
      ` What you see is from ${clock(lastNews)} UTC. Trying again.`);
  };
  look();
  setInterval(look, 1000);
});
