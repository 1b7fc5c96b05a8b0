/* How the panes of one tab divide its room: a pane's id, or {dir: "row" | "col", parts: [two or more of the same],
   shares: [of each, in hundredths; left out: equal]}. Pure: nothing here knows of elements. Trees are never changed; each function returns a new one. */

/** Ids in reading order. */
export const leaves = (tree) => (typeof tree === "string" ? [tree] : tree.parts.flatMap(leaves));

/** Put `added` beside (row) or below (col) the pane `id`. */
export function split(tree, id, dir, added) {
  if (tree === id) return { dir, parts: [id, added] };
  if (typeof tree === "string") return tree;
  const at = tree.parts.indexOf(id);
  if (at >= 0 && tree.dir === dir) return { dir, parts: tree.parts.toSpliced(at + 1, 0, added) };
  return { ...tree, parts: tree.parts.map((part) => split(part, id, dir, added)) };
}

/** Without the pane `id`; null if nothing is left. */
export function without(tree, id) {
  if (tree === id) return null;
  if (typeof tree === "string") return tree;
  const parts = tree.parts.map((part) => without(part, id)).filter((part) => part !== null);
  if (parts.length === tree.parts.length) return { ...tree, parts };
  return parts.length > 1 ? { dir: tree.dir, parts } : (parts[0] ?? null);
}

/** With `added` in the place of the pane `id`. */
export function replaced(tree, id, added) {
  if (typeof tree === "string") return tree === id ? added : tree;
  return { ...tree, parts: tree.parts.map((part) => replaced(part, id, added)) };
}

const WHOLE = { x: 0, y: 0, w: 1, h: 1 };
const LEAST = 10; // hundredths that a part keeps

/** The part `n` of a room that `tree` divides. */
function roomOf(tree, n, room) {
  const shares = tree.shares ?? tree.parts.map(() => 100 / tree.parts.length);
  const before = shares.slice(0, n).reduce((sum, share) => sum + share, 0) / 100;
  const own = shares[n] / 100;
  return tree.dir === "row" ? { ...room, x: room.x + room.w * before, w: room.w * own } : { ...room, y: room.y + room.h * before, h: room.h * own };
}

/** Where each pane lies, in shares of the whole: Map id → {x, y, w, h}. */
export function places(tree, room = WHOLE, found = new Map()) {
  if (typeof tree === "string") return found.set(tree, room);
  tree.parts.forEach((part, n) => places(part, roomOf(tree, n, room), found));
  return found;
}

/** The lines between parts: [{path, n, dir, room: of both together, at: of the line, share: of the part before it}]. */
export function dividers(tree, room = WHOLE, path = []) {
  if (typeof tree === "string") return [];
  return tree.parts.flatMap((part, n) => {
    const own = roomOf(tree, n, room);
    const line = { path, n: n - 1, dir: tree.dir, room, at: own, share: tree.shares?.[n - 1] ?? 100 / tree.parts.length };
    return [...(n ? [line] : []), ...dividers(part, own, [...path, n])];
  });
}

/** With the line behind part `n` of the node at `path` moved by so many hundredths of that node's room. */
export function moved(tree, [first, ...rest], n, by) {
  if (first !== undefined) return { ...tree, parts: tree.parts.map((part, index) => (index === first ? moved(part, rest, n, by) : part)) };
  const shares = [...(tree.shares ?? tree.parts.map(() => 100 / tree.parts.length))];
  const most = shares[n + 1] - LEAST;
  const step = Math.max(Math.min(by, most), LEAST - shares[n]);
  shares[n] += step;
  shares[n + 1] -= step;
  return { ...tree, shares };
}

/** The line beside the pane `id` that a step in `dir` moves: {path, n}, or null. The nearest, and that behind it first. */
export function lineBeside(tree, id, dir, path = []) {
  if (typeof tree === "string") return null;
  const n = tree.parts.findIndex((part) => leaves(part).includes(id));
  const inner = n < 0 ? null : lineBeside(tree.parts[n], id, dir, [...path, n]);
  if (inner || n < 0 || tree.dir !== dir) return inner;
  return { path, n: n < tree.parts.length - 1 ? n : n - 1 };
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

/** Tabs as text for an address: "r(A,c(B,C));D", with shares "r60-40(A,B)". */
export const write = (tabs) => tabs.map(writeOne).join(";");
const writeOne = (tree) => (typeof tree === "string" ? tree : `${tree.dir[0]}${(tree.shares ?? []).map(Math.round).join("-")}(${tree.parts.map(writeOne).join(",")})`);

/** The tabs in such a text; [] if it is none. `id` matches what a pane's id looks like. */
export function read(text, id) {
  const words = text.match(/[rc][\d-]*\(|[(),;]|[^(),;]+/g) ?? [];
  let at = 0;
  const one = () => {
    const word = words[at++] ?? "";
    if (id.test(word)) return word;
    const [, dir, told] = /^([rc])([\d-]*)\($/.exec(word) ?? [];
    if (!dir) throw new SyntaxError(word);
    const parts = [];
    do parts.push(one()); while (words[at++] === ",");
    if (words[at - 1] !== ")" || parts.length < 2) throw new SyntaxError(text);
    const shares = told.split("-").map(Number);
    const isWhole = shares.length === parts.length && Math.abs(shares.reduce((sum, share) => sum + share, 0) - 100) <= parts.length;
    const node = { dir: dir === "r" ? "row" : "col", parts };
    return isWhole && Math.min(...shares) >= LEAST - 1 ? { ...node, shares } : node;
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
