/* data-behaviour="copy" data-copy="text": puts the text on the clipboard and says so. */
import { behaviour } from "./behaviours.js";
import { toast } from "./toasts.js";

/** False if the browser refuses, as it does on pages without TLS that are not on this machine. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text, className: "visually-hidden" });
    const focus = document.activeElement;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focus?.focus();
    return copied;
  }
}

behaviour("copy", (button) => {
  button.addEventListener("click", async () => {
    const text = button.dataset.copy;
    if (await copyText(text)) toast(`Copied ${text.length > 60 ? "to the clipboard" : text}.`);
    else toast("The browser did not allow copying. Select the text and copy it by hand.", "warn");
  });
});
