/* What xterm.js has to know of a Windows console. The agent reads its screen and paints that (winpty): each of its rows
   ends with a line break of its own, and after a new size all of it is painted anew. So rows are not joined and broken
   again here, and rows that a taller screen gets are new ones. */

/** xterm.js's windowsPty, from an element with the build number of Windows in data-windows. */
export function consoleOf({ dataset }) {
  const buildNumber = Number(dataset.windows);
  return buildNumber > 0 ? { backend: "winpty", buildNumber } : {};
}
