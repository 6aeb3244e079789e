/** Where a WebAssembly module comes from: an address, an answer of `fetch`, bytes, or a compiled module. */
export type ModuleSource = string | URL | Response | BufferSource | WebAssembly.Module

/** @internal A module that is started once, unless that fails. */
export function once(
  start: (source: { module_or_path: ModuleSource }) => Promise<unknown>,
  own: () => URL,
): (source?: ModuleSource | Promise<ModuleSource>) => Promise<void> {
  let started: Promise<void> | undefined
  const load = async (given: ModuleSource | Promise<ModuleSource> | undefined) => {
    let source = (await given) ?? own()
    // Node's fetch reads no files. The name is kept from bundlers: a page never comes here.
    if (source instanceof URL && source.protocol === 'file:') {
      const files = 'node:fs/promises'
      const { readFile } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ files)) as {
        readFile(file: URL): Promise<Uint8Array<ArrayBuffer>>
      }
      source = await readFile(source)
    }
    await start({ module_or_path: source })
  }
  return (source) =>
    (started ??= load(source).catch((error: unknown) => {
      started = undefined
      throw error
    }))
}
