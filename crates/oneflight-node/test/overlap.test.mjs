// Calls of one transaction that overlap: none loses rows without anybody being told, and one inside of another one is no overlap.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import Database from 'better-sqlite3'
import { CompiledQuery, Kysely, SqliteDialect } from 'kysely'
import pg from 'pg'
import { adapters, Idempotency, InvalidArgument } from '../index.mjs'
import { startPostgres } from './support/postgres.mjs'
import { folder } from './support/processes.mjs'

const request = (key) => ({ scope: 'shop', key })
const isOverlap = { code: 'InvalidArgument', effect: 'nothing', message: /under way in this transaction/ }

/** Two promises that a test resolves. */
function gates() {
  const gate = () => {
    let open
    const opened = new Promise((resolve) => (open = resolve))
    return { open, opened }
  }
  return { begun: gate(), go: gate() }
}

/**
 * What is the same for each way to a transaction. `begin` begins one, and returns `tx` for one call, `insert`, `count` and `commit`.
 * `isTold` says whether overlap is told for a duplicate as well, which writes nothing.
 */
function common(its, isTold) {
  /** Begins a call whose work writes two rows, with a pause between. */
  async function halfDone(transaction, key) {
    const { begun, go } = gates()
    const called = its.idem.runInTransaction(request(key), transaction.tx(), async () => {
      await transaction.insert(key)
      begun.open()
      await go.opened
      await transaction.insert(key)
      return 'done'
    })
    await begun.opened
    return { called, go: go.open }
  }

  test('a duplicate beside an execution undoes nothing of it', async () => {
    await its.idem.run(request('known'), () => 'known')
    const transaction = await its.begin()
    const { called, go } = await halfDone(transaction, 'first')
    const duplicate = its.idem.runInTransaction(request('known'), transaction.tx(), assert.fail)
    if (isTold) await assert.rejects(duplicate, isOverlap)
    else assert.equal((await duplicate).value, 'known')
    go()
    assert.equal((await called).origin, 'executed')
    await transaction.commit()
    assert.equal(await its.count('first'), 2)
    assert.equal((await its.idem.status(request('first'))).state, 'completed')
  })

  test('of two executions that overlap the second is an error, and the first one keeps its rows', async () => {
    const transaction = await its.begin()
    const { called, go } = await halfDone(transaction, 'holds')
    const work = async () => {
      await transaction.insert('overlaps')
      throw new Error('its rollback')
    }
    await assert.rejects(its.idem.runInTransaction(request('overlaps'), transaction.tx(), work), isOverlap)
    // The same key is no other one: the lock is that of the connection.
    await assert.rejects(its.idem.runInTransaction(request('holds'), transaction.tx(), work), isOverlap)
    go()
    assert.equal((await called).origin, 'executed')
    await transaction.commit()
    assert.deepEqual([await its.count('holds'), await its.count('overlaps')], [2, 0])
    assert.deepEqual(await its.idem.status(request('overlaps')), { state: 'absent' })
  })

  test('of two that begin at once no row is without its record, and no record without its rows', async () => {
    const transaction = await its.begin()
    const keys = ['left', 'right']
    const place = (key) => its.idem.runInTransaction(request(key), transaction.tx(), () => transaction.insert(key).then(() => key))
    const calls = await Promise.allSettled(keys.map(place))
    await transaction.commit()
    assert.ok(calls.some((it) => it.status === 'rejected'))
    for (const [at, { status, reason }] of calls.entries()) {
      const isDone = status === 'fulfilled'
      if (!isDone) assert.match(reason.message, /under way in this transaction|one call at a time/)
      assert.equal(await its.count(keys[at]), isDone ? 1 : 0)
      assert.equal((await its.idem.status(request(keys[at]))).state, isDone ? 'completed' : 'absent')
    }
  })

  test('a call in the work of another one is undone by itself, or recorded with it', async () => {
    const transaction = await its.begin()
    const reply = await its.idem.runInTransaction(request('outer'), transaction.tx(), async () => {
      await transaction.insert('outer')
      const fails = async () => {
        await transaction.insert('fails')
        throw new Error('sold out')
      }
      await assert.rejects(its.idem.runInTransaction(request('fails'), transaction.tx(), fails), /sold out/)
      const inner = await its.idem.runInTransaction(request('inner'), transaction.tx(), async () => {
        const deepest = () => transaction.insert('deepest')
        await its.idem.runInTransaction(request('deepest'), transaction.tx(), () => deepest().then(() => {}))
        return 'inner'
      })
      await transaction.insert('outer')
      return inner.value
    })
    assert.equal(reply.value, 'inner')
    await transaction.commit()
    assert.deepEqual([await its.count('outer'), await its.count('fails'), await its.count('deepest')], [2, 0, 1])
    for (const [key, state] of Object.entries({ outer: 'completed', inner: 'completed', deepest: 'completed', fails: 'absent' })) {
      assert.equal((await its.idem.status(request(key))).state, state, key)
    }
  })

  test('work that ends before a call inside of it is an error, and nothing is kept', async () => {
    const transaction = await its.begin()
    let inner
    const forgets = async () => {
      await transaction.insert('forgets')
      const { called, go } = await halfDone(transaction, 'forgotten')
      inner = called
      setTimeout(go, 20)
    }
    const outer = its.idem.runInTransaction(request('forgets'), transaction.tx(), forgets)
    await assert.rejects(outer, { code: 'InvalidArgument', message: /ended before a call that it had made/ })
    assert.equal((await inner).origin, 'executed')
    await transaction.commit()
    assert.deepEqual([await its.count('forgets'), await its.count('forgotten')], [0, 0])
    for (const key of ['forgets', 'forgotten']) assert.deepEqual(await its.idem.status(request(key)), { state: 'absent' })
  })
}

