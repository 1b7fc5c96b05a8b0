/* The serialize addon of xterm.js asks for `window` where it means the global object; a worker has none. */
globalThis.window = globalThis;
