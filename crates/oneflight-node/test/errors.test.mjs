// An error of the work reaches every caller with name, message and cause; NotDone and Unknown; doubt and its resolution.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Idempotency, InDoubt, NotDone, OneflightError, RetryLater, Unknown } from '../index.mjs'
import { folder, start } from './support/processes.mjs'

class CardDeclined extends Error {
  name = 'CardDeclined'
}

function declined() {
  const cause = new TypeError('limit', { cause: new Error('issuer') })
  return Object.assign(new CardDeclined('the card was declined', { cause }), { code: 'card_declined', retry: { after: 5 } })
}

function check(error) {
  assert.ok(error instanceof Error)
  assert.deepEqual([error.name, error.message, error.code, error.retry], [
    'CardDeclined', 'the card was declined', 'card_declined', { after: 5 }
  ])
  assert.ok(error.cause instanceof TypeError)
  assert.deepEqual([error.cause.message, error.cause.cause.message], ['limit', 'issuer'])
  return true
}

test('an error of `run` reaches the caller, those that share its flight, and those after it', async () => {
  const idem = await Idempotency.open('memory:errors-1')
  const request = { scope: 's', key: 'k' }
  const thrown = declined()
  let executed = 0
  const charge = async () => {
    executed++
    await sleep(20)
    throw thrown
  }
  const calls = await Promise.allSettled([1, 2, 3].map(() => idem.run(request, charge)))
  const errors = calls.map((call) => call.reason)
  errors.forEach(check)
  // The caller whose work it was has the very error.
  assert.equal(errors.filter((error) => error === thrown).length, 1)
  await assert.rejects(idem.run(request, charge), check)
  assert.equal(executed, 1)
})

test('an error of `run` reaches a caller of another process', async (t) => {
  const url = `sqlite:${folder()}/orders.db`
  const other = start(t, 'thrower.mjs', url)
  assert.deepEqual(await other.next(), { threw: 'CardDeclined' })
  const idem = await Idempotency.open(url)
  await assert.rejects(idem.run({ scope: 's', key: 'k' }, () => assert.fail('it was executed')), (error) => {
    assert.deepEqual([error.name, error.message, error.cause.name, error.cause.message], [
      'CardDeclined', 'the card was declined', 'RangeError', 'limit'
    ])
    return true
  })
  await idem.close()
})

test('whatever is thrown is told', async () => {
  const idem = await Idempotency.open('memory:errors-2')
  const looped = new Error('looped')
  looped.cause = looped
  const hostile = Object.defineProperty(new Error('x'), 'message', { get() { throw new Error('no') } })
  const cases = [
    ['a text', (error) => error === 'a text'],
    [undefined, (error) => error === 'undefined'],
    [null, (error) => error === null],
    [{ digest: 'NEXT_REDIRECT;/done' }, (error) => error.digest === 'NEXT_REDIRECT;/done'],
    [looped, (error) => error.message === 'looped' && error.cause.message === 'looped'],
    [hostile, (error) => /cannot be described/.test(error.message)],
    [new AggregateError([new TypeError('one'), new Error('two')], 'both'), (error) => {
      return error instanceof AggregateError && error.errors[0] instanceof TypeError && error.errors[1].message === 'two'
    }],
    [Object.assign(new Error('x'), { big: 1n, ok: 1 }), (error) => error.ok === 1 && error.big === undefined]
  ]
  for (const [at, [thrown, is]] of cases.entries()) {
    const request = { scope: 's', key: `k${at}` }
    const work = () => {
      throw thrown
    }
    await idem.run(request, work).then(() => assert.fail('it threw'), (error) => assert.equal(error, thrown))
    await idem.run(request, work).then(() => assert.fail('it threw'), (error) => assert.ok(is(error), `case ${at}`))
  }
})

test('NotDone frees the key and reaches every caller', async () => {
  const idem = await Idempotency.open('memory:errors-3')
  const request = { scope: 's', key: 'k' }
  for (const call of ['run', 'tryRun']) {
    const refuse = async () => {
      await sleep(10)
      throw new NotDone('no connection', { cause: new Error('ECONNREFUSED') })
    }
    const calls = await Promise.allSettled([idem[call](request, refuse), idem[call](request, refuse)])
    for (const { reason } of calls) {
      assert.ok(reason instanceof NotDone)
      assert.deepEqual([reason.message, reason.cause.message, reason.effect], ['no connection', 'ECONNREFUSED', 'nothing'])
    }
  }
  assert.equal((await idem.run(request, () => 'done')).origin, 'executed')
})

