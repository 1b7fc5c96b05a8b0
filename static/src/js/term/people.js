/* Who is at a session, what they do and what they say. Nothing of it goes into the shell's own bytes. */
import { ask } from "../ask.js";
import { announce, csrfToken, icon, make } from "../dom.js";
import { toast } from "../toasts.js";
import { harmless } from "./format.js";

const MODES = { own: "types, it is their shell", join: "has joined, types too", watch: "watches, read-only" };
const TOASTS = { watch: "run", join: "warn", left: "run", held: "warn", moderated: "ok" };
const MOST_SAID = 3; // messages at once; the recording has them all

export class People {
  constructor(pane) {
    this.pane = pane;
    this.box = pane.part("people");
    document.addEventListener("pointerdown", (event) => this.box.contains(event.target) || (this.box.open = false));
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.box.open = false;
      this.box.querySelector("summary").focus();
    });
    pane.part("message")?.addEventListener("click", () => this.write());
  }

  told({ count, people = [], typist }) {
    const { pane } = this;
    const mine = people.find(({ id, mode }) => id === pane.you?.id && mode === pane.you?.mode);
    pane.windows = mine?.windows ?? count;
    pane.types = !pane.you?.id || typist === pane.you.id;
    const others = people.filter((each) => each !== mine);
    this.box.hidden = count < 2;
    const words = others.length ? `${people.length} people` : `Open in ${count} windows`;
    this.box.querySelector("span").textContent = words;
    this.box.querySelector("ul").replaceChildren(...people.map((each) => {
      const what = [MODES[each.mode] ?? each.mode, each.windows > 1 ? `${each.windows} windows` : "", each.since ? `since ${each.since.slice(11, 16)}` : ""];
      return make("li", { class: "dropdown-item" },
        make("span", { class: "avatar avatar-sm", "aria-hidden": "true" }, each.name.slice(0, 2).toUpperCase()),
        make("span", { class: "grow" }, harmless(each.name) + (each === mine ? ", you" : ""), make("small", {}, what.filter(Boolean).join(", "))),
        each.id === typist && people.length > 1 ? make("span", { class: "badge" }, "typed last") : null);
    }));
  }

  /** Something happened to the session besides its output. */
  noted({ type, text, user, message }) {
    const { pane } = this;
    if (type === "message") return this.said(user, message);
    if (user && user === pane.you?.name && type !== "moderated") return; // one's own doing is no news
    const kind = TOASTS[type];
    if (kind) toast(pane.desk.panes.size > 1 ? `${pane.name}: ${text}` : text, kind);
  }

  said(user, message) {
    const place = this.pane.part("said");
    const strip = make("div", { class: "alert alert-warn", role: "note" }, icon("send"),
      make("div", {}, make("b", {}, `${user}: `), message),
      make("button", { class: "btn btn-ghost btn-icon btn-sm ms-auto", type: "button", "aria-label": "Dismiss the message" }, icon("x")));
    place.append(strip);
    while (place.children.length > MOST_SAID) place.firstElementChild.remove();
    announce(`${user} says: ${message}`, { now: true });
  }

  async write() {
    const input = make("input", { class: "form-control", "aria-label": "Message", maxlength: "500", autocomplete: "off" });
    const agreed = await ask({ title: `Message to ${this.pane.name}`, text: "Everybody who is at this session sees it above the shell. It is recorded.", verb: "Send", danger: false, body: input, focus: input });
    const text = input.value.trim();
    if (agreed && text) {
      try {
        const answer = await fetch(this.pane.part("message").dataset.url, { method: "POST", headers: { "X-CSRFToken": csrfToken(), Accept: "text/plain" }, body: new URLSearchParams({ text }) });
        if (answer.status !== 204) throw new Error(answer.status === 409 ? await answer.text() : "");
      } catch (error) {
        toast(`The message was not sent. ${error.message || "FleetOps did not take it; try again."}`, "bad");
      }
    }
    this.pane.focus();
  }
}
