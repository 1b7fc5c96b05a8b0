/* data-behaviour="picker": a <details> with boxes to tick; its summary tells what is ticked, as the server does. */
import { behaviour } from "./behaviours.js";

const SHOWN = 2; // names, before "and 3 more"

behaviour("picker", (details) => {
  const told = details.querySelector(".fo-picker-told");
  details.addEventListener("change", () => {
    const chosen = [...details.querySelectorAll("input:checked")].map((box) => box.value);
    const more = chosen.length > SHOWN ? ` and ${chosen.length - SHOWN} more` : "";
    told.textContent = chosen.length ? chosen.slice(0, SHOWN).join(", ") + more : "any";
    details.toggleAttribute("data-chosen", chosen.length > 0);
  });
});
