/* One question in a dialog; the answer comes as a promise. */
import { make } from "./dom.js";

/** Resolves to true if the person presses `verb`, to "other" if they press `other`, a second way to go. */
export function ask({ title, text, verb, other = "", danger = true, body = null, focus = null }) {
  return new Promise((resolve) => {
    const yes = make("button", { class: danger ? "btn btn-danger is-solid" : "btn btn-primary", type: "submit" }, verb);
    const no = make("button", { class: "btn", type: "button" }, "Cancel");
    const second = other ? make("button", { class: "btn", type: "button" }, other) : null;
    const form = make("form", { class: "modal-content", method: "dialog" },
      make("div", { class: "modal-header" }, make("h2", { class: "modal-title", id: "ask-title" }, title)),
      make("div", { class: "modal-body" }, make("p", {}, text), body),
      make("div", { class: "modal-footer" }, no, second, yes));
    const dialog = make("dialog", { class: "modal", "aria-labelledby": "ask-title" }, form);
    let answer = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      event.stopPropagation();
      answer = true;
      dialog.close();
    });
    second?.addEventListener("click", () => ((answer = "other"), dialog.close()));
    no.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => (dialog.remove(), resolve(answer)));
    document.body.append(dialog);
    dialog.showModal();
    (focus ?? (danger ? no : yes)).focus();
  });
}
