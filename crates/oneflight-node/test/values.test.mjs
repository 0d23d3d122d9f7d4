// What survives, and what is an error before it is recorded.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Idempotency, ValueNotJson, ValueNotKept, ValueTooLarge } from '../index.mjs'

const idem = await Idempotency.open('memory:values')
let key = 0
const request = () => ({ scope: 'values', key: `k${key++}` })

test('what JSON keeps is the same for the caller that executes and for a replay', async () => {
  const sparse = Object.create(null)
  sparse.a = 1
  const values = [
    null, true, 0, -1.5, 1e21, 5e-324, Number.MAX_SAFE_INTEGER, '', 'é\u2028\u0000"\\', '\ud800', [], {}, [[], {}],
    { a: [1, { b: null }], 'a b': 1, 2: 'two', 10: 'ten' }, JSON.parse('{"__proto__": {"x": 1}}'), 'x'.repeat(100_000)
  ]
  for (const value of values) {
    const of = request()
    const executed = await idem.run(of, () => value)
    const replayed = await idem.run(of, () => assert.fail('it was executed'))
    assert.deepEqual([executed.origin, replayed.origin], ['executed', 'replayed'])
    assert.deepStrictEqual(executed.value, value)
    assert.deepStrictEqual(replayed.value, value)
  }
  assert.deepStrictEqual((await idem.run(request(), () => sparse)).value, { a: 1 })
  assert.equal(Object.prototype.x, undefined)
})

test('work that returns nothing has the value undefined, in a replay too', async () => {
  const of = request()
  for (const origin of ['executed', 'replayed']) {
    const reply = await idem.run(of, async () => {})
    assert.deepEqual([reply.value, reply.origin], [undefined, origin])
  }
})

test('what JSON cannot keep is an error that names its place, and the work is not done again', async () => {
  const cycle = { items: [] }
  cycle.items.push({ order: cycle })
  let deep = 1
  for (let depth = 0; depth < 200; depth++) deep = [deep]
  const holes = [1, , 3]
  class Order {
    id = 1
  }
  const cases = [
    [1n, /\$ is a BigInt/],
    [{ items: [{}, {}, { price: 10n }] }, /\$\.items\[2\]\.price is a BigInt.*toString/],
    [{ a: undefined }, /\$\.a is undefined.*leave it out or give null/],
    [[undefined], /\$\[0\] is undefined/],
    [{ 'a b': NaN }, /\$\["a b"\] is NaN/],
    [[-Infinity], /\$\[0\] is -Infinity/],
    [new Date(), /\$ is a Date.*toISOString/],
    [{ m: new Map() }, /\$\.m is a Map/],
    [new Set(), /\$ is a Set/],
    [Buffer.from('x'), /\$ is a Buffer.*base64/],
    [new Uint8Array(1), /\$ is a Uint8Array/],
    [cycle, /\$\.items\[0\]\.order is part of itself/],
    [new Order(), /\$ is a Order/],
    [() => 1, /\$ is a function/],
    [Symbol('x'), /\$ is a symbol/],
    [{ [Symbol('x')]: 1 }, /\$ is an object with a symbol/],
    [holes, /holes/],
    [{ p: Promise.resolve(1) }, /\$\.p is a Promise.*await it/],
    [deep, /nested more than 127 deep/],
    [{ '$oneflight.error': 1 }, /another name/],
    [Object.defineProperty({}, 'x', { enumerable: true, get: () => { throw new Error('secret') } }), /getter/]
  ]
  for (const [value, message] of cases) {
    const of = request()
    await assert.rejects(idem.run(of, () => value), (error) => {
      assert.ok(error instanceof ValueNotJson, `${error}`)
      assert.equal(error.effect, 'done')
      assert.match(error.message, message)
      assert.match(error.message, /was done, and is not done again/)
      assert.doesNotMatch(error.message, /secret/)
      return true
    })
    await assert.rejects(idem.run(of, () => assert.fail('it was done again')), ValueNotKept)
  }
})

test('one object that stands twice is no cycle', async () => {
  const shared = { a: 1 }
  assert.deepEqual((await idem.run(request(), () => [shared, shared])).value, [{ a: 1 }, { a: 1 }])
})

test('a value that is too large is an error, and the work is not done again', async () => {
  const of = request()
  await assert.rejects(idem.run(of, () => 'x'.repeat(300_000)), (error) => {
    assert.ok(error instanceof ValueTooLarge)
    return true
  })
  await assert.rejects(idem.run(of, () => assert.fail('it was done again')), ValueTooLarge)
})
