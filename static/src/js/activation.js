/* data-behaviour="shown-once" data-page-url="…": the answer to a form shows what no page shows again. A reload then asks
   for the page that says so, and does not send the form once more. */
import { behaviour } from "./behaviours.js";

behaviour("shown-once", (element) => history.replaceState(history.state, "", element.dataset.pageUrl));
