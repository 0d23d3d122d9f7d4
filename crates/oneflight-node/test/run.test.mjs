// One execution for each request: collapse, replay, conflict, origin, and what a closure is told.

import assert from 'node:assert/strict'
import { symlinkSync, unlinkSync } from 'node:fs'
import { AsyncLocalStorage } from 'node:async_hooks'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Closed, Idempotency, InProgress, InvalidArgument, KeyReused, NotDone, Overloaded, Reentrant } from '../index.mjs'
import { folder } from './support/processes.mjs'
import { underWay } from './support/under-way.mjs'

let count = 0
const memory = () => `memory:run-${count++}`

test('a double call is one execution', async () => {
  const idem = await Idempotency.open(memory())
  let executed = 0
  const place = async () => {
    executed++
    await sleep(20)
    return { order: 4711 }
  }
  const request = { scope: { namespace: 'tenant-7', route: 'POST /orders', user: 'u1' }, key: 'c0ffee' }
  const [first, second] = await Promise.all([idem.run(request, place), idem.run(request, place)])
  const third = await idem.run(request, place)

  assert.equal(executed, 1)
  const origins = [first, second].map((reply) => reply.origin).sort()
  assert.deepEqual(origins, ['collapsed', 'executed'])
  assert.deepEqual(third, { value: { order: 4711 }, cached: true, declined: false, origin: 'replayed', attempt: 1 })
  // Each caller has a copy of its own.
  first.value.order = 0
  assert.deepEqual([second.value, third.value], [{ order: 4711 }, { order: 4711 }])
  await idem.close()
})

test('a result is replayed after the store was opened again', async () => {
  const url = `sqlite:${folder()}/orders.db`
  for (const expected of ['executed', 'replayed', 'replayed']) {
    const idem = await Idempotency.open(url)
    const reply = await idem.run({ scope: 'orders', key: 'a7f3' }, () => ({ items: ['tea'], at: 1.5 }))
    assert.equal(reply.origin, expected)
    assert.deepEqual(reply.value, { items: ['tea'], at: 1.5 })
    await idem.close()
  }
})

test('another payload under the same key is KeyReused, and member order is none', async () => {
  const idem = await Idempotency.open(memory())
  const ask = (fingerprint, key = 'k') => idem.run({ scope: 's', key, fingerprint }, () => 1)
  await ask({ item: 'tea', amount: 1 })
  assert.equal((await ask({ amount: 1, item: 'tea' })).origin, 'replayed')
  await assert.rejects(ask({ item: 'tea', amount: 2 }), (error) => {
    assert.ok(error instanceof KeyReused)
    assert.deepEqual([error.code, error.name, error.effect], ['KeyReused', 'KeyReused', 'nothing'])
    assert.doesNotMatch(error.message, /tea|amount/)
    return true
  })
  // In flight as well.
  const { called: slow } = await underWay((begun) =>
    idem.run({ scope: 's', key: 'k2', fingerprint: 'one' }, () => {
      begun()
      return sleep(50)
    })
  )
  await assert.rejects(ask('two', 'k2'), KeyReused)
  await slow
})

test('a closure knows its request, its attempt and its downstream keys', async () => {
  const idem = await Idempotency.open(memory())
  const scope = { namespace: 'a|b=%', user: 'u1' }
  const { value } = await idem.run({ scope, key: 'k' }, (context) => {
    return [context.scope, context.key, context.attempt, context.isLeaseLost, context.downstreamKey('charge')]
  })
  assert.deepEqual(value.slice(0, 4), [scope, 'k', 1, false])
  assert.match(value[4], /^[0-9a-f]{64}$/)
})

test('a closure has the AsyncLocalStorage of its caller', async () => {
  const idem = await Idempotency.open(memory())
  const storage = new AsyncLocalStorage()
  const reply = await storage.run('correlation-1', () => {
    return idem.run({ scope: 's', key: 'k' }, async () => {
      await sleep(1)
      return storage.getStore()
    })
  })
  assert.equal(reply.value, 'correlation-1')
})