test('an error of `tryRun` leaves the request in doubt, until it is resolved', async () => {
  const idem = await Idempotency.open('memory:errors-4')
  const request = { scope: { namespace: 'tenant|7', route: 'POST /charges' }, key: 'k' }
  const late = async () => {
    await sleep(10)
    throw new Error('timed out')
  }
  const calls = await Promise.allSettled([idem.tryRun(request, late), idem.tryRun(request, late)])
  for (const { reason } of calls) {
    assert.ok(reason instanceof Unknown)
    assert.ok(reason instanceof OneflightError)
    assert.deepEqual([reason.effect, reason.cause.message], ['unknown', 'timed out'])
    assert.doesNotMatch(reason.message, /timed out/)
  }
  await assert.rejects(idem.tryRun(request, () => assert.fail('it was run again')), (error) => {
    assert.ok(error instanceof InDoubt)
    assert.equal(error.attempt, 1)
    return true
  })
  const [doubtful, ...others] = await idem.inDoubt()
  assert.deepEqual(others, [])
  assert.deepEqual(doubtful.request, request)
  assert.equal((await idem.status(request)).state, 'inDoubt')
  assert.deepEqual(await idem.inDoubt({ after: doubtful.token }), [])

  assert.equal(await idem.resolve(doubtful.request, 'hold'), 'held')
  assert.equal(await idem.resolve(doubtful.request, { completed: { charge: 'ch_1' } }), 'recorded')
  assert.equal(await idem.resolve(doubtful.request, 'rerun'), 'alreadyCompleted')
  assert.equal(await idem.resolve({ scope: 's', key: 'other' }, 'rerun'), 'absent')
  assert.deepEqual((await idem.tryRun(request, late)).value, { charge: 'ch_1' })
  const status = await idem.status(request)
  assert.equal(status.state, 'completed')
  assert.ok(status.expiresAt - status.completedAt === 24 * 60 * 60 * 1000)
})

test('work that throws Unknown under `run` is in doubt, and a rerun makes it new', async () => {
  const idem = await Idempotency.open('memory:errors-5')
  const request = { scope: 's', key: 'k' }
  const thrown = new Unknown('the provider did not answer')
  await assert.rejects(idem.run(request, () => { throw thrown }), (error) => error === thrown)
  assert.equal(await idem.resolve(request, 'rerun'), 'freed')
  assert.equal((await idem.run(request, () => 1)).attempt, 1)
})

for (const call of ['run', 'tryRun']) {
  test(`an error of an inner call says nothing of the work around it, under ${call}`, async () => {
    const idem = await Idempotency.open('memory:errors-inner', { recovery: 'hold' })
    const closed = await Idempotency.open('memory:errors-closed')
    await closed.close()
    const inner = {
      NotDone: (key) => idem.run({ scope: 'mail', key }, () => { throw new NotDone('smtp is down') }),
      Unknown: (key) => idem.tryRun({ scope: 'mail', key }, () => { throw new Error('cut off') }),
      InvalidArgument: () => idem.run({ scope: 'mail', key: null }, () => 1),
      Closed: () => closed.run({ scope: 'mail', key: 'k' }, () => 1)
    }
    for (const [code, ask] of Object.entries(inner)) {
      const request = { scope: call, key: code }
      let charges = 0
      const charge = async () => {
        charges++
        await ask(`${call}-${code}`)
      }
      const calls = await Promise.allSettled([idem[call](request, charge), idem[call](request, charge)])
      for (const { reason } of calls) {
        assert.ok(reason instanceof Unknown, `${code}: ${reason}`)
        assert.deepEqual([reason.effect, reason.cause.code], ['unknown', code])
        assert.match(reason.message, /says nothing of what the work itself did/)
      }
      await assert.rejects(idem[call](request, charge), InDoubt)
      assert.equal(charges, 1, code)
    }
    // What the work says itself counts, whatever made it say so.
    const request = { scope: call, key: 'says' }
    const says = () => inner.NotDone(`${call}-says`).catch((cause) => { throw new NotDone('before the charge', { cause }) })
    await assert.rejects(idem[call](request, says), { code: 'NotDone', message: 'before the charge' })
    assert.equal((await idem[call](request, () => 'done')).origin, 'executed')
    await idem.close()
  })
}

test('an error that is too large to be recorded as it is reaches every caller, without what is too large', async () => {
  const idem = await Idempotency.open('memory:errors-large')
  const request = { scope: 's', key: 'k' }
  const cause = Object.assign(new Error('y'.repeat(400_000)), { list: Array.from({ length: 50_000 }, () => 'z') })
  const thrown = Object.assign(new Error('502 of the provider', { cause }), { body: 'x'.repeat(300_000), status: 502 })
  await assert.rejects(idem.run(request, () => { throw thrown }), (error) => error === thrown)
  await assert.rejects(idem.run(request, assert.fail), (error) => {
    assert.deepEqual([error.message, error.status, error.body], ['502 of the provider', 502, undefined])
    assert.match(error.cause.message, /^y+…$/)
    assert.equal(error.cause.list, undefined)
    return true
  })
  await idem.close()

  const small = await Idempotency.open('memory:errors-large', { maxResultBytes: 50 })
  await assert.rejects(small.run({ scope: 's', key: 'k2' }, () => { throw thrown }), (error) => {
    assert.deepEqual([error.code, error.effect], ['ValueTooLarge', 'done'])
    assert.equal(error.cause, thrown)
    return true
  })
  await small.close()
})

