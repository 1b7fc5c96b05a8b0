/* Pasting: lines that would run one by one as they arrive are shown first, and so are lines that go to several shells. */
import { ask } from "../ask.js";
import { make } from "../dom.js";

const PREVIEW_LINES = 12;
const LARGE_BYTES = 64 * 1024;

/** A program that asked for bracketed paste sees one block; a paste must not be able to close its bracket itself. */
const clean = (text) => text.replace(/\u001b\[20[01]~/g, "");

/** Guards `element` of `pane`; returns the function that pastes a text with the same care. */
export function guardPaste(pane, element) {
  const paste = async (raw) => {
    const text = clean(raw);
    const targets = pane.desk.receivers(pane);
    const lines = text.replace(/\r?\n$/, "").split(/\r?\n/);
    const runs = /[\r\n]/.test(text) && (targets.length > 1 || !pane.terminal.modes.bracketedPasteMode);
    if (runs || text.length > LARGE_BYTES) {
      const preview = make("pre", { class: "fo-code fo-paste" }, lines.slice(0, PREVIEW_LINES).join("\n") + (lines.length > PREVIEW_LINES ? `\n… and ${lines.length - PREVIEW_LINES} more` : ""));
      const count = lines.length === 1 ? "1 line" : `${lines.length.toLocaleString("en")} lines`;
      const where = targets.length > 1 ? ` into ${targets.length} terminals` : "";
      const why = runs ? "The program in this terminal takes each line as if you pressed Enter after it." : "This is a lot of text for a terminal.";
      const agreed = await ask({
        title: `Paste ${count}${where}?`,
        text: targets.length > 1 ? `It goes to ${targets.map((each) => each.name).join(", ")}.` : why,
        verb: `Paste ${count}${where}`, danger: false, body: preview,
      });
      if (!agreed) return pane.terminal.focus();
    }
    for (const target of pane.desk.receivers(pane)) target.insert(text);
    pane.terminal.focus();
  };
  element.addEventListener("paste", (event) => {
    const text = event.clipboardData?.getData("text/plain");
    event.preventDefault();
    event.stopPropagation();
    if (text) paste(text);
  }, true);
  return paste;
}
