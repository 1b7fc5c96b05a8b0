/* WebGL where a GPU draws it; else xterm.js's DOM renderer. Drawn in software WebGL is the slower of the two
   (measured: 1.4 against 5.3 MB/s, 58 against 2.8 ms from key to echo). */
import { WebglAddon } from "@xterm/addon-webgl";

const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render|mesa offscreen/i;

function gpuDraws() {
  const context = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  if (!context) return false;
  const info = context.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(context.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : context.RENDERER));
  context.getExtension("WEBGL_lose_context")?.loseContext();
  return !SOFTWARE.test(renderer);
}

/** Draws `terminal` by GPU if that is the faster way. Returns "webgl" or "dom". `onLoss` hears when the GPU is lost. */
export function accelerate(terminal, onLoss) {
  try {
    if (!gpuDraws()) return "dom";
    const addon = new WebglAddon();
    addon.onContextLoss(() => {
      addon.dispose(); // xterm.js goes on with its DOM renderer, whose cells have another width
      requestAnimationFrame(onLoss);
    });
    terminal.loadAddon(addon);
    return "webgl";
  } catch {
    return "dom";
  }
}
