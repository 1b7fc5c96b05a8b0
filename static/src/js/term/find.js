/* Find in the scroll-back: Ctrl Shift F, Enter and Shift Enter, matches counted. */
import { SearchAddon } from "@xterm/addon-search";

export class Find {
  constructor(terminal, box, { colours }) {
    this.terminal = terminal;
    this.box = box;
    this.colours = colours;
    this.input = box.querySelector("input");
    this.count = box.querySelector("[data-part=count]");
    this.addon = new SearchAddon({ highlightLimit: 2000 });
    terminal.loadAddon(this.addon);
    this.addon.onDidChangeResults(({ resultIndex, resultCount }) => {
      if (!this.input.value) this.count.textContent = "";
      else if (!resultCount) this.count.textContent = "not found";
      else this.count.textContent = `${resultIndex >= 0 ? resultIndex + 1 : "–"} of ${resultCount}`;
    });
    this.input.addEventListener("input", () => this.go(-1, true));
    this.input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.go(event.shiftKey ? 1 : -1);
      else if (event.key === "Escape") this.close();
      else return;
      event.preventDefault();
    });
    box.querySelector("[data-part=previous]").addEventListener("click", () => this.go(-1));
    box.querySelector("[data-part=next]").addEventListener("click", () => this.go(1));
    box.querySelector("[data-part=close]").addEventListener("click", () => this.close());
  }

  get options() {
    const { match, active } = this.colours();
    return { incremental: false, decorations: { matchBackground: match, matchOverviewRuler: match, activeMatchBackground: active, activeMatchColorOverviewRuler: active } };
  }

  go(direction, typing = false) {
    const words = this.input.value;
    if (!words) return this.addon.clearDecorations();
    if (direction < 0) this.addon.findPrevious(words, { ...this.options, incremental: typing });
    else this.addon.findNext(words, this.options);
  }

  open() {
    this.box.hidden = false;
    const chosen = this.terminal.getSelection();
    if (chosen && !chosen.includes("\n")) this.input.value = chosen;
    this.input.focus();
    this.input.select();
    this.go(-1, true);
  }

  close() {
    this.addon.clearDecorations();
    this.count.textContent = "";
    this.box.hidden = true;
    this.terminal.focus();
  }
}