test('a caller that aborts stops waiting, and the work goes on', async () => {
  const idem = await Idempotency.open(memory())
  const controller = new AbortController()
  let isDone = false
  const request = { scope: 's', key: 'k' }
  const called = idem.run(request, async () => {
    setTimeout(() => controller.abort(new Error('the client left')), 10)
    await sleep(60)
    isDone = true
    return 'done'
  }, { signal: controller.signal })
  await assert.rejects(called, /the client left/)
  assert.equal(isDone, false)
  assert.deepEqual((await idem.run(request, () => 'again')).value, 'done')

  const never = idem.run({ scope: 's', key: 'other' }, () => assert.fail('it was aborted before'), { signal: AbortSignal.abort() })
  await assert.rejects(never, { name: 'AbortError' })
  assert.deepEqual(await idem.status({ scope: 's', key: 'other' }), { state: 'absent' })

  // While the files of its payload are read.
  const reading = new AbortController()
  const fingerprint = new FormData()
  fingerprint.append('photo', new File(['x'], 'a.png'))
  const read = idem.run({ scope: 's', key: 'read', fingerprint }, () => assert.fail('it was run'), { signal: reading.signal })
  reading.abort()
  await assert.rejects(read, { name: 'AbortError' })
  await sleep(20)
  assert.deepEqual(await idem.status({ scope: 's', key: 'read' }), { state: 'absent' })
})

test('work that waits for itself is an error, and not a hang', async () => {
  const idem = await Idempotency.open(memory())
  const request = (key) => ({ scope: 's', key })
  const reply = await idem.run(request('a'), async () => {
    return idem.run(request('a'), () => 1).catch((error) => error.code)
  })
  assert.equal(reply.value, 'Reentrant')
  // Through another flight.
  const through = await idem.run(request('b'), async () => {
    return (await idem.run(request('c'), () => idem.run(request('b'), () => 1).catch((error) => error.code))).value
  })
  assert.equal(through.value, 'Reentrant')
  assert.ok(Reentrant)
})

test('work that waits for the end of its store is an error, and not a hang', async () => {
  const [idem, other] = [await Idempotency.open(memory()), await Idempotency.open(memory())]
  const request = { scope: 's', key: 'a' }
  const reply = await idem.run(request, async () => {
    const own = await idem.close().catch((error) => error.code)
    const through = await other.run(request, () => idem.close().catch((error) => error.code))
    return [own, through.value]
  })
  assert.deepEqual(reply.value, ['Reentrant', 'Reentrant'])
  // It is open still, and another store may be closed in it.
  await idem.run({ scope: 's', key: 'b' }, () => other.close())
  await idem.close()
})

test('limits, retention of one call, and close', async () => {
  const idem = await Idempotency.open(memory(), { maxFlights: 1 })
  const { called: slow } = await underWay((begun) =>
    idem.run({ scope: 's', key: 'slow' }, () => {
      begun()
      return sleep(50)
    })
  )
  await assert.rejects(idem.run({ scope: 's', key: 'k' }, () => 1), Overloaded)
  await slow
  await idem.run({ scope: 's', key: 'short' }, () => 1, { retentionMs: 20 })
  await sleep(40)
  assert.equal((await idem.run({ scope: 's', key: 'short' }, () => 2)).value, 2)

  const pending = idem.run({ scope: 's', key: 'last' }, () => sleep(30))
  const closed = idem.close()
  await assert.rejects(idem.run({ scope: 's', key: 'late' }, () => 1), Closed)
  await closed
  assert.equal((await pending).origin, 'executed')
})

