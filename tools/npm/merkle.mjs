// Writes the Merkle vectors, made with viem's keccak256 and nothing of this project:
//
//   node merkle.mjs OUT_FILE

import { mkdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { concat, keccak256, stringToHex } from 'viem'

const out = process.argv[2]
if (!out) throw new Error('usage: node merkle.mjs OUT_FILE')
const { version } = createRequire(import.meta.url)('viem/package.json')

const leafOf = (content) => keccak256(concat(['0x00', content]))
const nodeOf = (a, b) => keccak256(concat(a < b ? [a, b] : [b, a]))

const trees = [1, 2, 3, 5, 8, 13].map((size) => {
  const contents = Array.from({ length: size }, (_, i) => keccak256(stringToHex(`slackwater merkle ${size} ${i}`)))
  const levels = [contents.map(leafOf)]
  while (levels.at(-1).length > 1) {
    const below = levels.at(-1)
    // An odd last node moves up unchanged.
    levels.push(Array.from({ length: Math.ceil(below.length / 2) }, (_, i) => (below[2 * i + 1] ? nodeOf(below[2 * i], below[2 * i + 1]) : below[2 * i])))
  }
  const leaves = contents.map((content, index) => ({
    content,
    leaf: levels[0][index],
    proof: levels.map((level, height) => level[(index >> height) ^ 1]).filter(Boolean),
  }))
  return { root: levels.at(-1)[0], leaves }
})
mkdirSync(dirname(out), { recursive: true })
writeFileSync(out, `${JSON.stringify({ source: `viem ${version}: keccak256(0x00 ‖ content), pairs sorted, an odd last node moves up`, trees }, null, 1)}\n`)