describe('on PostgreSQL', () => {
  let server
  let pool
  before(async () => {
    server = await startPostgres()
    pool = new pg.Pool({ connectionString: server.url, max: 4 })
    await pool.query('CREATE TABLE orders (item text NOT NULL)')
  })
  after(async () => {
    await pool.end()
    server.stop()
  })

  const own = (client) => (sql, parameters) => client.query(sql, parameters).then((it) => it.rows)
  const ways = { 'the adapter': [(client) => adapters.pg(client), true], 'a function for each call': [own, false] }
  for (const [way, [adapted, isTold]] of Object.entries(ways)) {
    describe(`by ${way}`, () => {
      const its = {
        count: async (item) => Number((await pool.query('SELECT count(*) AS count FROM orders WHERE item = $1', [item])).rows[0].count),
        async begin() {
          const client = await pool.connect()
          await client.query('BEGIN')
          return {
            tx: () => adapted(client),
            insert: (item) => client.query('INSERT INTO orders VALUES ($1)', [item]),
            async commit() {
              await client.query('COMMIT')
              client.release()
            }
          }
        }
      }
      before(async () => {
        await pool.query('DELETE FROM orders')
        its.idem = await Idempotency.open(server.url, { prefix: `way_${isTold}_` })
      })
      after(() => its.idem.close())
      common(its, isTold)
    })
  }

  test('nothing of a call is left in the transaction, and its savepoints have one text', async () => {
    const idem = await Idempotency.open(server.url, { prefix: 'left_' })
    const client = await pool.connect()
    const said = []
    const tx = (sql, parameters) => {
      if (/SAVEPOINT/.test(sql)) said.push(sql)
      return own(client)(sql, parameters)
    }
    const outcomes = { done: () => 'done', fails: () => Promise.reject(new Error('sold out')), 'done-too': () => 'done' }
    for (const [key, work] of Object.entries(outcomes)) {
      await client.query('BEGIN')
      await idem.runInTransaction(request(key), tx, work).catch((error) => assert.match(error.message, /sold out/))
      // All that follows would be in a transaction inside of the user's.
      await assert.rejects(client.query('ROLLBACK TO SAVEPOINT oneflight_1'), { code: '3B001' })
      await client.query('ROLLBACK')
    }
    assert.deepEqual([...new Set(said)], ['SAVEPOINT oneflight_1', 'RELEASE SAVEPOINT oneflight_1', 'ROLLBACK TO SAVEPOINT oneflight_1'])
    said.length = 0
    await client.query('BEGIN')
    assert.equal((await idem.runInTransaction(request('done'), tx, () => 'done')).origin, 'executed')
    said.length = 0
    assert.equal((await idem.runInTransaction(request('done'), tx, assert.fail)).origin, 'replayed')
    assert.deepEqual(said, [])
    await client.query('COMMIT')
    client.release()
    await idem.close()
  })
})

describe('on SQLite', () => {
  const one = (run) => {
    const tx = (sql, parameters) => run(sql, parameters)
    return () => tx
  }
  const run = (trx) => async (sql, parameters) => (await trx.executeQuery(CompiledQuery.raw(sql, parameters))).rows
  const ways = { 'the adapter': (trx) => () => adapters.kysely(trx, CompiledQuery), 'a function for the transaction': (trx) => one(run(trx)) }
  for (const [way, adapted] of Object.entries(ways)) {
    describe(`by ${way}`, () => {
      const its = {}
      let database
      let db
      before(async () => {
        const file = `${folder()}/orders.db`
        its.idem = await Idempotency.open(`sqlite:${file}`)
        database = new Database(file)
        database.exec('CREATE TABLE orders (item text NOT NULL)')
        its.count = (item) => database.prepare('SELECT count(*) AS count FROM orders WHERE item = ?').get(item).count
        db = new Kysely({ dialect: new SqliteDialect({ database: new Database(file) }) })
        its.begin = async () => {
          const trx = await db.startTransaction().execute()
          return {
            tx: adapted(trx),
            insert: (item) => trx.insertInto('orders').values({ item }).execute(),
            commit: () => trx.commit().execute()
          }
        }
      })
      after(async () => {
        await db.destroy()
        database.close()
        await its.idem.close()
      })
      common(its, true)
    })
  }

  test('a call beside a synchronous one is refused as well', async () => {
    const file = `${folder()}/orders.db`
    const idem = await Idempotency.open(`sqlite:${file}`)
    const db = new Database(file)
    db.exec('CREATE TABLE orders (item text NOT NULL)')
    const tx = adapters.betterSqlite3(db)
    db.exec('BEGIN IMMEDIATE')
    const { begun, go } = gates()
    const held = idem.runInTransaction(request('async'), tx, async () => {
      begun.open()
      await go.opened
      return 'done'
    })
    await begun.opened
    assert.throws(() => idem.runInTransactionSync(request('sync'), tx, () => 'done'), InvalidArgument)
    go.open()
    await held
    db.exec('COMMIT')
    assert.deepEqual([(await idem.status(request('async'))).state, (await idem.status(request('sync'))).state], ['completed', 'absent'])
    db.close()
    await idem.close()
  })
})
