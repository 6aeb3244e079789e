// What each part of a module with names costs: `node wasm-parts.mjs MODULE.wasm`. Sizes are of code before wasm-opt.

import { readFileSync } from 'node:fs'

const bytes = readFileSync(process.argv[2])
let at = 8
const u32 = () => {
  let value = 0
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++]
    value |= (byte & 0x7f) << shift
    if (byte < 0x80) return value >>> 0
  }
}
const name = () => {
  const length = u32()
  at += length
  return bytes.toString('utf8', at - length, at)
}

const sizes = [] // of function bodies
const names = new Map()
let imported = 0
let dataBytes = 0
while (at < bytes.length) {
  const id = bytes[at++]
  const size = u32()
  const end = at + size
  if (id === 2) {
    for (let left = u32(); left > 0; left--) {
      name()
      name()
      const kind = bytes[at++]
      if (kind === 0) {
        imported++
        u32()
      } else if (kind === 1) {
        at++
        const flags = u32()
        u32()
        if (flags & 1) u32()
      } else if (kind === 2) {
        const flags = u32()
        u32()
        if (flags & 1) u32()
      } else if (kind === 3) at += 2
      else throw new Error(`import of kind ${kind}`)
    }
  } else if (id === 10) {
    for (let left = u32(); left > 0; left--) {
      const body = u32()
      sizes.push(body)
      at += body
    }
  } else if (id === 11) dataBytes = size
  else if (id === 0 && name() === 'name') {
    while (at < end) {
      const kind = bytes[at++]
      const kindEnd = u32() + at
      if (kind === 1) for (let left = u32(); left > 0; left--) names.set(u32(), name())
      at = kindEnd
    }
  }
  at = end
}

/** The crate that a function belongs to: the first path in its name; of an implementation, the type's. */
function part(symbol) {
  const crates = [...symbol.matchAll(/(?<![\w:])_?([a-z_][a-z0-9_]*)(?:\[[0-9a-f]+\])?::/g)].map((match) => match[1])
  const own = crates.find((crate) => !['core', 'alloc', 'std'].includes(crate))
  const crate = own ?? crates[0] ?? 'other'
  if (crate !== 'slackwater') return crate
  const room = /slackwater(?:\[[0-9a-f]+\])?::([a-z_]+)/.exec(symbol)
  return room ? `slackwater::${room[1]}` : crate
}

const parts = new Map()
const all = sizes.map((size, index) => ({ size, symbol: names.get(index + imported) ?? '?' }))
for (const { size, symbol } of all) parts.set(part(symbol), (parts.get(part(symbol)) ?? 0) + size)
const total = all.reduce((sum, { size }) => sum + size, 0)
const row = (size, what) => console.log(`${String(size).padStart(8)}  ${((100 * size) / (total + dataBytes)).toFixed(1).padStart(5)} %  ${what}`)
row(total, 'code')
row(dataBytes, 'data')
console.log('by crate:')
for (const [what, size] of [...parts].sort((a, b) => b[1] - a[1]).slice(0, 25)) row(size, what)
console.log('largest functions:')
for (const { size, symbol } of all.sort((a, b) => b.size - a.size).slice(0, 25)) row(size, symbol.slice(0, 140))
