// `runInTransaction` in the transactions of real drivers and libraries: record and rows in one commit.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import pg from 'pg'
import { adapters, Idempotency, InProgress, InvalidArgument, KeyReused, Reentrant, TransactionEnded } from '../index.mjs'
import { onPostgres, onSqlite } from './support/libraries.mjs'
import { startPostgres } from './support/postgres.mjs'
import { folder } from './support/processes.mjs'
import { startProxy } from './support/proxy.mjs'
import { underWay } from './support/under-way.mjs'

const ORDERS = {
  PostgreSQL: 'CREATE TABLE orders (id serial PRIMARY KEY, item text NOT NULL)',
  SQLite: 'CREATE TABLE orders (id integer PRIMARY KEY AUTOINCREMENT, item text NOT NULL)'
}

/** What a test is about: a key, which is the item as well. */
const request = (key) => ({ scope: 'shop', key, fingerprint: { item: key } })

/** Goes on at once where there is nothing to wait for. */
const then = (value, next) => (typeof value?.then === 'function' ? value.then(next) : next(value))

/** Work that writes one row. */
const placing = (item) => (its) => then(its.insert(item), () => ({ item }))

/** Runs work in the transaction that a library has begun. */
function call(library, idem, asked, its, work) {
  const run = library.atOnce ? idem.runInTransactionSync : idem.runInTransaction
  return run.call(idem, asked, its.tx, (context) => work(its, context))
}

/** Runs work in a transaction of its own. */
async function ordered(library, idem, asked, work, isolation) {
  return library.transaction((its) => call(library, idem, asked, its, work), isolation)
}

/** The user's loop: again while it is in progress elsewhere, and after what `isRetried` says. */
async function insisting(attempt, isRetried = () => false) {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt()
    } catch (error) {
      if (tries === 100 || !(error instanceof InProgress || isRetried(error))) throw error
      await sleep(20)
    }
  }
}

/** Whether PostgreSQL has refused a statement of the work for another transaction, in the words of whichever library. */
function isConflict(error) {
  return /could not serialize|write conflict|40001|P2034/.test(`${error.code} ${error.message} ${error.cause?.message}`)
}

/** Whether it has refused one of ours: what the users of each library look for. */
const isConflictOf = {
  pg: (error) => error.code === '40001',
  drizzle: (error) => error.cause?.code === '40001',
  kysely: (error) => error.code === '40001',
  prisma: (error) => error.code === 'P2034'
}

/** What a call threw, before the library's own rollback. */
async function thrownIn(library, idem, asked, work) {
  let thrown
  await Promise.resolve()
    .then(() =>
      library.transaction((its) => {
        const called = () => call(library, idem, asked, its, work)
        const caught = (error) => {
          thrown = error
          throw error
        }
        if (!library.atOnce) return called().catch(caught)
        try {
          return called()
        } catch (error) {
          return caught(error)
        }
      })
    )
    .catch(() => {})
  return thrown
}

