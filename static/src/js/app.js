/* Every page. One module a behaviour. */
import "./theme.js";
import "./menus.js";
import "./nav.js";
import "./toasts.js";
import "./confirm.js";
import "./keys.js";
import "./drawers.js";
import "./lists.js";
import "./live.js";
import "./copy.js";
import "./activation.js";
import "./files.js";
import "./expression.js";
import "./grant.js";
import "./palette.js";
import "./pick.js";
import "./picker.js";
import "./cells.js";
import "./pops.js";
import "./htmx-setup.js";
import { startBehaviours } from "./behaviours.js";

startBehaviours(document);