test('a recovery function is asked, and says what became of it', async () => {
  const asked = []
  const answers = { found: { completed: 'ch_1' }, again: 'rerun', held: 'hold', broken: null }
  const idem = await Idempotency.open('memory:errors-6', {
    settleMs: 0,
    recovery: async (doubt) => {
      asked.push([doubt.request.key, doubt.attempt, doubt.downstreamKey('charge').length])
      return answers[doubt.request.key]
    }
  })
  const warned = new Promise((resolve) => process.once('warning', resolve))
  const ask = (key, work) => idem.tryRun({ scope: 's', key }, work)
  for (const key of Object.keys(answers)) await assert.rejects(ask(key, () => { throw new Error('cut off') }), Unknown)
  assert.equal((await ask('found', () => assert.fail('it was run again'))).value, 'ch_1')
  const again = await ask('again', (context) => context.attempt)
  assert.deepEqual([again.value, again.attempt, again.origin], [2, 2, 'executed'])
  await assert.rejects(ask('held', () => assert.fail('it was run again')), InDoubt)
  await assert.rejects(ask('broken', () => assert.fail('it was run again')), InDoubt)
  assert.match((await warned).message, /recovery function failed/)
  assert.deepEqual(asked[0], ['found', 1, 64])
})

test('purge deletes what is past its retention', async () => {
  const idem = await Idempotency.open(`${folder()}/orders.db`, { retentionMs: 1 })
  for (let key = 0; key < 3; key++) await idem.run({ scope: 's', key: `k${key}` }, () => key)
  await sleep(20)
  assert.equal(await idem.purge({ limit: 2 }), 2)
  assert.equal(await idem.purge(), 1)
  assert.equal(await idem.purge(), 0)
  await idem.close()
})

/** What cannot even be looked at. */
function unreadable() {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}

for (const call of ['run', 'tryRun']) {
  test(`what cannot be read ends its work when it is thrown, under ${call}`, async () => {
    const idem = await Idempotency.open(`memory:errors-unreadable-${call}`)
    const request = { scope: 's', key: 'k' }
    const thrown = unreadable()
    const failed = await idem[call](request, () => { throw thrown }).then(assert.fail, (error) => ({ error }))
    if (call === 'run') {
      assert.ok(failed.error === thrown)
      await assert.rejects(idem.run(request, assert.fail), { message: 'what was thrown cannot be described' })
    } else {
      assert.ok(failed.error instanceof Unknown)
      await assert.rejects(idem.tryRun(request, assert.fail), InDoubt)
    }
    await idem.close()
  })
}

test('a recovery function that throws what cannot be read holds its request, and warns', async () => {
  const warned = once(process, 'warning')
  const idem = await Idempotency.open('memory:errors-recovery', { settleMs: 0, recovery: () => { throw unreadable() } })
  const request = { scope: 's', key: 'k' }
  await assert.rejects(idem.run(request, () => { throw new Unknown('the line is dead') }), Unknown)
  await assert.rejects(idem.run(request, assert.fail), InDoubt)
  assert.match((await warned)[0].message, /a recovery function failed, and its request is held: what was thrown cannot be described/)
  await idem.close()
})

test('an error has its name and message in a replay, whatever it is called and whatever else is in it', async () => {
  const idem = await Idempotency.open('memory:errors-names')
  for (const name of ['toString', 'hasOwnProperty', 'constructor', '__proto__', 'RangeError']) {
    const request = { scope: 's', key: name }
    const thrown = Object.defineProperties(new Error('sold out'), {
      name: { value: name },
      sku: { value: 7, enumerable: true },
      stock: { enumerable: true, get: () => { throw new Error('the warehouse is closed') } }
    })
    await assert.rejects(idem.run(request, () => { throw thrown }), (error) => error === thrown)
    const replayed = await idem.run(request, assert.fail).then(assert.fail, (error) => error)
    assert.ok(replayed instanceof Error)
    assert.deepEqual([replayed.name, replayed.message, replayed.sku, replayed.stock], [name, 'sold out', 7, undefined])
  }
  await idem.close()
})

test('a pause that is none is InvalidArgument', () => {
  for (const retryAfterMs of [NaN, -5, Infinity, 'soon']) {
    assert.throws(() => new RetryLater('busy', { retryAfterMs }), { code: 'InvalidArgument' })
  }
  assert.equal(new RetryLater('busy', { retryAfterMs: 0.5 }).retryAfterMs, 0.5)
})

test('a value whose getter throws what cannot be read is not kept', async () => {
  const idem = await Idempotency.open('memory:errors-getter')
  const value = Object.defineProperty({}, 'price', { enumerable: true, get: () => { throw unreadable() } })
  await assert.rejects(idem.run({ scope: 's', key: 'k' }, () => value), { code: 'ValueNotJson' })
  await idem.close()
})
