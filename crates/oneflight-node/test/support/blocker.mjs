// Begins work that blocks the event loop for longer than its lease, and then ends.
//
// Usage: blocker.mjs URL KEY LEASE_MS BLOCKED_MS

import { writeSync } from 'node:fs'
import { Idempotency } from '../../index.mjs'

const [url, key, leaseMs, blockedMs] = process.argv.slice(2)
const idem = await Idempotency.open(url, { leaseMs: Number(leaseMs) })
const reply = await idem.run({ scope: 'held', key }, () => {
  writeSync(1, `${JSON.stringify({ begun: true })}\n`)
  const until = Date.now() + Number(blockedMs)
  while (true) if (Date.now() > until) break
  return 'blocked'
})
console.log(JSON.stringify(reply))
