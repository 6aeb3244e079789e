// Runs the program of wasm/check: `node wasm-check.mjs MODULE.wasm`. A forecast that is not the native one traps.
import { readFile } from "node:fs/promises";

const module = await WebAssembly.compile(await readFile(process.argv[2]));
const imports = WebAssembly.Module.imports(module);
if (imports.length > 0) {
  throw new Error(`the pure core asks for ${imports.map((i) => `${i.module}.${i.name}`).join(", ")}`);
}
const { exports } = await WebAssembly.instantiate(module, {});
const status = exports.main(0, 0);
if (status !== 0) throw new Error(`ended with ${status}`);
console.log("forecasts in WASM are the native ones, to the bit");
