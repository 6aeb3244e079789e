// Signs forward requests as users' wallets do. A JSON list of jobs on stdin, a JSON list of results on
// stdout, in the same order:
//
//   job:    { "wallet": "viem" | "ethers", "privateKey": "0x…",
//             "domain": { "name", "version", "chainId", "verifyingContract" },
//             "message": { "from", "to", "value", "gas", "nonce", "deadline", "data" } }
//   result: { "digest": "0x…", "signature": "0x…", "signer": "0x…", "source": "viem 2.…" }
//
// Integers may be JSON numbers or decimal strings. Exits with 1 and a message on stderr if a job is bad.

import { readFileSync } from 'node:fs'
import { signForwardRequest, sources } from './forward_request.mjs'

try {
  const jobs = JSON.parse(readFileSync(0, 'utf8'))
  if (!Array.isArray(jobs)) throw new Error('expected a JSON list of jobs on stdin')
  const results = []
  for (const [index, job] of jobs.entries()) {
    try {
      results.push({ ...(await signForwardRequest(job)), source: sources[job.wallet] })
    } catch (error) {
      throw new Error(`job ${index}: ${error.message}`)
    }
  }
  process.stdout.write(`${JSON.stringify(results)}\n`)
} catch (error) {
  process.stderr.write(`sign.mjs: ${error.message}\n`)
  process.exitCode = 1
}
