/* How htmx behaves here: no eval, CSRF, still lists, errors in words, a log-in that ended. */
import htmx from "htmx.org";
import { csrfToken } from "./dom.js";
import { startBehaviours } from "./behaviours.js";
import { keep } from "./lists.js";
import { gotNews } from "./live.js";
import { toast } from "./toasts.js";

window.htmx = htmx;
Object.assign(htmx.config, {
  allowEval: false,
  includeIndicatorStyles: false,
  selfRequestsOnly: true,
  scrollIntoViewOnBoost: false,
  historyCacheSize: 0, // pages with names and addresses do not belong into localStorage
  defaultSwapStyle: "outerHTML",
  timeout: 20_000,
});

const isPoll = ({ elt, requestConfig }) => {
  const cause = requestConfig?.triggeringEvent;
  return /every/.test(elt?.getAttribute("hx-trigger") ?? "") && (!cause || cause.type === "fleetops:refresh");
};
// A CSRF token is masked anew for each answer; it says nothing of whether the rest changed.
const bare = (html) => html.replace(/(name="csrfmiddlewaretoken" value=")[^"]*/g, "$1");
const lastAnswer = new Map();
const kept = new Map();

document.addEventListener("htmx:configRequest", (event) => {
  if (event.detail.verb !== "get") event.detail.headers["X-CSRFToken"] = csrfToken();
});

// While somebody answers a question, what asked it must stay: a poll would take the form from under their hands.
const isAnswering = () => Boolean(document.querySelector("dialog[open], .fo-pop[open]"));

document.addEventListener("htmx:beforeRequest", (event) => {
  if ((document.hidden || isAnswering()) && isPoll(event.detail)) event.preventDefault();
});

document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, target, elt } = event.detail;
  const login = document.body.dataset.loginUrl;
  if (login && xhr.responseURL && new URL(xhr.responseURL).pathname === login) {
    event.detail.shouldSwap = false; // the log-in ended; the page itself goes there and comes back
    location.reload();
    return;
  }
  if (xhr.status >= 400) return;
  gotNews();
  if (isPoll(event.detail) && isAnswering()) {
    event.detail.shouldSwap = false;
    return;
  }
  const text = bare(xhr.responseText);
  if (isPoll(event.detail) && target === elt && target.id && lastAnswer.get(target.id) === text) {
    event.detail.shouldSwap = false;
    return;
  }
  if (target.id) {
    lastAnswer.set(target.id, text);
    kept.set(target.id, keep(target));
  }
});

document.addEventListener("htmx:afterSettle", (event) => {
  const target = event.detail.target;
  const fresh = target?.id ? document.getElementById(target.id) : null;
  if (!fresh || !kept.has(target.id)) return;
  kept.get(target.id)(fresh);
  kept.delete(target.id);
});

// A deed that answers nothing to show: whatever lists its results looks again, once AWS had a moment.
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (detail.xhr.status !== 204 || detail.requestConfig.verb === "get") return;
  for (const wait of [300, 2000]) setTimeout(refreshAll, wait);
  setTimeout(() => document.dispatchEvent(new Event("fleetops:counts")), 2000);
});

document.addEventListener("htmx:load", (event) => startBehaviours(event.detail.elt));

/** What the server said in words: a message of JSON, a part's [data-error], or a short text. */
function words(xhr) {
  const type = xhr.getResponseHeader("content-type") ?? "";
  if (type.includes("json")) {
    try {
      const answer = JSON.parse(xhr.responseText);
      return answer.detail ?? answer.error ?? "";
    } catch {
      return "";
    }
  }
  const page = new DOMParser().parseFromString(xhr.responseText, "text/html");
  const told = page.querySelector("[data-error]") ?? page.querySelector(".alert div, .empty p") ?? (type.includes("plain") ? page.body : null);
  return told?.textContent.trim().replace(/\s+/g, " ").slice(0, 300) ?? "";
}

document.addEventListener("htmx:responseError", (event) => {
  const { xhr } = event.detail;
  if (isPoll(event.detail) && xhr.status >= 500) return; // the Live dot tells of it
  toast(words(xhr) || `FleetOps answered with an error (${xhr.status}). Nothing else was changed.`, "bad");
});

for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    if (isPoll(event.detail)) return;
    toast("FleetOps does not answer. Look at the page again before you repeat this.", "bad");
  });
}

function refreshAll() {
  for (const element of document.querySelectorAll("[hx-trigger*='fleetops:refresh']")) htmx.trigger(element, "fleetops:refresh");
}

document.addEventListener("visibilitychange", () => document.hidden || refreshAll());
