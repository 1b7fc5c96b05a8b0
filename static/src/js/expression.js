/* data-behaviour="expression": what may come next in a target expression, as a list under the input; and, with
   data-preview-url, how many instances it selects. data-words="1" where bare words are searched for. */
import { behaviour } from "./behaviours.js";
import { make } from "./dom.js";

const WAIT_MS = 120; // of silence before the server is asked
let lists = 0;

behaviour("expression", (input) => {
  const list = make("div", { class: "fo-complete", role: "listbox", id: `complete-${++lists}`, "aria-label": "Completions", hidden: true });
  const place = make("div", { class: "fo-complete-place" });
  input.before(place);
  place.append(input, list);
  for (const [name, value] of Object.entries({ role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": list.id })) {
    input.setAttribute(name, value);
  }
  const options = () => [...list.children];
  let found = { start: 0, end: 0 };
  let active = -1;
  let asked = 0;
  let timer;

  const close = () => {
    asked += 1; // an answer on its way comes too late
    clearTimeout(timer);
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  const choose = (n) => {
    active = n;
    options().forEach((option, index) => {
      option.classList.toggle("active", index === n);
      option.setAttribute("aria-selected", index === n);
    });
    if (n < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", options()[n].id);
    options()[n].scrollIntoView({ block: "nearest" });
  };

  const take = (option) => {
    input.setRangeText(option.dataset.text, found.start, found.end, "end");
    close();
    input.focus();
    input.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const show = (answer) => {
    found = answer;
    list.replaceChildren(...answer.options.map(({ text, note }, index) => {
      const option = make("div", { class: "fo-complete-item", role: "option", id: `${list.id}-${index}`, "aria-selected": "false" },
        make("span", {}, text), note && make("small", {}, note));
      option.dataset.text = text;
      option.addEventListener("pointerdown", (event) => event.preventDefault()); // the input keeps the focus
      option.addEventListener("click", () => take(option));
      return option;
    }));
    list.hidden = !answer.options.length;
    active = -1;
    input.setAttribute("aria-expanded", String(!list.hidden));
    input.removeAttribute("aria-activedescendant");
  };

  const parameters = (more) => new URLSearchParams({ text: input.value, words: input.dataset.words ?? "", ...more });

  const complete = async () => {
    const turn = ++asked;
    const at = input.selectionStart ?? input.value.length;
    try {
      const answer = await fetch(`${input.dataset.completeUrl}?${parameters({ at })}`, { headers: { Accept: "application/json" } });
      if (!answer.ok || answer.redirected || turn !== asked || document.activeElement !== input) return;
      const { start, end, options: offered } = await answer.json();
      // What is typed already is no offer.
      const rest = offered.filter(({ text }) => text.trim() !== input.value.slice(start, end));
      if (turn === asked) show({ start, end, options: rest });
    } catch {
      close(); // typing goes on without
    }
  };

  const ask = () => {
    clearTimeout(timer);
    timer = setTimeout(complete, WAIT_MS);
  };

  input.addEventListener("input", ask);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const { key } = event;
    if (key === "ArrowDown" || key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) return void complete();
      const count = options().length;
      choose((active + (key === "ArrowDown" ? 1 : active < 0 ? 0 : -1) + count) % count);
    } else if ((key === "Enter" || key === "Tab") && active >= 0) {
      event.preventDefault();
      take(options()[active]);
    } else if (key === "Escape" && !list.hidden) {
      event.preventDefault();
      event.stopPropagation();
      close();
    }
  });
  input.form?.addEventListener("submit", close);

  if (input.dataset.previewUrl) preview(input, parameters);
});

/** Below the input: how many instances the expression selects, a warning, or why it cannot be read. */
function preview(input, parameters) {
  const told = make("p", { class: "form-hint fo-preview", role: "status", id: `${input.id || "expression"}-preview` });
  input.setAttribute("aria-describedby", [input.getAttribute("aria-describedby"), told.id].filter(Boolean).join(" "));
  input.parentElement.after(told); // which is the place of the list
  let asked = 0;
  let timer;

  const look = async () => {
    const turn = ++asked;
    if (!input.value.trim()) return told.replaceChildren();
    try {
      const response = await fetch(`${input.dataset.previewUrl}?${parameters({})}`, { headers: { Accept: "application/json" } });
      if (!response.ok || response.redirected) throw new Error(response.status);
      const answer = await response.json();
      if (turn !== asked) return;
      told.classList.toggle("is-bad", Boolean(answer.error));
      if (answer.error) return told.replaceChildren(answer.error);
      const names = answer.first.slice(0, 3).map((each) => each.name).join(", ");
      const count = `${answer.count.toLocaleString("en")} of ${answer.total.toLocaleString("en")} instances`;
      told.replaceChildren(make("b", {}, count), names ? `: ${names}${answer.count > 3 ? ", … " : ". "}` : ". ", answer.warning ? make("span", { class: "warn" }, answer.warning) : "");
    } catch {
      if (turn === asked) told.replaceChildren("How many this selects cannot be told now.");
    }
  };

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, 250);
  });
  look();
}

// A filter that was sent loads the page anew: whoever types goes on typing.
const KEY = "fleetops:filtering";

behaviour("filter", (form) => {
  const input = form.querySelector("input[name=add]");
  if (sessionStorage.getItem(KEY) && !matchMedia("(pointer: coarse)").matches) input.focus({ preventScroll: true });
  sessionStorage.removeItem(KEY);
  form.addEventListener("submit", () => sessionStorage.setItem(KEY, "1"));
});
