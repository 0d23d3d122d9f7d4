// A worker thread with a relay, whose deliveries never end.

import { parentPort, workerData } from 'node:worker_threads'
import { Idempotency } from '../../index.mjs'

const { url, options, leaseMs } = workerData
/** In reach, so that nobody takes them for lost. */
const hanging = []
const idem = await Idempotency.open(url, options)
idem.relay(
  {
    mail: async (message) => {
      parentPort.postMessage({ begun: message.key })
      await new Promise((resolve) => hanging.push(resolve))
    }
  },
  { leaseMs }
)
parentPort.postMessage({ ready: true })
