// Relays: what is committed is delivered to closures, in order, by whichever process and thread is there.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { Closed, Idempotency, Rejected, RetryLater } from '../index.mjs'
import { eventually, openOutbox } from './support/outbox.mjs'
import { startPostgres } from './support/postgres.mjs'
import { folder, start } from './support/processes.mjs'
import { startRedis } from './support/redis.mjs'

/** A lease that is short enough for relays to find each other soon. */
const SOON = { leaseMs: 1000 }
/** What is tried again is so at once. */
const EAGER = { firstPauseMs: 10, circuitBreaker: 1000 }
/** Never settles, and stays in reach. */
const never = () => new Promise((resolve) => held.push(resolve))
const held = []

let postgres
before(async () => {
  postgres = await startPostgres()
})
after(() => postgres.stop())

let outboxes = 0
const places = {
  SQLite: () => [`sqlite:${folder()}/outbox.db`],
  PostgreSQL: () => [postgres.url, `relay${++outboxes}_`]
}

for (const [store, place] of Object.entries(places)) {
  describe(`on ${store}`, () => {
    /** Runs a test with an outbox of its own. */
    const it = (name, body) =>
      test(name, async (t) => {
        const at = place()
        const outbox = await openOutbox(...at)
        t.after(() => outbox.close())
        await body({ t, at, ...outbox })
      })

    /** Waits until a relay has read all that there is. */
    const hasReadAll = (relay) =>
      eventually(() => {
        const { isConnected, shards, emptyPolls, backlog } = relay.health()
        return isConnected && shards === 64 && emptyPolls > 0 && backlog === 0
      }, 'the relay has all shards and nothing to deliver')

    it('what is committed is delivered once, as it was sent', async ({ idem, send, transact }) => {
      const got = []
      const relay = idem.relay({ 'mail.*': (message) => void got.push(message), bill: async (message) => got.push(message) }, SOON)
      const rolledBack = transact({ scope: 's', key: 'fails' }, async (context) => {
        await context.send({ topic: 'mail.lost', payload: 1 })
        throw new Error('sold out')
      })
      await assert.rejects(rolledBack, /sold out/)
      const sent = await send(
        { topic: 'mail.receipt', payload: { order: 7 }, headers: { to: 'a@b' }, orderingKey: 'o-7', correlationId: 'c-1' },
        { topic: 'mail.text', payload: 'é', traceParent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' },
        { topic: 'bill', payload: Buffer.from([0, 255]), key: 'bill-7' },
        { topic: 'other', payload: 1 }
      )
      const many = await send(...Array.from({ length: 40 }, (_, at) => ({ topic: 'mail.many', payload: at })))
      await eventually(() => got.length >= 43, 'all are delivered')
      await hasReadAll(relay)
      const { delivered, attempts, dead, leftAlone } = relay.health()
      assert.deepEqual([delivered, attempts, dead, leftAlone], [43, 43, 0, 1])
      const ids = (messages) => messages.map((it) => it.id).sort()
      assert.deepEqual(ids(got), ids([...sent.slice(0, 3), ...many]))
      assert.equal(new Set(got.map((it) => it.key)).size, 43)

      const of = (topic) => got.find((it) => it.topic === topic)
      const receipt = of('mail.receipt')
      assert.deepEqual({ ...receipt, payload: String(receipt.payload) }, {
        id: sent[0].id,
        topic: 'mail.receipt',
        payload: '{"order":7}',
        contentType: 'application/json',
        key: receipt.key,
        orderingKey: 'o-7',
        headers: { to: 'a@b' },
        correlationId: 'c-1',
        attempt: 1
      })
      assert.deepEqual([receipt.json(), receipt.text()], [{ order: 7 }, '{"order":7}'])
      assert.deepEqual([of('mail.text').text(), of('mail.text').contentType], ['é', 'text/plain; charset=utf-8'])
      assert.equal(of('mail.text').traceParent, '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')
      assert.throws(() => of('mail.text').json(), Rejected)
      assert.deepEqual([of('bill').key, of('bill').payload], ['bill-7', Buffer.from([0, 255])])

      await relay.close()
      const next = idem.relay({ '*': { deliver: (message) => void got.push(message) } }, SOON)
      await eventually(() => got.length === 44, 'what had no target is delivered')
      await hasReadAll(next)
      assert.equal(got.pop().topic, 'other')
      await next.close()
    })

    it('while the event loop is busy, no attempt begins', async ({ idem, send }) => {
      const seen = []
      const once = { deliver: (message) => void seen.push(message.attempt), maxAttempts: 1, timeoutMs: 200 }
      const relay = idem.relay({ mail: once }, { onDeadLetter: assert.fail })
      await hasReadAll(relay)
      await send(...[1, 2, 3].map((payload) => ({ topic: 'mail', payload })))
      const until = Date.now() + 1500
      while (Date.now() < until);
      await eventually(() => relay.health().delivered === 3, 'all are delivered')
      assert.deepEqual(seen, [1, 1, 1])
      await relay.close()
    })

    it('messages of an ordering key keep their order over a back-off', async ({ idem, send }) => {
      const seen = []
      const deliver = async (message) => {
        const name = message.text()
        seen.push(`${name} ${message.attempt}`)
        if (name === 'a1' && message.attempt < 3) throw new Error('away')
      }
      await send(...['a1', 'a2', 'a3', 'b1'].map((payload) => ({ topic: 'mail', payload, orderingKey: payload[0] })))
      const relay = idem.relay({ mail: { deliver, ...EAGER, firstPauseMs: 300 } }, SOON)
      await eventually(() => relay.health().delivered === 4, 'all are delivered')
      assert.ok(seen.indexOf('b1 1') < seen.indexOf('a1 3'), `another key goes on: ${seen}`)
      assert.deepEqual(seen.filter((it) => it !== 'b1 1'), ['a1 1', 'a1 2', 'a1 3', 'a2 1', 'a3 1'])
      await relay.close()
    })

    it('what is rejected is a dead letter at once, which holds up its key until it is redriven', async ({ idem, send }) => {
      const seen = []
      const told = []
      let isThere = false
      const cause = new Error('550 no such user')
      const deliver = async (message) => {
        seen.push(message.text())
        if (message.text() === 'first' && !isThere) throw new Rejected('no such address', { cause })
      }
      const relay = idem.relay({ mail: deliver }, { ...SOON, onDeadLetter: (letter) => told.push(letter) })
      await send({ topic: 'mail', payload: 'first', orderingKey: 'o' }, { topic: 'mail', payload: 'second', orderingKey: 'o' })
      await eventually(() => told.length === 1, 'it is told of the dead letter')
      const [letter] = await idem.outbox.deadLetters()
      assert.deepEqual(told, [letter])
      assert.deepEqual(
        [letter.topic, String(letter.payload), letter.orderingKey, letter.attempts, letter.blocks],
        ['mail', 'first', 'o', 1, true]
      )
      assert.match(letter.error, /^Rejected: no such address: Error: 550 no such user$/)
      await sleep(300)
      assert.deepEqual(seen, ['first'])
      isThere = true
      assert.equal(await idem.outbox.redrive(letter.id), true)
      await eventually(() => relay.health().delivered === 2, 'both are delivered')
      assert.deepEqual(seen, ['first', 'first', 'second'])
      assert.equal(await idem.outbox.redrive(letter.id), false)
      assert.deepEqual(await idem.outbox.deadLetters(), [])
      await relay.close()
    })

    it('attempts end, a dead letter is overtaken where that is set, and what is cancelled is never delivered', async ({ idem, send }) => {
      const seen = []
      const deliver = async (message) => {
        seen.push(`${message.text()} ${message.attempt}`)
        if (message.text() === 'bad') throw new Error('away')
      }
      const warned = once(process, 'warning')
      const relay = idem.relay({ mail: { deliver, ...EAGER, maxAttempts: 3, onDead: 'skip' } }, SOON)
      const [, , late] = await send(
        { topic: 'mail', payload: 'bad', orderingKey: 'o' },
        { topic: 'mail', payload: 'good', orderingKey: 'o' },
        { topic: 'mail', payload: 'late', delayMs: 3_600_000 }
      )
      await eventually(() => relay.health().delivered === 1, 'the next one is delivered')
      assert.deepEqual(seen, ['bad 1', 'bad 2', 'bad 3', 'good 1'])
      const [warning] = await warned
      assert.match(warning.message, /of mail is a dead letter after 3 attempts: Error: away/)
      assert.equal(await idem.outbox.cancel(late.id), true)
      const [letter] = await idem.outbox.deadLetters()
      assert.equal(await idem.outbox.cancel(letter.id), true)
      assert.deepEqual(await idem.outbox.deadLetters(), [])
      await relay.close()
    })

    it('whatever is thrown is tried again, and no earlier than it asks for', async ({ idem, send }) => {
      const wild = new Proxy({}, { get: () => assert.fail('a getter of the test'), getPrototypeOf: () => assert.fail('a trap') })
      const thrown = [undefined, null, 'text', Symbol('s'), Object.create(null), 7n, wild, new RetryLater('busy', { retryAfterMs: 700 })]
      const at = []
      const deliver = (message) => {
        at.push(performance.now())
        if (message.attempt <= thrown.length) throw thrown[message.attempt - 1]
      }
      const relay = idem.relay({ mail: { deliver, firstPauseMs: 0, circuitBreaker: 1000 } }, SOON)
      await send({ topic: 'mail', payload: 1 })
      await eventually(() => relay.health().delivered === 1, 'it is delivered')
      assert.equal(at.length, thrown.length + 1)
      const pause = at.at(-1) - at.at(-2)
      assert.ok(pause >= 695, `it was tried again after ${pause} ms`)
      await relay.close()
    })

    it('a closure that never settles is given up after its time, and its signal is given', async ({ idem, send }) => {
      const signals = []
      const deliver = async (message, { signal }) => {
        signals.push(signal)
        if (message.attempt === 1) await never()
      }
      const relay = idem.relay({ mail: { deliver, ...EAGER, timeoutMs: 200 } }, SOON)
      await send({ topic: 'mail', payload: 1 })
      await eventually(() => relay.health().delivered === 1, 'it is delivered')
      assert.deepEqual(signals.map((it) => it.aborted), [true, false])
      assert.equal(signals[0].reason.name, 'AbortError')
      await relay.close()
    })

    it('an attempt that blocks the event loop for longer than its time is given up, and those that wait meanwhile are not', async ({ idem, send }) => {
      const seen = []
      const deliver = (message) => {
        seen.push(`${message.text()} ${message.attempt}`)
        const until = Date.now() + (message.attempt === 1 ? 1500 : 0)
        while (Date.now() < until);
      }
      await send({ topic: 'mail', payload: 'one' }, { topic: 'mail', payload: 'two' })
      const relay = idem.relay({ mail: { deliver, ...EAGER, timeoutMs: 300 } }, SOON)
      await eventually(() => relay.health().delivered === 2, 'both are delivered')
      assert.deepEqual(seen.sort(), ['one 1', 'one 2', 'two 1', 'two 2'])
      assert.equal(relay.health().attempts, 4)
      await relay.close()
    })

    it('what was given up while the event loop was blocked is not begun', async ({ idem, send }) => {
      const seen = []
      const deliver = (message) => void seen.push(`${message.text()} ${message.attempt}`)
      const relay = idem.relay({ mail: deliver }, { ...SOON, graceMs: 300 })
      await hasReadAll(relay)
      await send({ topic: 'mail', payload: 'one' }, { topic: 'mail', payload: 'two' })
      const closed = relay.close()
      const until = Date.now() + 1000
      while (Date.now() < until);
      await closed
      const next = idem.relay({ mail: deliver }, SOON)
      await hasReadAll(next)
      // It was given back, and counts as no attempt.
      assert.deepEqual(seen.sort(), ['one 1', 'two 1'])
      await next.close()
    })

    it('close waits for what is being delivered, and takes nothing more', async ({ idem, send }) => {
      const seen = []
      let go
      const going = new Promise((resolve) => (go = resolve))
      const deliver = async (message) => {
        seen.push(message.text())
        await going
      }
      const relay = idem.relay({ mail: deliver }, SOON)
      await send({ topic: 'mail', payload: 'first', orderingKey: 'o' }, { topic: 'mail', payload: 'second', orderingKey: 'o' })
      await eventually(() => seen.length === 1, 'it is being delivered')
      let isClosed = false
      const closed = relay.close().then(() => (isClosed = true))
      await sleep(200)
      assert.equal(isClosed, false)
      go()
      await closed
      assert.equal(relay.health().isConnected, false)
      assert.equal(relay.close(), relay.close())
      const next = idem.relay({ mail: deliver }, SOON)
      await eventually(() => next.health().delivered === 1, 'the second one is delivered')
      assert.deepEqual(seen, ['first', 'second'])
      await next.close()
    })

    it('what close does not wait for is given back, and counts as no attempt', async ({ idem, send }) => {
      let aborted
      const hangs = (message, { signal }) => {
        aborted = once(signal, 'abort')
        return never()
      }
      const relay = idem.relay({ mail: hangs }, { ...SOON, graceMs: 100 })
      await send({ topic: 'mail', payload: 1 })
      await eventually(() => aborted !== undefined, 'it is being delivered')
      await relay.close()
      await aborted
      const attempts = []
      const next = idem.relay({ mail: (message) => void attempts.push(message.attempt) }, SOON)
      await eventually(() => attempts.length > 0, 'it is delivered')
      assert.deepEqual(attempts, [1])
      // The store closes its relays.
      await idem.close()
      assert.equal(next.health().isConnected, false)
      assert.throws(() => idem.relay({ mail: hangs }), Closed)
    })

    it('a relay that is killed is followed by the others, and each effect is there once', async ({ t, at, ...outbox }) => {
      await outbox.prepare()
      const [url, prefix = ''] = at
      const begin = (how) => start(t, 'relayer.mjs', url, prefix, SOON.leaseMs, how)
      const killed = begin('hangs')
      assert.deepEqual(await killed.next(), { ready: true })
      const messages = Array.from({ length: 60 }, (_, at) => ({ topic: 'mail', payload: at, key: `k${at}`, orderingKey: `o${at % 20}` }))
      await outbox.send(...messages.slice(0, 30))
      // It has had an effect that it has not told the store of.
      const { key } = await killed.next()
      const others = [begin('goes'), begin('goes')]
      for (const other of others) assert.deepEqual(await other.next(), { ready: true })
      killed.child.kill('SIGKILL')
      assert.equal(await killed.ended, 'SIGKILL')
      await outbox.send(...messages.slice(30))
      const keys = messages.map((it) => it.key).sort()
      await eventually(async () => (await outbox.effects()).length >= keys.length, 'all effects are there')

      const told = await Promise.all(others.map((other) => collect(other)))
      assert.deepEqual(await outbox.effects(), keys)
      const deliveries = told.flat()
      assert.ok(deliveries.some((it) => it.key === key && it.attempt > 1), 'what it had not told of is delivered again')
      // The order in which the effects came to be, in whichever process.
      const order = await outbox.effectsInOrder()
      for (let ordering = 0; ordering < 20; ordering++) {
        const itsKeys = messages.filter((it) => it.orderingKey === `o${ordering}`).map((it) => it.key)
        assert.deepEqual(order.filter((it) => itsKeys.includes(it)), itsKeys)
      }
      t.diagnostic(`deliveries of the two: ${told.map((it) => it.length).join(' and ')}`)
    })

    it('a process lives until its relay is closed', async ({ t, at, ...outbox }) => {
      await outbox.prepare()
      const [url, prefix = ''] = at
      const relayer = start(t, 'relayer.mjs', url, prefix, SOON.leaseMs, 'goes')
      assert.deepEqual(await relayer.next(), { ready: true })
      await sleep(500)
      assert.equal(relayer.child.exitCode, null)
      await outbox.send({ topic: 'mail', payload: 1, key: 'one' })
      assert.deepEqual(await relayer.next(), { key: 'one', attempt: 1 })
      relayer.child.kill('SIGTERM')
      assert.equal(await relayer.ended, 0)
    })

    it('a thread that ends takes its relay along, and another one goes on before the lease is over', async ({ at, idem, send, t }) => {
      const [url, prefix] = at
      const options = prefix === undefined ? {} : { prefix, connections: 4 }
      const leaseMs = 30_000
      const worker = new Worker(new URL('./support/relay-thread.mjs', import.meta.url), { workerData: { url, options, leaseMs } })
      const [ready] = await once(worker, 'message')
      assert.deepEqual(ready, { ready: true })
      const begins = once(worker, 'message')
      await send({ topic: 'mail', payload: 1, key: 'one' }, { topic: 'mail', payload: 2, key: 'two' })
      assert.ok((await begins)[0].begun)
      await worker.terminate()
      const begun = Date.now()
      const got = []
      const relay = idem.relay({ mail: (message) => void got.push(message.key) }, { leaseMs })
      await eventually(() => relay.health().delivered === 2, 'both are delivered')
      const took = Date.now() - begun
      t.diagnostic(`after ${took} ms of a lease of ${leaseMs} ms`)
      assert.ok(took < leaseMs / 2, `it took ${took} ms`)
      assert.deepEqual(got.sort(), ['one', 'two'])
      await relay.close()
    })

    it('what a thread could not begin before it ended is not waited for', async ({ at, idem, send, t }) => {
      const [url, prefix] = at
      const options = prefix === undefined ? {} : { prefix, connections: 4 }
      // Whether what is queued is dropped or leaked when a thread ends is a matter of chance.
      const ROUNDS = 5
      for (let round = 0; round < ROUNDS; round++) {
        const workerData = { url, options, ...SOON, isBusy: true }
        const worker = new Worker(new URL('./support/relay-thread.mjs', import.meta.url), { workerData })
        await once(worker, 'message')
        const queues = once(worker, 'message')
        await send({ topic: 'mail', payload: round }, { topic: 'mail', payload: round })
        assert.deepEqual((await queues)[0], { isQueued: true })
        await sleep(100)
        await worker.terminate()
      }
      const begun = Date.now()
      const relay = idem.relay({ mail: { deliver: () => {}, ...EAGER } }, SOON)
      await eventually(() => relay.health().delivered === 2 * ROUNDS, 'all are delivered')
      const took = Date.now() - begun
      t.diagnostic(`after ${took} ms`)
      // A relay that waited would do so for 20 s.
      assert.ok(took < 15_000, `it took ${took} ms`)
      await relay.close()
    })

    it('threads with relays that come and go leave the process in order', async ({ at, idem, send }) => {
      const [url, prefix] = at
      const options = prefix === undefined ? {} : { prefix, connections: 4 }
      const begin = () => new Worker(new URL('./support/relay-thread.mjs', import.meta.url), { workerData: { url, options, ...SOON } })
      for (let round = 0; round < 5; round++) {
        const threads = [begin(), begin(), begin()]
        await Promise.all(threads.map((thread) => once(thread, 'message')))
        await send({ topic: 'mail', payload: round })
        await sleep(round * 30)
        await Promise.all(threads.map((thread) => thread.terminate()))
      }
      const relay = idem.relay({ mail: { deliver: () => {}, ...EAGER } }, SOON)
      await eventually(() => relay.health().delivered === 5, 'all are delivered')
      await relay.close()
    })
  })
}

/** Closes a relay's process. Returns all that it has told. */
async function collect(relayer) {
  relayer.child.kill('SIGTERM')
  const told = []
  for (;;) {
    try {
      told.push(await relayer.next())
    } catch {
      break
    }
  }
  assert.equal(await relayer.ended, 0)
  return told
}

test('a store without an outbox, and what cannot be a relay, are errors', async () => {
  const redis = await startRedis()
  const deliver = () => {}
  const invalid = (why) => (error) => {
    assert.equal(error.code, 'InvalidArgument')
    assert.match(error.message, why)
    return true
  }
  for (const url of ['memory:relay', redis.url]) {
    const idem = await Idempotency.open(url)
    assert.throws(() => idem.relay({ mail: deliver }), invalid(/no outbox; open PostgreSQL or SQLite/))
    await assert.rejects(idem.outbox.deadLetters(), invalid(/no outbox/))
    await idem.close()
  }
  redis.stop()
  const idem = await Idempotency.open(`sqlite:${folder()}/outbox.db`)
  for (const [targets, options, why] of [
    [undefined, {}, /no targets/],
    [{}, {}, /no targets/],
    [{ mail: 7 }, {}, /"mail" is a number/],
    [{ mail: {} }, {}, /no `deliver`/],
    [{ mail: { deliver, retries: 3 } }, {}, /no `retries`/],
    [{ mail: { deliver, onDead: 'wait' } }, {}, /'block' or 'skip'/],
    [{ mail: { deliver, timeoutMs: 0 } }, {}, /`timeoutMs` is 0/],
    [{ mail: { deliver, maxAttempts: 0 } }, {}, /`maxAttempts` is no count/],
    [{ 'm*l': deliver }, {}, /is no pattern/],
    [{ mail: deliver }, { leaseMs: 5 }, /shorter than 100 ms/],
    [{ mail: deliver }, { group: '' }, /`group` is empty/],
    [{ mail: deliver }, { onDeadLetter: 7 }, /`onDeadLetter` is a number/],
    [{ mail: deliver }, { lease: 5 }, /no `lease`/]
  ]) {
    assert.throws(() => idem.relay(targets, options), invalid(why))
  }
  await assert.rejects(idem.outbox.redrive(7), invalid(/the id is a number/))
  await assert.rejects(idem.outbox.cancel('seven'), invalid(/no id of a message/))
  await idem.close()
})
