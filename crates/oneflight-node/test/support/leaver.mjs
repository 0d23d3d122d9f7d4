// Waits for its work no longer, and has nothing else to do: the process lives until the work is over.
//
// Usage: leaver.mjs URL

import { Idempotency } from '../../index.mjs'

const idem = await Idempotency.open(process.argv[2])
const left = new AbortController()
const called = idem.run({ scope: 'left', key: 'one' }, async () => {
  left.abort()
  await new Promise((resolve) => setTimeout(resolve, 300))
  return 'done'
}, { signal: left.signal })
await called.catch((error) => console.log(JSON.stringify({ name: error.name })))
