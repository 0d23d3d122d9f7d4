// Modules that are loaded anew, as by `next dev`, and a closure whose promise is out of reach.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Idempotency, NotDone } from '../index.mjs'
import { eventually, openOutbox } from './support/outbox.mjs'
import { folder } from './support/processes.mjs'

const require = createRequire(import.meta.url)
setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')

/** Loads the package once more, beside the copies that are loaded. */
function loadedAnew() {
  for (const name of Object.keys(require.cache)) {
    if (/oneflight-node.*\.js$/.test(name)) delete require.cache[name]
  }
  return require('../index.js')
}

test('copies of the module share one store, and know each other by their errors', async () => {
  const url = `sqlite:${folder()}/orders.db`
  const one = await Idempotency.open(url)
  const copy = loadedAnew()
  assert.notEqual(copy.Idempotency, Idempotency)
  const other = await copy.Idempotency.open(url)
  const request = { scope: 's', key: 'k', fingerprint: { item: 'tea' } }
  const calls = await Promise.all([one.run(request, () => sleep(30)), other.run(request, () => sleep(30))])
  assert.deepEqual(calls.map((reply) => reply.origin).sort(), ['collapsed', 'executed'])
  const thrown = new copy.NotDone('no')
  await assert.rejects(one.run({ scope: 's', key: 'k2' }, () => { throw thrown }), (error) => error === thrown)
  assert.equal((await one.run({ scope: 's', key: 'k2' }, () => { throw new NotDone() }).catch((error) => error)).code, 'NotDone')
  const inner = await one.run({ scope: 's', key: 'k3' }, () => {
    return other.run({ scope: 's', key: 'k3' }, () => 1).catch((error) => error.code)
  })
  assert.equal(inner.value, 'Reentrant')
  await one.close()
  await other.close()
})

test('a closure whose promise nobody can settle leaves its request in doubt', async () => {
  const idem = await Idempotency.open('memory:out-of-reach')
  const called = idem.run({ scope: 's', key: 'k' }, () => new Promise(() => {}))
  const told = called.then(() => 'a reply', (error) => error.code)
  let outcome
  told.then((it) => (outcome = it))
  for (let round = 0; round < 200 && outcome === undefined; round++) {
    collect()
    await sleep(10)
  }
  assert.equal(outcome, 'Unknown')
})

test('a delivery whose promise nobody can settle is tried again', async () => {
  const { idem, send, close } = await openOutbox(`sqlite:${folder()}/outbox.db`)
  const attempts = []
  const deliver = ({ attempt }) => {
    attempts.push(attempt)
    if (attempt === 1) return new Promise(() => {})
  }
  const relay = idem.relay({ mail: { deliver, firstPauseMs: 10, timeoutMs: 3_600_000 } }, { leaseMs: 1000 })
  await send({ topic: 'mail', payload: 1 })
  await eventually(() => {
    collect()
    return relay.health().delivered === 1
  }, 'it is delivered')
  assert.deepEqual(attempts, [1, 2])
  await close()
})
