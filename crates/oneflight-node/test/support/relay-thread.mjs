// A worker thread with a relay, whose deliveries never end, or never begin since the thread is busy.

import { parentPort, workerData } from 'node:worker_threads'
import { Idempotency } from '../../index.mjs'

const { url, options, leaseMs, isBusy } = workerData
/** In reach, so that nobody takes them for lost. */
const hanging = []
const idem = await Idempotency.open(url, options)
const relay = idem.relay(
  {
    mail: async (message) => {
      parentPort.postMessage({ begun: message.key })
      await new Promise((resolve) => hanging.push(resolve))
    }
  },
  { leaseMs }
)
parentPort.postMessage({ ready: true })
if (isBusy) {
  while (relay.health().inFlight === 0);
  parentPort.postMessage({ isQueued: true })
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
}
