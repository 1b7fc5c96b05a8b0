/* One question in a dialog; the answer comes as a promise. */
import { make } from "./dom.js";

/** Resolves to true if the person presses `verb`. */
export function ask({ title, text, verb, danger = true, body = null }) {
  return new Promise((resolve) => {
    const yes = make("button", { class: danger ? "btn btn-danger is-solid" : "btn btn-primary", type: "button" }, verb);
    const no = make("button", { class: "btn", type: "button" }, "Cancel");
    const dialog = make("dialog", { class: "modal", "aria-labelledby": "ask-title" },
      make("div", { class: "modal-content" },
        make("div", { class: "modal-header" }, make("h2", { class: "modal-title", id: "ask-title" }, title)),
        make("div", { class: "modal-body" }, make("p", {}, text), body),
        make("div", { class: "modal-footer" }, no, yes)));
    let answer = false;
    yes.addEventListener("click", () => ((answer = true), dialog.close()));
    no.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => (dialog.remove(), resolve(answer)));
    document.body.append(dialog);
    dialog.showModal();
    (danger ? no : yes).focus();
  });
}
