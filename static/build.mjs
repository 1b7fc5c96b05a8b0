/* Builds dist/ from src/: style sheets, scripts, fonts and the icon sprite. Nothing is fetched.
   `node build.mjs --watch` builds again whenever a source changes. */
import { build, context } from "esbuild";
import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const src = (...parts) => join(here, "src", ...parts);
const isWatching = process.argv.includes("--watch");
const dist = join(here, "dist");
// Built aside and moved into place at once: whoever reads dist/ meanwhile finds all of it, before or after.
const out = isWatching ? dist : join(here, "node_modules", ".dist");

/** Every file of src/icons becomes a <symbol id="i-NAME"> of one sprite. */
async function sprite() {
  const names = (await readdir(src("icons"))).filter((name) => name.endsWith(".svg")).sort();
  const symbols = await Promise.all(names.map(async (name) => {
    const svg = await readFile(src("icons", name), "utf8");
    const [, attributes, body] = svg.match(/<svg([^>]*)>([\s\S]*)<\/svg>/);
    return `<symbol id="i-${basename(name, ".svg")}"${attributes}>${body.trim()}</symbol>`;
  }));
  await writeFile(join(out, "icons.svg"), `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join("")}</svg>\n`);
}

/** The fonts' licences lie beside them. */
async function licences() {
  await mkdir(join(out, "fonts"), { recursive: true });
  await Promise.all(["inter", "jetbrains-mono"].map((name) =>
    cp(join(here, "node_modules", "@fontsource-variable", name, "LICENSE"), join(out, "fonts", `${name}.LICENSE.txt`))));
}

const options = {
  entryPoints: ["boot.js", "app.js", "terminal.js", "replay.js", "replay-worker.js"].map((name) => src("js", name))
    .concat(["app.css", "terminal.css"].map((name) => src("css", name))),
  entryNames: "[name]",
  assetNames: "fonts/[name]",
  outdir: out,
  absWorkingDir: here,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome123", "edge123", "firefox128", "safari17.5"], // the first with light-dark() and scroll anchoring we rely on
  loader: { ".woff2": "file" },
  legalComments: "external", // licences of what is bundled lie beside it
  sourcemap: false, // a source map comment without its map breaks the hashed storage of static files
  logLevel: "info",
};

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await Promise.all([sprite(), licences(), cp(src("favicon.svg"), join(out, "favicon.svg"))]);
if (isWatching) {
  await (await context(options)).watch();
} else {
  await build(options);
  await rm(dist, { recursive: true, force: true });
  await rename(out, dist);
}
