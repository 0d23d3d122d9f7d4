// A worker thread that asks for one key, and then does something else for ever: its work cannot begin.

import { parentPort, workerData } from 'node:worker_threads'
import { Idempotency } from '../../index.mjs'

const { url, key } = workerData
const idem = await Idempotency.open(url)
void idem.run({ scope: 'threads', key, fingerprint: { key } }, () => 'in the thread')
parentPort.postMessage({ asked: true })
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
