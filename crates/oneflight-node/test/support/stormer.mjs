// One process of a storm: asks for each key many times at once, in an order of its own, and counts each execution by a line
// in a file that all processes append to. Tells that it is ready, and begins with the first line of its input.
//
// Usage: stormer.mjs URL FILE KEYS DUPLICATES

import { once } from 'node:events'
import { appendFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Idempotency } from '../../index.mjs'

const [url, file, keys, duplicates] = process.argv.slice(2)
const connections = url.startsWith('redis') ? undefined : 4
const idem = await Idempotency.open(url, { waitMs: 60_000, connections })
const asks = []
for (let key = 0; key < Number(keys); key++) for (let copy = 0; copy < Number(duplicates); copy++) asks.push(key)
asks.sort(() => Math.random() - 0.5)

console.log(JSON.stringify({ ready: true }))
await once(process.stdin, 'data')
process.stdin.destroy()

const origins = { executed: 0, collapsed: 0, replayed: 0 }
let wrong = 0
await Promise.all(
  asks.map(async (key, at) => {
    await sleep((at % 50) * 4)
    const request = { scope: 'storm', key: `order-${key}`, fingerprint: { key, item: 'tea' } }
    const reply = await idem.run(request, async () => {
      appendFileSync(file, `${key}\n`)
      await sleep(key % 7)
      return { order: key, by: process.pid }
    })
    origins[reply.origin]++
    if (reply.value.order !== key) wrong++
  })
)
await idem.close()
console.log(JSON.stringify({ origins, wrong }))
