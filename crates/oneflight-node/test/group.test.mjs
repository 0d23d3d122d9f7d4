// Collapse in one thread, without a store.

import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Closed, Group, InvalidArgument, Overloaded, Reentrant } from '../index.mjs'

test('of all callers whose key is in flight one runs the work, and none after it joins', async () => {
  const group = new Group()
  let executed = 0
  const work = async () => {
    await sleep(5)
    return { run: ++executed }
  }
  const outcomes = await Promise.all([group.run('a', work), group.run('a', work), group.run('b', work)])
  assert.deepEqual(outcomes.map(({ role }) => role), ['leader', 'follower', 'leader'])
  assert.equal(outcomes[0].value, outcomes[1].value)
  assert.deepEqual([executed, group.inFlight, group.stats], [2, 0, { led: 2, joined: 1 }])

  // A call that begins where a caller is told is new.
  const told = group.run('a', work).then(() => group.run('a', work))
  const again = await told
  assert.deepEqual([again.role, again.value], ['leader', { run: 4 }])
})

test('an error reaches every caller and frees the key', async () => {
  const group = new Group()
  const thrown = new Error('no')
  const fail = () => {
    throw thrown
  }
  const calls = await Promise.allSettled([group.run('a', fail), group.run('a', fail)])
  assert.deepEqual(calls.map(({ reason }) => reason === thrown), [true, true])
  assert.equal((await group.run('a', () => 1)).value, 1)
})

test('a caller that aborts leaves the others', async () => {
  const group = new Group()
  const controller = new AbortController()
  const left = group.run('a', () => sleep(30, 'done'), { signal: controller.signal })
  const stayed = group.run('a', () => assert.fail('it joins'))
  controller.abort()
  await assert.rejects(left, { name: 'AbortError' })
  assert.equal((await stayed).value, 'done')

  // While its work begins.
  const begins = new AbortController()
  const begun = () => {
    begins.abort()
    return sleep(30, 'done')
  }
  await assert.rejects(group.run('b', begun, { signal: begins.signal }), { name: 'AbortError' })
  assert.equal((await group.run('b', () => assert.fail('it joins'))).value, 'done')
})

test('limits, circles, close and drain', async () => {
  const group = new Group({ maxFlights: 1, maxCallers: 2 })
  const slow = group.run('a', () => sleep(20))
  const second = group.run('a', () => 1)
  await assert.rejects(group.run('a', () => 1), Overloaded)
  await assert.rejects(group.run('b', () => 1), Overloaded)
  group.close()
  await group.drain()
  await Promise.all([slow, second])
  await assert.rejects(group.run('a', () => 1), Closed)

  const circle = new Group()
  await assert.rejects(circle.run('a', () => circle.run('b', () => circle.run('a', () => 1))), Reentrant)
  await assert.rejects(circle.run('a', 1), InvalidArgument)
  assert.throws(() => new Group({ maxFlights: 0 }), InvalidArgument)
})

test('any number of calls share a signal, and leave nothing on it', async () => {
  const warned = []
  const note = (warning) => warned.push(warning.name)
  process.on('warning', note)
  const controller = new AbortController()
  const { signal } = controller
  const group = new Group()
  const all = Array.from({ length: 20 }, (_, key) => group.run(key, () => sleep(20, key), { signal }))
  assert.equal((await Promise.all(all)).length, 20)
  assert.equal(getEventListeners(signal, 'abort').length, 0)
  const left = Array.from({ length: 20 }, (_, key) => group.run(key, () => sleep(20, key), { signal }))
  controller.abort()
  for (const { reason } of await Promise.allSettled(left)) assert.equal(reason.name, 'AbortError')
  await group.drain()
  process.off('warning', note)
  assert.deepEqual(warned, [])
})

test('work that aborts its own signal and then fails is nobody’s unhandled rejection', async () => {
  const controller = new AbortController()
  const group = new Group()
  const work = async () => {
    controller.abort()
    throw new Error('sold out')
  }
  await assert.rejects(group.run('k', work, { signal: controller.signal }), { name: 'AbortError' })
  await group.drain()
})
