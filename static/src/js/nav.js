/* The sidebar's counts, in place: 14 instances, 2 live sessions. */
import { behaviour } from "./behaviours.js";

const EVERY_MS = 20_000;

behaviour("counts", (sidebar) => {
  let timer;
  const refresh = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      const answer = await fetch(sidebar.dataset.url, { headers: { Accept: "application/json" }, redirect: "error" });
      if (!answer.ok) return; // the log-in ended, or FleetOps is away: a page that is loaded next says so
      for (const [url, count] of Object.entries(await answer.json())) {
        const place = sidebar.querySelector(`a[href="${url}"] .nav-count`);
        if (place && place.textContent !== count) place.textContent = count;
      }
    } catch {
      // a lost network: the next turn tries again
    }
    timer = setTimeout(refresh, EVERY_MS);
  };
  timer = setTimeout(refresh, EVERY_MS);
  document.addEventListener("visibilitychange", refresh);
  document.addEventListener("fleetops:counts", refresh);
});
