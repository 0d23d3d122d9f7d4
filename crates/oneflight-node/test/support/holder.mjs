// Begins work, tells so, and never ends it.
//
// Usage: holder.mjs URL KEY LEASE_MS

import { Idempotency } from '../../index.mjs'

const [url, key, leaseMs] = process.argv.slice(2)
const idem = await Idempotency.open(url, { leaseMs: Number(leaseMs) })
await idem.run({ scope: 'held', key }, async () => {
  console.log(JSON.stringify({ begun: true }))
  await new Promise((resolve) => setTimeout(resolve, 3_600_000))
})
