// Worker threads share the store of their process; one that ends in the middle of its work leaves its request in doubt.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { setTimeout as sleep } from 'node:timers/promises'
import { Idempotency, InDoubt } from '../index.mjs'

/** What the threads ask for. */
const asked = (key) => ({ scope: 'threads', key, fingerprint: { key } })

/** Starts a thread. `next` is what it tells, in order. */
function thread(data, program = 'thread') {
  const worker = new Worker(new URL(`./support/${program}.mjs`, import.meta.url), { workerData: data })
  const told = []
  const waiting = []
  worker.on('message', (it) => (waiting.length > 0 ? waiting.shift()(it) : told.push(it)))
  const next = () => (told.length > 0 ? Promise.resolve(told.shift()) : new Promise((resolve) => waiting.push(resolve)))
  return { worker, next }
}

test('calls of several threads collapse', async () => {
  const threads = Array.from({ length: 4 }, () => thread({ url: 'memory:threads', key: 'k', worksMs: 200 }))
  for (const it of threads) assert.deepEqual(await it.next(), { open: true })
  for (const it of threads) it.worker.postMessage('go')
  const replies = []
  let begun = 0
  for (const it of threads) {
    let told = await it.next()
    if (told.begun) {
      begun++
      told = await it.next()
    }
    replies.push(told.reply)
  }
  assert.equal(begun, 1)
  assert.deepEqual(replies.map((reply) => reply.value), threads.map(() => 'done'))
  assert.deepEqual(replies.map((reply) => reply.origin).sort(), ['collapsed', 'collapsed', 'collapsed', 'executed'])
  await Promise.all(threads.map((it) => it.worker.terminate()))
})

test('a thread that ends in the middle of its work leaves its request in doubt at once', async () => {
  const options = { leaseMs: 60_000 }
  const other = thread({ url: 'memory:ended', key: 'k', worksMs: 3_600_000, options })
  await other.next()
  other.worker.postMessage('go')
  assert.deepEqual(await other.next(), { begun: true })
  const idem = await Idempotency.open('memory:ended', options)
  const collapsed = idem.run(asked('k'), () => assert.fail('it was run again'))
  const told = assert.rejects(collapsed, { code: 'Unknown' })
  // It has joined by then.
  await sleep(500)
  await other.worker.terminate()
  await told
  await assert.rejects(idem.run(asked('k'), () => assert.fail('it was run again')), InDoubt)
  await idem.close()
})

test('a thread that ends before its work could begin leaves the key free, and nobody waiting', async () => {
  const idem = await Idempotency.open('memory:queued')
  const other = thread({ url: 'memory:queued', key: 'k' }, 'busy-thread')
  assert.deepEqual(await other.next(), { asked: true })
  // Its claim is granted, and its work queued, while it does something else.
  while ((await idem.status(asked('k'))).state === 'absent') await sleep(5)
  await sleep(100)
  const timely = (promise) => Promise.race([promise, sleep(5000, undefined, { ref: false }).then(() => assert.fail('it waits'))])
  const collapsed = idem.run(asked('k'), () => assert.fail('it joins'))
  // It may be told before the thread has ended.
  const told = assert.rejects(timely(collapsed), { code: 'NotDone', effect: 'nothing' })
  await sleep(50)
  await other.worker.terminate()
  await told
  assert.equal((await timely(idem.run(asked('k'), () => 'here'))).value, 'here')
  await timely(idem.close())
})

test('threads that come and go leave the process in order', async () => {
  for (let round = 0; round < 20; round++) {
    const threads = Array.from({ length: 4 }, (_, at) => thread({ url: 'memory:many', key: `k${round}-${at}`, worksMs: 50 }))
    for (const it of threads) await it.next()
    for (const it of threads) it.worker.postMessage('go')
    await sleep(round % 3 === 0 ? 0 : 20)
    await Promise.all(threads.map((it) => it.worker.terminate()))
  }
  const idem = await Idempotency.open('memory:many')
  assert.equal((await idem.run(asked('after'), () => 1)).value, 1)
})
