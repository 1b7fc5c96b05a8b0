/* The clipboard, also where the browser gives scripts none. */

/** False if the browser refuses, as it does on pages without TLS that are not on this machine. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text, className: "visually-hidden" });
    const focus = document.activeElement;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focus?.focus();
    return copied;
  }
}