/** What all libraries have in common. */
function common(its) {
  test('record and row are in one commit, and a duplicate is a replay', async () => {
    const { library, idem, count } = its
    const first = await ordered(library, idem, request('one'), placing('one'))
    assert.deepEqual(first, { value: { item: 'one' }, cached: false, declined: false, origin: 'executed', attempt: 1 })
    const second = await ordered(library, idem, request('one'), () => assert.fail('it was run again'))
    assert.deepEqual(second, { value: { item: 'one' }, cached: true, declined: false, origin: 'replayed', attempt: 1 })
    assert.equal((await idem.run(request('one'), () => assert.fail('it was run again'))).origin, 'replayed')
    assert.equal(await count('one'), 1)
    const other = { ...request('one'), fingerprint: { item: 'another' } }
    await assert.rejects(ordered(library, idem, other, () => assert.fail('it was run')), KeyReused)
  })

  test('what work outside of a transaction did is replayed in one', async () => {
    const { library, idem } = its
    await idem.run(request('outside'), () => 'done')
    assert.equal((await ordered(library, idem, request('outside'), () => assert.fail('it was run'))).value, 'done')
    await assert.rejects(idem.run(request('thrower'), () => Promise.reject(new RangeError('sold out'))), RangeError)
    await assert.rejects(ordered(library, idem, request('thrower'), () => assert.fail('it was run')), { name: 'RangeError' })
  })

  test('work that throws leaves nothing, and its key is free', async () => {
    const { library, idem, count } = its
    const failure = new Error('sold out')
    const fails = (it) =>
      then(it.insert('fails'), () => {
        throw failure
      })
    assert.equal(await thrownIn(library, idem, request('fails'), fails), failure)
    assert.equal(await count('fails'), 0)
    assert.deepEqual(await idem.status(request('fails')), { state: 'absent' })
    assert.equal((await ordered(library, idem, request('fails'), placing('fails'))).origin, 'executed')
    assert.equal(await count('fails'), 1)
  })

  test('work that throws leaves nothing, where its error is caught and the transaction committed', async () => {
    const { library, idem, count } = its
    await library.transaction((it) => {
      const fails = () =>
        then(it.insert('caught'), () => {
          throw new Error('sold out')
        })
      const goesOn = () => it.insert('beside')
      if (!library.atOnce) return call(library, idem, request('caught'), it, fails).then(assert.fail, goesOn).then(() => {})
      assert.throws(() => call(library, idem, request('caught'), it, fails), /sold out/)
      goesOn()
    })
    assert.deepEqual([await count('caught'), await count('beside')], [0, 1])
    assert.deepEqual(await idem.status(request('caught')), { state: 'absent' })
  })

  test('a value that is not JSON, or too large, leaves nothing', async () => {
    const { library, idem, count } = its
    const notJson = (it) => then(it.insert('values'), () => ({ at: new Date() }))
    await assert.rejects(ordered(library, idem, request('values'), notJson), (error) => {
      assert.deepEqual([error.code, error.effect, error.path], ['ValueNotJson', 'nothing', '$.at'])
      return true
    })
    const tooLarge = (it) => then(it.insert('values'), () => 'x'.repeat(300_000))
    await assert.rejects(ordered(library, idem, request('values'), tooLarge), { code: 'ValueTooLarge', effect: 'nothing' })
    assert.equal(await count('values'), 0)
    const nothing = await ordered(library, idem, request('values'), () => undefined)
    assert.equal(nothing.value, undefined)
    assert.equal((await ordered(library, idem, request('values'), assert.fail)).value, undefined)
  })

  test('the work knows its request', async () => {
    const { library, idem } = its
    const told = (_, context) => [context.key, context.scope, context.attempt, context.downstreamKey('charge')]
    const { value } = await ordered(library, idem, request('context'), told)
    assert.deepEqual(value.slice(0, 3), ['context', { namespace: 'shop' }, 1])
    assert.match(value[3], /^[0-9a-f]{64}$/)
  })

  for (const end of ['COMMIT', 'ROLLBACK']) {
    test(`work that says ${end} is TransactionEnded, and the request in doubt`, async () => {
      const { library, idem, count } = its
      const key = `ends-${end}`
      const ends = (it) => then(then(it.insert(key), () => it.say(end)), () => 'done')
      const thrown = await thrownIn(library, idem, request(key), ends)
      assert.ok(thrown instanceof TransactionEnded, `it threw ${thrown}`)
      assert.equal(thrown.effect, 'unknown')
      assert.match(thrown.message, /the work ended the transaction/)
      await its.settled?.()
      assert.equal(await count(key), end === 'COMMIT' ? 1 : 0)
      assert.equal((await idem.status(request(key))).state, 'inDoubt')
      await assert.rejects(ordered(library, idem, request(key), () => assert.fail('it was run again')), { code: 'InDoubt' })
      assert.equal(await idem.resolve(request(key), { completed: 'found' }), 'recorded')
      assert.equal((await ordered(library, idem, request(key), assert.fail)).value, 'found')
    })
  }

  test('the client itself in place of its transaction is an error, and nothing is written', async () => {
    const { library, idem } = its
    const run = library.atOnce ? idem.runInTransactionSync : idem.runInTransaction
    const outside = async () => run.call(idem, request('outside-of-any'), library.outside(), () => assert.fail('it was run'))
    await assert.rejects(outside, (error) => {
      // `pg` has no adapter for a pool: the store finds that out.
      assert.equal(error.code, 'InvalidArgument')
      assert.match(error.message, its.isPool ? /in one transaction/ : /is no transaction/)
      assert.equal(error.effect, 'nothing')
      return true
    })
    assert.deepEqual(await idem.status(request('outside-of-any')), { state: 'absent' })
  })

  test('work that calls for its own key is Reentrant', async () => {
    const { library, idem, count } = its
    const inner = (it) => call(library, idem, request('reentrant'), it, placing('reentrant'))
    await assert.rejects(ordered(library, idem, request('reentrant'), inner), Reentrant)
    assert.equal(await count('reentrant'), 0)
  })

  test('messages of the outbox are in the commit, under keys that are derived from the request', async () => {
    const { library, idem, messages } = its
    const mailing = (it, context) => {
      const mail = () => context.send({ topic: 'mail', payload: { order: 7 }, headers: { to: 'a@b' }, orderingKey: 'order-7' })
      const text = () => context.send({ topic: 'mail', payload: 'é', delayMs: 60_000, correlationId: 'c-1' })
      return then(mail(), (first) => then(text(), (second) => [first, second, context.downstreamKey('message 1 of mail')]))
    }
    const failing = (it, context) =>
      then(mailing(it, context), () => {
        throw new Error('sold out')
      })
    await assert.rejects(ordered(library, idem, request('mails'), failing), /sold out/)
    assert.deepEqual(await messages(), [])
    const [first, second, key] = (await ordered(library, idem, request('mails'), mailing)).value
    assert.deepEqual([first.isDuplicate, second.isDuplicate], [false, false])
    const sent = await messages()
    assert.deepEqual(sent.map((it) => it.id), [first.id, second.id])
    assert.deepEqual(
      sent.map((it) => [it.topic, it.content_type, it.ordering_key, it.correlation_id, String(it.payload)]),
      [
        ['mail', 'application/json', 'order-7', null, '{"order":7}'],
        ['mail', 'text/plain; charset=utf-8', null, 'c-1', 'é']
      ]
    )
    assert.equal(sent[0].key, key)
    assert.equal(sent[0].headers, 'to\u001fa@b\n')
    const again = (it, context) => context.send({ topic: 'bill', key: 'k', payload: Buffer.from([0, 255]) })
    assert.equal((await ordered(library, idem, request('bill'), again)).value.isDuplicate, false)
    assert.equal((await ordered(library, idem, request('bill-again'), again)).value.isDuplicate, true)
    assert.deepEqual((await messages()).map((it) => it.topic), ['mail', 'mail', 'bill'])
  })

  test('a message that is not valid is an error, and nothing is sent', async () => {
    const { library, idem } = its
    for (const [message, why] of [
      [{ topic: '', payload: 1 }, /empty/],
      [{ topic: 'a*', payload: 1 }, /asterisk/],
      [{ topic: 'a', payload: new Date() }, /Date/],
      [{ topic: 'a', payload: 1, subject: 's' }, /`subject`/],
      [{ topic: 'a', payload: 1, traceParent: 't' }, /traceparent/]
    ]) {
      const sends = (it, context) => context.send(message)
      await assert.rejects(ordered(library, idem, request('invalid'), sends), (error) => {
        assert.equal(error.code, 'InvalidArgument')
        assert.match(error.message, why)
        return true
      })
    }
  })

  test('several requests in one transaction are each recorded', async () => {
    const { library, idem, count } = its
    await library.transaction((it) => {
      const second = () => call(library, idem, request('second'), it, placing('second'))
      return then(call(library, idem, request('first'), it, placing('first')), () => then(second(), () => {}))
    })
    assert.deepEqual([await count('first'), await count('second')], [1, 1])
    for (const key of ['first', 'second']) assert.equal((await idem.status(request(key))).state, 'completed')
  })
}