test('a wait that ends is InProgress, which says when to come again', async () => {
  const file = `${folder()}/orders.db`
  const [one, other] = [await Idempotency.open(file), await Idempotency.open(file, { waitMs: 50 })]
  let slow
  // `begun` is given what ends the work.
  const finish = await new Promise((begun) => {
    slow = one.run({ scope: 's', key: 'k' }, () => new Promise(begun))
  })
  await assert.rejects(other.run({ scope: 's', key: 'k' }, () => 1), (error) => {
    assert.ok(error instanceof InProgress)
    assert.ok(error.retryAfterMs > 0)
    assert.equal(error.effect, 'unknown')
    return true
  })
  finish()
  await slow
  await Promise.all([one.close(), other.close()])
})

test('the same URL and options are one store, and each of its objects is closed by itself', async () => {
  const url = `sqlite:${folder()}/orders.db`
  const [one, other] = await Promise.all([Idempotency.open(url), Idempotency.open(url)])
  const request = { scope: 's', key: 'k' }
  const [first, second] = await Promise.all([one.run(request, () => sleep(30)), other.run(request, () => sleep(30))])
  assert.deepEqual([first.origin, second.origin].sort(), ['collapsed', 'executed'])
  await one.close()
  await one.close()
  assert.equal((await other.run(request, () => 1)).origin, 'replayed')
  await other.close()
})

test('bad input is an error that says what was wrong and what to do', async () => {
  const idem = await Idempotency.open(memory())
  const run = (request, work = () => 1, options = undefined) => idem.run(request, work, options)
  const cases = [
    [() => Idempotency.open(undefined), /undefined; is the variable set\? give memory:/],
    [() => Idempotency.open(''), /empty/],
    [() => Idempotency.open('mysql://localhost/shop'), /no store for mysql:/],
    [() => Idempotency.open('orders'), /neither a URL nor a path/],
    [() => Idempotency.open('sqlite::memory:'), /memory:/],
    [() => Idempotency.open('memory:', { leaseMs: 0 }), /lease/],
    [() => Idempotency.open('memory:', { waitMs: '5s' }), /`waitMs` is no duration; give whole milliseconds/],
    [() => Idempotency.open('memory:', { waitms: 5 }), /no `waitms`; there are .*waitMs/],
    [() => Idempotency.open('memory:', { prefix: 'one_' }), /`prefix` does nothing in memory: stores; leave it out/],
    [() => Idempotency.open('memory:', { connections: 2 }), /`connections` does nothing in memory:/],
    [() => Idempotency.open('orders.db', { prefix: 'one_' }), /`prefix` does nothing in sqlite:/],
    [() => Idempotency.open('Redis://localhost/', { schema: 'shop' }), /`schema` does nothing in redis:/],
    [() => Idempotency.open('redis://localhost/', { migrate: false }), /`migrate` does nothing in redis:/],
    [() => Idempotency.open('sqlite:orders.db', { preparedStatements: false }), /`preparedStatements` does nothing in sqlite:/],
    [() => Idempotency.open('memory:', { recovery: 'redo' }), /'hold', 'rerun' or a function/],
    [() => run(null), /\{ scope, key \}/],
    [() => run({ scope: 's', key: null }), /`key` is null/],
    [() => run({ scope: 's', key: '' }), /key is empty/],
    [() => run({ scope: 's', key: String(new FormData().get('key')) }), /the text 'null'.*String/],
    [() => run({ scope: 's', key: `${undefined}` }), /the text 'undefined'/],
    [() => run({ scope: 's', key: new File([], 'a.png') }), /`key` is a File/],
    [() => run({ scope: { namespace: 's', user: undefined }, key: 'k' }), /`scope.user` is undefined; give a string, or leave it out/],
    [() => run({ scope: { namespace: 's', route: null }, key: 'k' }), /`scope.route` is null/],
    [() => run({ scope: { namespace: 's', user: String(undefined) }, key: 'k' }), /`scope.user` is the text 'undefined'.*String/],
    [() => run({ scope: 's', key: String(new File([], 'a.png')) }), /the text '\[object File\]'/],
    [() => run({ scope: 's', key: 'k', fingerprint: undefined }), /`fingerprint` is undefined/],
    [() => run({ scope: 's', key: 'k', fingerprint: 'a\ud800' }), /lone surrogate/],
    [() => run({ scope: 's', key: 'x'.repeat(256) }), /256 bytes/],
    [() => run({ scope: 's', key: 'ключ' }), /printable ASCII/],
    [() => run({ scope: 's', key: '\ud800' }), /lone surrogate/],
    [() => run({ scope: '', key: 'k' }), /namespace is empty/],
    [() => run({ scope: 7, key: 'k' }), /`scope` is a number/],
    [() => run({ scope: { tenant: 'x' }, key: 'k' }), /no `tenant`; there are namespace/],
    [() => run({ scope: 's', key: 'k', fingerprint: 7 }), /`fingerprint` is a number/],
    [() => run({ scope: 's', key: 'k', fingerprint: { at: [new Date()] } }), /\$\.at\[0\] is a Date.*toISOString/],
    [() => run({ scope: 's', key: 'k' }, 'work'), /the work is a string; give a function/],
    [() => run({ scope: 's', key: 'k' }, () => 1, { signal: 1 }), /AbortSignal/],
    [() => run({ scope: 's', key: 'k' }, () => 1, { retentionMs: -1 }), /`retentionMs` is no duration/],
    [() => idem.resolve({ scope: 's', key: 'k' }, 'done'), /\{ completed: value \}/],
    [() => idem.resolve({ scope: 's', key: 'k' }, { completed: 1n }), /BigInt/],
    [() => idem.inDoubt({ after: 'x' }), /`after` is no token/],
    [() => idem.purge({ limit: 0 }), /`limit` is no count/],
    [async () => new Idempotency(), /Idempotency\.open/]
  ]
  for (const [call, message] of cases) {
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof InvalidArgument, `${error}`)
      assert.equal(error.code, 'InvalidArgument')
      assert.equal(error.effect, 'nothing')
      assert.match(error.message, message)
      return true
    })
  }
})

