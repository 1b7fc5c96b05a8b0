/* One question before what cannot be taken back. <form data-confirm="what ends" data-confirm-title="End session?"
   data-confirm-verb="End session">, or hx-confirm on an htmx element. Also: a form is sent once, however often one clicks. */
import { ask } from "./ask.js";

const agreed = new WeakSet();

export function questionOf(element) {
  const { confirm, confirmTitle = "Are you sure?", confirmVerb = "Continue" } = element.dataset;
  return { title: confirmTitle, text: confirm, verb: confirmVerb };
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.dataset.confirm && !agreed.has(form)) {
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!(await ask(questionOf(form)))) return;
    agreed.add(form);
    form.requestSubmit(event.submitter ?? undefined);
    agreed.delete(form);
  }
}, true);

const SENT_MS = 4000;

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post" || form.hasAttribute("hx-post") || form.method === "dialog") return;
  if (Date.now() - (form.sentAt ?? -SENT_MS) < SENT_MS) return event.preventDefault();
  form.sentAt = Date.now();
});

addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.sentAt;
});

document.addEventListener("htmx:confirm", async (event) => {
  if (!event.detail.question) return;
  event.preventDefault();
  const { title, verb } = questionOf(event.detail.elt);
  if (await ask({ title, text: event.detail.question, verb })) event.detail.issueRequest(true);
});