/** What only calls that wait can do. */
function waiting(its) {
  test('duplicates at once are one row, with fewer connections than calls', async () => {
    const { library, idem, count } = its
    const slowly = async (it) => {
      await sleep(5)
      return placing('storm')(it)
    }
    const calls = Array.from({ length: 20 }, () => insisting(() => ordered(library, idem, request('storm'), slowly)))
    const origins = (await Promise.all(calls)).map((it) => it.origin)
    assert.equal(origins.filter((it) => it === 'executed').length, 1)
    assert.equal(await count('storm'), 1)
  })

  test('a message that nobody waits for is sent with the commit, or fails the work', async () => {
    const { library, idem, count, messages } = its
    const before = (await messages()).length
    const forgets = (message) => (it, context) => {
      void context.send(message)
      return 'done'
    }
    const invalid = { topic: 'a*', payload: 1 }
    await assert.rejects(ordered(library, idem, request('forgets'), forgets(invalid)), { code: 'InvalidArgument' })
    const later = async (it, context) => {
      await it.insert('forgets')
      void context.send(invalid)
      await it.insert('forgets')
    }
    await assert.rejects(ordered(library, idem, request('forgets'), later), { code: 'InvalidArgument' })
    assert.deepEqual([await count('forgets'), (await messages()).length], [0, before])
    assert.deepEqual(await idem.status(request('forgets')), { state: 'absent' })

    await ordered(library, idem, request('forgets'), forgets({ topic: 'forgotten', payload: 1 }))
    assert.deepEqual((await messages()).slice(before).map((it) => it.topic), ['forgotten'])
    const handles = (it, context) => context.send(invalid).catch((error) => error.code)
    assert.equal((await ordered(library, idem, request('handles'), handles)).value, 'InvalidArgument')
  })
}

