// A worker thread: asks for one key when it is told, and tells what it got.

import { parentPort, workerData } from 'node:worker_threads'
import { setTimeout as sleep } from 'node:timers/promises'
import { Idempotency } from '../../index.mjs'

const { url, key, worksMs, options } = workerData
const idem = await Idempotency.open(url, options)
parentPort.postMessage({ open: true })
await new Promise((resolve) => parentPort.once('message', resolve))
try {
  const reply = await idem.run({ scope: 'threads', key, fingerprint: { key } }, async () => {
    parentPort.postMessage({ begun: true })
    await sleep(worksMs)
    return 'done'
  })
  parentPort.postMessage({ reply })
} catch (error) {
  parentPort.postMessage({ failed: { code: error.code, message: error.message } })
}