test('each caller of a thread waits for as long as it may, also if it has joined another', async () => {
  const file = `${folder()}/orders.db`
  const [one, other] = [await Idempotency.open(file), await Idempotency.open(file, { waitMs: 900 })]
  const { called: slow } = await underWay((begun) =>
    one.run({ scope: 's', key: 'k' }, () => {
      begun()
      return sleep(1500, 'done')
    })
  )
  const early = [1, 2, 3].map(() => other.run({ scope: 's', key: 'k' }, () => 1))
  const failed = Promise.all(early.map((it) => assert.rejects(it, InProgress)))
  await sleep(800)
  const late = await other.run({ scope: 's', key: 'k' }, () => 1)
  assert.deepEqual([late.value, late.origin], ['done', 'replayed'])
  await Promise.all([failed, slow, one.close(), other.close()])
})

test('work that a call comes to after it had joined another one is known to all: it cannot wait for itself', async () => {
  const home = folder()
  // By another name it is another store to this thread, as one in another process is.
  symlinkSync(home, `${home}.link`)
  const [elsewhere, idem] = [await Idempotency.open(`${home}.link/orders.db`), await Idempotency.open(`${home}/orders.db`, { waitMs: 2000 })]
  const request = { scope: 's', key: 'k' }
  let held
  // `begun` is given what ends the work.
  const free = await new Promise((begun) => {
    held = elsewhere.run(request, () => new Promise((_, reject) => begun(reject))).catch((error) => error.code)
  })
  const leader = idem.run(request, assert.fail).catch((error) => error.code)
  await sleep(1000)
  const joined = idem.run(request, async () => {
    await assert.rejects(idem.run(request, assert.fail), { code: 'Reentrant' })
    await assert.rejects(idem.close(), { code: 'Reentrant' })
    return 'joined'
  })
  assert.equal(await leader, 'InProgress')
  free(new NotDone('it was not begun'))
  assert.equal(await held, 'NotDone')
  const reply = await joined
  assert.deepEqual([reply.value, reply.origin], ['joined', 'executed'])
  await Promise.all([elsewhere.close(), idem.close()])
  unlinkSync(`${home}.link`)
})