/** What Prisma does that others don't: it ends a transaction that takes too long. */
function timing(its) {
  test('a transaction that its library has ended is the error of the library, and nothing was done', async () => {
    const { library, idem, count } = its
    let thrown
    const late = async (it) => {
      await it.insert('late')
      await sleep(400)
      return 'done'
    }
    const attempt = library.transaction(
      (it) => call(library, idem, request('late'), it, late).catch((error) => Promise.reject((thrown = error))),
      undefined,
      100
    )
    await assert.rejects(attempt)
    assert.equal(thrown.code, 'P2028', `it threw ${thrown}`)
    assert.equal(await count('late'), 0)
    assert.deepEqual(await idem.status(request('late')), { state: 'absent' })
    assert.equal((await ordered(library, idem, request('late'), placing('late'))).origin, 'executed')
  })
}

describe('on PostgreSQL', () => {
  let server
  let proxy
  let client
  before(async () => {
    server = await startPostgres()
    proxy = await startProxy(server.url)
    client = new pg.Client(server.url)
    await client.connect()
  })
  after(async () => {
    await client.end()
    proxy.stop()
    server.stop()
  })

  for (const [name, open] of Object.entries(onPostgres)) {
    describe(name, () => {
      const its = {
        messages: async () => {
          const columns = 'id, topic, key, ordering_key, content_type, correlation_id, headers, payload'
          const of = (table) => `SELECT ${columns} FROM ${name}_${table}`
          return (await client.query(`${of('messages')} UNION ALL ${of('parked')} ORDER BY id`)).rows
        },
        count: async (item) => Number((await client.query('SELECT count(*) FROM orders WHERE item = $1', [item])).rows[0].count)
      }
      before(async () => {
        await client.query(`DROP TABLE IF EXISTS orders; ${ORDERS.PostgreSQL}`)
        its.idem = await Idempotency.open(server.url, { prefix: `${name}_`, waitMs: 300, connections: 3 })
        its.library = open(server.url)
        its.isPool = name === 'pg'
      })
      after(async () => {
        await its.library.close()
        await its.idem.close()
      })

      common(its)
      waiting(its)
      if (name === 'prisma') timing(its)

      test('calls outside and inside of a transaction exclude each other', async () => {
        const { library, idem, count } = its
        const inside = await ordered(library, idem, request('inside'), async (it) => {
          await assert.rejects(idem.run({ ...request('inside') }, assert.fail), Reentrant)
          return placing('inside')(it)
        })
        assert.equal(inside.origin, 'executed')
        let go
        const going = new Promise((resolve) => (go = resolve))
        let begun
        const begins = new Promise((resolve) => (begun = resolve))
        const held = ordered(library, idem, request('excluded'), async (it) => {
          begun()
          await going
          return placing('excluded')(it)
        })
        await begins
        await assert.rejects(idem.run(request('excluded'), assert.fail), InProgress)
        await assert.rejects(ordered(library, idem, request('excluded'), assert.fail), (error) => {
          assert.equal(error.code, 'InProgress')
          assert.ok(error.retryAfterMs > 0)
          return true
        })
        go()
        await held
        assert.equal((await idem.run(request('excluded'), assert.fail)).origin, 'replayed')
        await idem.run(request('turned'), async () => {
          await assert.rejects(ordered(library, idem, { ...request('turned') }, assert.fail), Reentrant)
        })
        assert.equal(await count('excluded'), 1)
      })

      test('a serialization failure is the driver’s own error, and the loop runs the work again', async () => {
        const { library, idem, count } = its
        let runs = 0
        const conflicting = async (it) => {
          runs++
          await it.read()
          if (runs === 1) await client.query("UPDATE orders SET item = 'met' WHERE item = 'meets'")
          await it.say("UPDATE orders SET item = item || '!' WHERE item IN ('meets', 'met')")
          return placing('serial')(it)
        }
        await client.query("INSERT INTO orders (item) VALUES ('meets')")
        const again = () => ordered(library, idem, request('serial'), conflicting, 'REPEATABLE READ')
        const reply = await insisting(again, isConflict)
        assert.deepEqual([reply.origin, reply.attempt, runs], ['executed', 1, 2])
        assert.equal(await count('serial'), 1)
        assert.equal((await insisting(again, isConflict)).origin, 'replayed')
      })

      test('two that begin at once above READ COMMITTED are one row', async () => {
        const { library, idem, count } = its
        // The first has committed when the second, whose snapshot is older, tries the lock.
        const late = insisting(
          () =>
            library.transaction(async (it) => {
              await it.read()
              await ordered(library, idem, request('snapshot'), placing('snapshot')).catch(() => {})
              return call(library, idem, request('snapshot'), it, placing('snapshot'))
            }, 'SERIALIZABLE'),
          isConflictOf[name]
        )
        assert.equal((await late).origin, 'replayed')
        assert.equal(await count('snapshot'), 1)
      })

      for (const when of ['before', 'after']) {
        test(`a commit whose answer is lost, ${when} it was done, is executed once`, async () => {
          const { idem, count } = its
          const key = `lost-${when}`
          const library = open(proxy.url)
          const lost = proxy.lose(when)
          await assert.rejects(ordered(library, idem, request(key), placing(key)))
          await lost
          const isLost = (error) => !(error instanceof assert.AssertionError) && error.code !== 'KeyReused'
          const reply = await insisting(() => ordered(library, idem, request(key), placing(key)), isLost)
          assert.equal(reply.origin, when === 'before' ? 'executed' : 'replayed')
          assert.deepEqual(reply.value, { item: key })
          assert.equal(await count(key), 1)
          await library.close()
        })
      }
    })
  }

  test('work that commits and then throws is TransactionEnded, with what it threw as the cause', async () => {
    const idem = await Idempotency.open(server.url, { prefix: 'both_' })
    const library = onPostgres.pg(server.url)
    const thrown = await thrownIn(library, idem, request('both'), async (it) => {
      await it.insert('both')
      await it.say('COMMIT')
      throw new RangeError('too late')
    })
    assert.deepEqual([thrown.code, thrown.cause.message], ['TransactionEnded', 'too late'])
    assert.equal((await idem.status(request('both'))).held, true)
    await library.close()
    await idem.close()
  })

  test('a client outside of a transaction is an error, for a request that was done as well', async () => {
    const idem = await Idempotency.open(server.url, { prefix: 'none_' })
    const tx = adapters.pg(client)
    await assert.rejects(idem.runInTransaction(request('none'), tx, assert.fail), { code: 'InvalidArgument', effect: 'nothing' })
    assert.deepEqual(await idem.status(request('none')), { state: 'absent' })
    await idem.run(request('none'), () => 'done')
    await assert.rejects(idem.runInTransaction(request('none'), tx, assert.fail), /in one transaction/)
    await idem.close()
  })

  test('a store that is closed after a call in a transaction has no connection open', async () => {
    const url = new URL(server.url)
    url.searchParams.set('application_name', 'closing')
    const library = onPostgres.pg(server.url)
    const idem = await Idempotency.open(url, { prefix: 'closing_' })
    await client.query(`CREATE TABLE IF NOT EXISTS orders (id serial PRIMARY KEY, item text NOT NULL)`)
    await ordered(library, idem, request('closing'), placing('closing'))
    await idem.close()
    const open = async () => {
      const { rows } = await client.query("SELECT count(*) AS count FROM pg_stat_activity WHERE application_name = 'closing'")
      return Number(rows[0].count)
    }
    // The server has been told, and may be busy still.
    for (let tries = 0; tries < 40 && (await open()) > 0; tries++) await sleep(50)
    assert.equal(await open(), 0)
    await library.close()
  })

  test('stores with tables of their own do not wait for each other, and a scheme has no case', async () => {
    const one = await Idempotency.open(server.url.replace('postgres:', 'Postgres:'), { prefix: 'one_' })
    const other = await Idempotency.open(server.url, { prefix: 'other_' })
    const { value } = await one.run(request('passed-on'), async () => (await other.run(request('passed-on'), () => 'inner')).value)
    assert.equal(value, 'inner')
    await Promise.all([one.close(), other.close()])
  })

  test('an error in the work that is swallowed is the server’s error, and leaves nothing', async () => {
    const idem = await Idempotency.open(server.url, { prefix: 'swallowed_' })
    const library = onPostgres.pg(server.url)
    const swallowing = async (it) => {
      await it.insert('swallowed')
      await it.say('SELECT 1 / 0').catch(() => {})
    }
    await assert.rejects(ordered(library, idem, request('swallowed'), swallowing), { code: '25P02' })
    assert.deepEqual(await idem.status(request('swallowed')), { state: 'absent' })
    await library.close()
    await idem.close()
  })
})

