// What the app begins with, before the first request: tables, connections, and in mode `package` the relay.

import { cancel, createTables, isCancelled } from './database'
import { mode } from './env'
import { log, told } from './log'
import { kv } from './modes/article'
import { idempotency } from './modes/package'
import { once } from './once'
import { Declined, mail, pay } from './outward'

/** Resolves when the app is ready. */
export const start = once('start', async () => {
  if (mode() === 'article') await kv()
  if (mode() !== 'service') await createTables()
  if (mode() === 'package') await startRelay()
  log('started', { mode: mode() })
})

/** Delivers what orders have sent, also what an earlier process has left. Each message has a key, the same in every attempt. */
async function startRelay() {
  const idem = await idempotency()
  const relay = idem.relay(
    {
      async 'payment.charge'(message, { signal }) {
        const charge = message.json()
        try {
          await pay(message.key, charge, signal)
        } catch (error) {
          // Anything else is tried again. A dead letter would be told to an operator, and not to the customer.
          if (!(error instanceof Declined)) throw error
          await cancel(charge.order)
        }
      },
      // By then the charge was made or declined.
      async 'mail.receipt'(message, { signal }) {
        const receipt = message.json()
        await mail(message.key, { ...receipt, isCancelled: await isCancelled(receipt.order) }, signal)
      }
    },
    // A process that was killed is missed after this time, and another one delivers the rest.
    { leaseMs: 3_000 }
  )
  beforeTheEnd('SIGTERM', () => relay.close())
  beforeTheEnd('SIGINT', () => relay.close())
}

/**
 * Has this done before the signal does what it does otherwise. Next answers what is in flight and then ends the process, and would not
 * wait for a delivery that is under way. (That would be made again, under the same key.)
 */
function beforeTheEnd(signal: 'SIGTERM' | 'SIGINT', stop: () => Promise<void>) {
  const others = process.listeners(signal)
  process.removeAllListeners(signal)
  process.once(signal, async () => {
    await stop().catch((error) => log('the relay did not stop', { error: told(error) }))
    for (const listener of others) listener(signal)
  })
}
