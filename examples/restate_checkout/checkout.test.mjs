// What the example shows, on its real parts: run by bin/restate test.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { isRight, storm } from './storm.mjs'
import { order, place, start } from './support.mjs'

const TIME_MS = 30_000

/** Waits until this holds. */
async function until(what, holds) {
  for (const end = Date.now() + TIME_MS; !(await holds()); await sleep(20)) {
    if (Date.now() > end) throw new Error(`not within ${TIME_MS} ms: ${what}`)
  }
}

/** Starts all of it, with charges that wait until they are let go. */
async function held(t, options) {
  const all = await start(options)
  t.after(all.stop)
  const gate = withResolvers()
  let charging = 0
  all.outside.hold(async (what) => {
    if (what !== 'charge') return
    charging++
    await gate.promise
  })
  return {
    ...all,
    letGo: gate.resolve,
    asked: () => charging,
    charging: (count) => until(`${count} charges are asked for`, () => charging >= count),
    invocations: () => all.restate.query('SELECT id, status FROM sys_invocation')
  }
}

/** As `Promise.withResolvers`, which Node has from version 22. */
function withResolvers() {
  let resolve
  const promise = new Promise((own) => (resolve = own))
  return { promise, resolve }
}

function happened(all) {
  const [reservations, charges, mails] = ['reserve', 'charge', 'mail'].map((what) => all.outside.done(what).length)
  return { reservations, charges, mails }
}

const ONCE = { reservations: 1, charges: 1, mails: 1 }

test('each order is carried out once although front, service and server are killed', async () => {
  const outcome = await storm({ keys: 12, duplicates: 10, clients: 12, kills: 6, keysAre: 'derived', seed: Date.now() % 2 ** 31 })
  assert.ok(isRight(outcome), JSON.stringify(outcome, null, 2))
})

test('a front that dies after it has handed an order over attaches to it', async (t) => {
  const all = await held(t)
  const first = order(all.front.url, 'a').catch(() => 'died')
  await all.charging(1)
  await all.front.restart()
  assert.equal(await first, 'died')
  const again = place(all.front.url, 'a')
  all.letGo()
  assert.equal(await again, 1)
  assert.deepEqual(happened(all), ONCE)
  assert.equal((await all.invocations()).length, 1)
})

test('without keys that stay the same it would be carried out twice', async (t) => {
  const all = await held(t, { front: ['--keys', 'random'] })
  const first = order(all.front.url, 'a').catch(() => 'died')
  await all.charging(1)
  await all.front.restart()
  assert.equal(await first, 'died')
  const again = place(all.front.url, 'a')
  await all.charging(2)
  all.letGo()
  await again
  await until('both are carried out', () => happened(all).mails === 2)
  assert.deepEqual(happened(all), { reservations: 2, charges: 2, mails: 2 })
})

test('an order that was begun in steps is finished in steps after the move', async (t) => {
  const all = await held(t, { front: ['--by', 'steps'] })
  const first = order(all.front.url, 'a').catch(() => 'died')
  await all.charging(1)
  await all.front.kill()
  assert.equal(await first, 'died')
  const moved = await all.startFront(['--by', 'restate'])
  all.letGo()
  assert.equal(await place(moved.url, 'a'), 1)
  assert.deepEqual(happened(all), ONCE)
  assert.deepEqual(await all.invocations(), [], 'Restate never heard of it')
  assert.equal(await place(moved.url, 'b'), 2)
  assert.equal((await all.invocations()).length, 1, 'a new one goes the new way')
})

test('an order that was handed over is finished there after the way back', async (t) => {
  const all = await held(t)
  const first = order(all.front.url, 'a').catch(() => 'died')
  await all.charging(1)
  await all.front.kill()
  assert.equal(await first, 'died')
  const back = await all.startFront(['--by', 'steps'])
  const again = place(back.url, 'a')
  all.letGo()
  assert.equal(await again, 1)
  assert.deepEqual(happened(all), ONCE)
  assert.equal(all.asked(), 1, 'what would be found by its key is not even asked for again')
  assert.equal(await place(back.url, 'b'), 2)
  assert.equal((await all.invocations()).length, 1, 'a new one goes the old way')
})

test('another order under the same key is told from the first one by the front, and not by Restate', async (t) => {
  const all = await start()
  t.after(all.stop)
  assert.equal((await order(all.front.url, 'a', 'tea')).status, 200)
  assert.equal((await order(all.front.url, 'a', 'cake')).status, 422)
  const [{ idempotency_key: key }] = await all.restate.query('SELECT idempotency_key FROM sys_invocation')
  const keys = { reserve: 'r', charge: 'c', book: 'b', mail: 'm' }
  const headers = { 'content-type': 'application/json', 'idempotency-key': key }
  const body = JSON.stringify({ order: { item: 'cake' }, keys })
  const answer = await fetch(`${all.restate.ingress}/restate/call/Checkout/place`, { method: 'POST', headers, body })
  assert.deepEqual(await answer.json(), { order: 1 }, 'the answer to tea')
  assert.deepEqual(all.outside.done('charge'), ['tea'])
})

test('after its retention a key is new to Restate', async (t) => {
  const all = await start({ settings: { RESTATE_WORKER__CLEANUP_INTERVAL: '1s' } })
  t.after(all.stop)
  await all.restate.admit('/services/Checkout', { idempotency_retention: '1s' }, 'PATCH')
  await order(all.front.url, 'a')
  const invocations = () => all.restate.query('SELECT idempotency_key FROM sys_invocation')
  const [{ idempotency_key: key }] = await invocations()
  await until('the invocation is forgotten', async () => (await invocations()).length === 0)
  const attach = await fetch(`${all.restate.ingress}/restate/invocation/Checkout/place/${key}/attach`)
  assert.equal(attach.status, 404)
})
