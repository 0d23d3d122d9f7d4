// A relay of a process of its own. Each delivery has one effect under its key, and is told. It is closed by SIGTERM; one that is to
// hang does so in its first delivery, behind the effect.
//
// Usage: relayer.mjs URL PREFIX LEASE_MS hangs|goes

import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { openOutbox } from './outbox.mjs'

const [url, prefix, leaseMs, how] = process.argv.slice(2)
const tell = (it) => writeSync(1, `${JSON.stringify(it)}\n`)
/** In reach, so that nobody takes them for lost. */
const hanging = []
const outbox = await openOutbox(url, prefix)

async function deliver(message) {
  await outbox.effect(message.key)
  tell({ key: message.key, attempt: message.attempt })
  if (how === 'hangs') await new Promise((resolve) => hanging.push(resolve))
  await sleep(5)
}

outbox.idem.relay(
  { mail: { deliver, firstPauseMs: 20, circuitBreaker: 1000 } },
  { leaseMs: Number(leaseMs) }
)
process.once('SIGTERM', () => void outbox.close())
tell({ ready: true })
