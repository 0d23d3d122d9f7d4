// The correlation id of a request is in its work, in its messages, and in the database's own view of its transaction.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { correlation, Idempotency } from '../index.mjs'
import { onPostgres } from './support/libraries.mjs'
import { eventually, openOutbox } from './support/outbox.mjs'
import { startPostgres } from './support/postgres.mjs'
import { folder } from './support/processes.mjs'

let postgres
before(async () => {
  postgres = await startPostgres()
})
after(() => postgres.stop())

/** What is no id. */
const WRONG = ['', 'two words', 'é', 'line\n', 'c'.repeat(129), 7, null]
const invalid = (error) => {
  assert.equal(error.code, 'InvalidArgument')
  assert.match(error.message, /correlation id .*; (send|give) /)
  return true
}

test('an id is current in what runs under it, and in all that this begins', async () => {
  assert.equal(correlation.current(), undefined)
  const seen = await correlation.run('outer', async () => {
    await sleep(1)
    const inner = await correlation.run('inner', () => sleep(1).then(correlation.current))
    return [inner, correlation.current()]
  })
  assert.deepEqual(seen, ['inner', 'outer'])
  assert.equal(correlation.run('c'.repeat(128), () => 7), 7)
  assert.throws(() => correlation.run('c', () => { throw new RangeError('of the function') }), RangeError)
  assert.equal(correlation.current(), undefined)
  for (const id of WRONG) assert.throws(() => correlation.run(id, assert.fail), invalid)
  assert.throws(() => correlation.run('c'), /give a function/)
})

test('a module that is loaded anew has the same current id', () => {
  const require = createRequire(import.meta.url)
  for (const name of Object.keys(require.cache)) if (/oneflight-node.*\.js$/.test(name)) delete require.cache[name]
  const fresh = require('../index.js')
  assert.notEqual(fresh.correlation, correlation)
  assert.equal(correlation.run('c-1', () => fresh.correlation.current()), 'c-1')
})

test('the work has the id of its call, or that of its request', async () => {
  const idem = await Idempotency.open('memory:correlation')
  const ids = async (context) => {
    await sleep(1)
    return [context.correlationId ?? null, correlation.current() ?? null]
  }
  const ask = (request) => idem.run({ scope: 's', ...request }, ids).then((reply) => reply.value)
  assert.deepEqual(await ask({ key: 'none' }), [null, null])
  assert.deepEqual(await correlation.run('c-1', () => ask({ key: 'current' })), ['c-1', 'c-1'])
  assert.deepEqual(await ask({ key: 'own', correlationId: 'c-2' }), ['c-2', 'c-2'])
  assert.deepEqual(await correlation.run('c-1', () => ask({ key: 'both', correlationId: 'c-2' })), ['c-2', 'c-2'])
  // It is no part of the request.
  const duplicates = ['c-3', 'c-4'].map((id) => correlation.run(id, () => ask({ key: 'duplicates' })))
  assert.deepEqual(await Promise.all(duplicates), [['c-3', 'c-3'], ['c-3', 'c-3']])
  assert.equal((await idem.status({ scope: 's', key: 'none', correlationId: 'c-5' })).state, 'completed')
  for (const id of WRONG) await assert.rejects(ask({ key: 'wrong', correlationId: id }), invalid)
  await idem.close()
})

for (const [name, open] of Object.entries(onPostgres)) {
  describe(`the transaction of a request, in ${name} on PostgreSQL,`, () => {
    /** Has what libraries take for placeholders, and quotes. */
    const ID = `c-$1?'"${'x'.repeat(70)}`
    let library
    let idem
    let client
    before(async () => {
      idem = await Idempotency.open(postgres.url, { connections: 2 })
      library = open(postgres.url)
      client = new pg.Client(postgres.url)
      await client.connect()
      await client.query('CREATE TABLE IF NOT EXISTS orders (id serial PRIMARY KEY, item text NOT NULL)')
    })
    after(async () => {
      await Promise.all([client.end(), library.close(), idem.close()])
    })
    const named = async (id) => {
      const asked = 'SELECT count(*)::int AS count FROM pg_stat_activity WHERE application_name = $1'
      return (await client.query(asked, [id])).rows[0].count
    }

    test('is named by its id until it ends', async () => {
      const seen = []
      const ordered = (request, work) => library.transaction((its) => idem.runInTransaction(request, its.tx, () => work(its)))
      const looks = async (its) => {
        await its.insert('tea')
        seen.push(await named(ID.slice(0, 63)), correlation.current())
        return null
      }
      await correlation.run(ID, () => ordered({ scope: name, key: 'one' }, looks))
      await ordered({ scope: name, key: 'two', correlationId: ID }, looks)
      await ordered({ scope: name, key: 'three' }, looks)
      assert.deepEqual(seen, [1, ID, 1, ID, 0, undefined])
      assert.equal(await named(ID.slice(0, 63)), 0)
    })

    test('is called as before once its work was undone', async () => {
      await library.transaction(async (its) => {
        const fails = async () => {
          assert.equal(await named('c-undone'), 1)
          throw new Error('sold out')
        }
        const request = { scope: name, key: 'undone', correlationId: 'c-undone' }
        await assert.rejects(idem.runInTransaction(request, its.tx, fails), /sold out/)
        assert.equal(await named('c-undone'), 0)
      })
    })
  })
}

for (const [store, place] of Object.entries({ SQLite: () => [`sqlite:${folder()}/outbox.db`], PostgreSQL: () => [postgres.url, 'corr_'] })) {
  test(`a message on ${store} has the id of its request unless it has its own, and it is current while it is delivered`, async () => {
    const { idem, send, close } = await openOutbox(...place())
    const seen = {}
    const deliver = async (message) => {
      await sleep(1)
      seen[message.text()] = [message.correlationId, correlation.current()]
    }
    const relay = correlation.run('of-the-relay', () => idem.relay({ mail: deliver }, { leaseMs: 1000 }))
    await correlation.run('c-1', () =>
      send({ topic: 'mail', payload: 'request' }, { topic: 'mail', payload: 'own', correlationId: 'c-2' })
    )
    await send({ topic: 'mail', payload: 'none' })
    await eventually(() => Object.keys(seen).length === 3, 'all are delivered')
    assert.deepEqual(seen, { request: ['c-1', 'c-1'], own: ['c-2', 'c-2'], none: [undefined, undefined] })
    await relay.close()
    await close()
  })
}
