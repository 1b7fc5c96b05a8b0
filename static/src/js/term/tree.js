/* How the panes of one tab divide its room: a pane's id, or {dir: "row" | "col", parts: [two or more of the same]}.
   Pure: nothing here knows of elements. Trees are never changed; each function returns a new one. */

/** Ids in reading order. */
export const leaves = (tree) => (typeof tree === "string" ? [tree] : tree.parts.flatMap(leaves));

/** Put `added` beside (row) or below (col) the pane `id`. */
export function split(tree, id, dir, added) {
  if (tree === id) return { dir, parts: [id, added] };
  if (typeof tree === "string") return tree;
  const at = tree.parts.indexOf(id);
  if (at >= 0 && tree.dir === dir) return { dir, parts: tree.parts.toSpliced(at + 1, 0, added) };
  return { dir: tree.dir, parts: tree.parts.map((part) => split(part, id, dir, added)) };
}

/** Without the pane `id`; null if nothing is left. */
export function without(tree, id) {
  if (tree === id) return null;
  if (typeof tree === "string") return tree;
  const parts = tree.parts.map((part) => without(part, id)).filter((part) => part !== null);
  return parts.length > 1 ? { dir: tree.dir, parts } : (parts[0] ?? null);
}

/** With `added` in the place of the pane `id`. */
export function replaced(tree, id, added) {
  if (typeof tree === "string") return tree === id ? added : tree;
  return { dir: tree.dir, parts: tree.parts.map((part) => replaced(part, id, added)) };
}

/** Where each pane lies, in shares of the whole: Map id → {x, y, w, h}. */
export function places(tree, room = { x: 0, y: 0, w: 1, h: 1 }, found = new Map()) {
  if (typeof tree === "string") return found.set(tree, room);
  const share = 1 / tree.parts.length;
  tree.parts.forEach((part, n) => places(part, tree.dir === "row"
    ? { ...room, x: room.x + room.w * share * n, w: room.w * share }
    : { ...room, y: room.y + room.h * share * n, h: room.h * share }, found));
  return found;
}

const NEAR = 1e-6;

/** The pane on the `side` ("left", "right", "up", "down") of `id`, or undefined. */
export function neighbour(tree, id, side) {
  const all = places(tree);
  const own = all.get(id);
  const lies = {
    left: (o) => Math.abs(o.x + o.w - own.x) < NEAR, right: (o) => Math.abs(own.x + own.w - o.x) < NEAR,
    up: (o) => Math.abs(o.y + o.h - own.y) < NEAR, down: (o) => Math.abs(own.y + own.h - o.y) < NEAR,
  }[side];
  const shared = (o) => (side === "left" || side === "right"
    ? Math.min(own.y + own.h, o.y + o.h) - Math.max(own.y, o.y)
    : Math.min(own.x + own.w, o.x + o.w) - Math.max(own.x, o.x));
  return [...all].filter(([, o]) => lies(o) && shared(o) > NEAR).sort((a, b) => shared(b[1]) - shared(a[1]))[0]?.[0];
}

/** Tabs as text for an address: "r(A,c(B,C));D". */
export const write = (tabs) => tabs.map(writeOne).join(";");
const writeOne = (tree) => (typeof tree === "string" ? tree : `${tree.dir[0]}(${tree.parts.map(writeOne).join(",")})`);

/** The tabs in such a text; [] if it is none. `id` matches what a pane's id looks like. */
export function read(text, id) {
  const words = text.match(/[rc]\(|[(),;]|[^(),;]+/g) ?? [];
  let at = 0;
  const one = () => {
    const word = words[at++] ?? "";
    if (id.test(word)) return word;
    if (word !== "r(" && word !== "c(") throw new SyntaxError(word);
    const parts = [];
    do parts.push(one()); while (words[at++] === ",");
    if (words[at - 1] !== ")" || parts.length < 2) throw new SyntaxError(text);
    return { dir: word === "r(" ? "row" : "col", parts };
  };
  try {
    const tabs = [];
    do tabs.push(one()); while (words[at++] === ";");
    const ids = tabs.flatMap(leaves);
    return at > words.length && new Set(ids).size === ids.length ? tabs : [];
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof RangeError) return [];
    throw error;
  }
}
