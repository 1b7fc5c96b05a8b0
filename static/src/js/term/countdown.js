/* When a session ends by itself: counted down in the status bar and the banner, and said 5 minutes and 1 minute before. */
import { toast } from "../toasts.js";
import { clock } from "./format.js";

const WARNINGS = [300, 60]; // seconds before an end
const LONG = 600; // an idle time that is shorter needs no word 5 minutes before

const WORDS = {
  idle: (left) => `This session ends ${left} unless you type: nothing has happened in it for a while.`,
  longest: (left) => `This session ends ${left}: so long it may last at most. Save your work.`,
  grant: (left) => `Your grant ends ${left}, and this session with it. Save your work or ask for more time.`,
};

export class Countdown {
  constructor(pane) {
    this.pane = pane;
    this.ends = {}; // by kind: milliseconds of this computer's clock
    this.warned = {}; // by kind: the smallest warning that was said
    this.timer = setInterval(() => this.show(), 1000);
  }

  /** The server tells seconds from now, by its clock. */
  told({ idle, idle_of: idleOf, longest, grant, grant_of: grantOf }) {
    Object.assign(this, { idleOf, grantOf });
    const at = (seconds) => (seconds == null ? null : Date.now() + seconds * 1000);
    this.ends = { idle: at(idle), longest: at(longest), grant: at(grant) };
    this.show();
  }

  /** A key or output: the idle time begins anew. */
  active() {
    if (this.ends.idle != null) this.ends.idle = Date.now() + this.idleOf * 1000;
  }

  left(kind) {
    return this.ends[kind] == null ? null : Math.max(0, (this.ends[kind] - Date.now()) / 1000);
  }

  show() {
    const { pane } = this;
    const idle = this.left("idle");
    const longest = this.left("longest");
    const grant = this.left("grant");
    const put = (id, text) => {
      const place = pane.part(id);
      place.hidden = text === null;
      if (text !== null) place.textContent = text;
    };
    put("idle", idle === null ? null : `ends when idle in ${clock(idle)}`);
    put("longest", longest === null ? null : `ends at ${new Date(this.ends.longest).toISOString().slice(11, 16)} UTC`);
    pane.part("grant").hidden = pane.part("burn").hidden = grant === null;
    if (grant !== null) {
      pane.part("grant").querySelector(".fo-countdown").textContent = clock(grant);
      pane.part("burn").style.width = `${Math.min(100, (100 * grant) / (this.grantOf || grant || 1))}%`;
    }
    const soonest = Math.min(...[longest, grant].filter((each) => each !== null));
    pane.banner.classList.toggle("is-warn", soonest <= WARNINGS[0]);
    for (const kind of Object.keys(WORDS)) this.warn(kind);
  }

  warn(kind) {
    const left = this.left(kind);
    if (left === null) return;
    if (left > WARNINGS[0]) delete this.warned[kind];
    const due = WARNINGS.filter((seconds) => left <= seconds && left > 0 && !(kind === "idle" && seconds > 60 && this.idleOf <= LONG)).at(-1);
    if (due === undefined || this.warned[kind] <= due) return;
    this.warned[kind] = due;
    const text = WORDS[kind](`in ${due === 60 ? "1 minute" : "5 minutes"}`);
    toast(this.pane.desk.panes.size > 1 ? `${this.pane.name}: ${text}` : text, "warn"); // role=status: said politely
  }

  stop() {
    clearInterval(this.timer);
    for (const id of ["idle", "longest", "grant", "burn"]) this.pane.part(id).hidden = true;
    this.pane.banner.classList.remove("is-warn");
  }
}
