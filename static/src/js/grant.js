/* Counts a grant down on its page, then shows the page as it is now. */
import { behaviour } from "./behaviours.js";

behaviour("countdown", (element) => {
  const ends = performance.now() + Number(element.dataset.seconds) * 1000;
  const show = () => {
    const left = Math.max(0, Math.ceil((ends - performance.now()) / 1000));
    const minutes = String(Math.floor(left / 60)).padStart(2, "0");
    element.textContent = `${minutes}:${String(left % 60).padStart(2, "0")}`;
    element.classList.toggle("warn", left <= 300);
    if (!left) {
      clearInterval(timer);
      setTimeout(() => location.reload(), 1500);
    }
  };
  const timer = setInterval(show, 1000);
  show();
});