describe('on SQLite', () => {
  for (const [name, open] of Object.entries(onSqlite)) {
    describe(name, () => {
      const its = {}
      let client
      before(async () => {
        const file = `${folder()}/orders.db`
        its.url = `sqlite:${file}`
        its.idem = await Idempotency.open(its.url, { waitMs: 300 })
        client = new Database(file)
        client.exec(ORDERS.SQLite)
        its.count = (item) => client.prepare('SELECT count(*) AS count FROM orders WHERE item = ?').get(item).count
        const read = client.prepare('SELECT CAST(id AS TEXT) AS id, topic, key, ordering_key, content_type, correlation_id, headers, payload FROM oneflight_messages ORDER BY oneflight_messages.id')
        its.messages = () => read.all()
        its.library = open(file)
        // Where the call could not wait for it, it is still to be written that the request is in doubt.
        if (its.library.atOnce) its.settled = () => sleep(200)
      })
      after(async () => {
        await its.library.close()
        client.close()
        await its.idem.close()
      })

      common(its)
      if (name === 'kysely' || name === 'prisma') waiting(its)
      if (name === 'prisma') timing(its)

      test('calls outside of a transaction and inside of one exclude each other', async () => {
        const { library, idem, count } = its
        const { called: running } = await underWay((begun) =>
          idem.run(request('excluded'), () => {
            begun()
            return sleep(100, 'outside')
          })
        )
        await assert.rejects(ordered(library, idem, request('excluded'), assert.fail), InProgress)
        await running
        assert.equal((await ordered(library, idem, request('excluded'), assert.fail)).value, 'outside')
        assert.equal(count('excluded'), 0)
      })
    })
  }

  test('a transaction that lost its snapshot is the driver’s own error, and the loop runs the work again', async () => {
    const file = `${folder()}/orders.db`
    const idem = await Idempotency.open(`sqlite:${file}`)
    const [one, other] = [new Database(file), new Database(file)]
    one.exec(ORDERS.SQLite)
    let tries = 0
    const library = onSqlite['better-sqlite3'](file)
    const attempt = async () =>
      library.transaction((it) => {
        it.read()
        if (tries++ === 0) other.exec("INSERT INTO orders (item) VALUES ('meets')")
        return call(library, idem, request('snapshot'), it, placing('snapshot'))
      }, 'deferred')
    const reply = await insisting(attempt, (error) => error.code === 'SQLITE_BUSY_SNAPSHOT')
    assert.deepEqual([reply.origin, tries], ['executed', 2])
    assert.equal(one.prepare("SELECT count(*) AS count FROM orders WHERE item = 'snapshot'").get().count, 1)
    library.close()
    one.close()
    other.close()
    await idem.close()
  })

  test('a transaction on another file is an error, and nothing is written', async () => {
    const home = folder()
    const idem = await Idempotency.open(`sqlite:${home}/one.db`)
    const beside = await Idempotency.open(`sqlite:${home}/other.db`)
    const library = onSqlite['better-sqlite3'](`${home}/other.db`)
    await assert.rejects(ordered(library, idem, request('file'), assert.fail), (error) => {
      assert.deepEqual([error.code, error.effect], ['InvalidArgument', 'nothing'])
      assert.match(error.message, /another file/)
      return true
    })
    library.close()
    await Promise.all([idem.close(), beside.close()])
  })

  test('work that answers with a promise is undone where nothing waits for it', async () => {
    const file = `${folder()}/orders.db`
    const idem = await Idempotency.open(`sqlite:${file}`)
    const library = onSqlite['better-sqlite3'](file)
    const calls = (work) => async () => library.transaction((it) => idem.runInTransactionSync(request('promise'), it.tx, work))
    let begun = 0
    const goesOn = async () => {
      begun++
      await sleep(1)
      begun++
    }
    await assert.rejects(calls(goesOn), { code: 'InvalidArgument', effect: 'nothing', message: /the work is async/ })
    await sleep(20)
    assert.equal(begun, 0)
    // What it goes on to do is out of reach.
    await assert.rejects(calls(() => goesOn()), { code: 'InvalidArgument', effect: 'unknown', message: /outside of the transaction/ })
    const waits = (sql, parameters) => Promise.resolve([])
    assert.throws(() => idem.runInTransactionSync(request('promise'), waits, assert.fail), { effect: 'nothing', message: /a statement/ })
    await sleep(20)
    assert.deepEqual(await idem.status(request('promise')), { state: 'absent' })
    library.close()
    await idem.close()
  })
})

test('a store without transactions, and what is no function, are errors', async () => {
  const idem = await Idempotency.open('memory:transaction')
  await assert.rejects(idem.runInTransaction(request('k'), () => [], () => 1), InvalidArgument)
  await assert.rejects(idem.runInTransaction(request('k'), {}, () => 1), InvalidArgument)
  assert.throws(() => idem.runInTransactionSync(request('k'), () => [], 1), InvalidArgument)
  await idem.close()
})

test('rows without names are an error that says so', async () => {
  const idem = await Idempotency.open(`sqlite:${folder()}/rows.db`)
  const tx = (sql, parameters) => (/^SELECT/.test(sql) ? [['1 2 3']] : [])
  await assert.rejects(idem.runInTransaction(request('rows'), tx, assert.fail), /no text `oneflight`/)
  await idem.close()
})
