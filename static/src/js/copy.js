/* data-behaviour="copy" data-copy="text": puts the text on the clipboard and says so. */
import { behaviour } from "./behaviours.js";
import { copyText } from "./clipboard.js";
import { toast } from "./toasts.js";

behaviour("copy", (button) => {
  button.addEventListener("click", async () => {
    const text = button.dataset.copy;
    if (await copyText(text)) toast(`Copied ${text.length > 60 ? "to the clipboard" : text}.`);
    else toast("The browser did not allow copying. Select the text and copy it by hand.", "warn");
  });
});
