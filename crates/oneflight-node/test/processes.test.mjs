// Several processes over one store, a holder that is killed, an event loop that is blocked, and the end of a process.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import pg from 'pg'
import { adapters, Idempotency, InDoubt } from '../index.mjs'
import { startPostgres } from './support/postgres.mjs'
import { folder, start, startRust } from './support/processes.mjs'
import { startRedis } from './support/redis.mjs'

let postgres
let redis
before(async () => {
  ;[postgres, redis] = await Promise.all([startPostgres(), startRedis()])
})
after(() => {
  postgres.stop()
  redis.stop()
})

const KEYS = 40
const DUPLICATES = 10

/** What the storm is on, and how many processes of Node and of Rust it has. */
const STORMS = [
  ['SQLite', 3, 1],
  ['PostgreSQL', 3, 1],
  ['Redis', 3, 1]
]

for (const [store, ofNode, ofRust] of STORMS) {
  test(`a storm on ${store} of ${ofNode} processes of Node and ${ofRust} of Rust executes each key once`, async (t) => {
    const home = folder()
    const url = { SQLite: `sqlite:${home}/storm.db`, PostgreSQL: postgres.url, Redis: redis.url }[store]
    const args = [url, `${home}/executed`, KEYS, DUPLICATES]
    const storm = Array.from({ length: ofRust }, () => startRust(t, 'stormer', ...args))
    storm.push(...Array.from({ length: ofNode }, () => start(t, 'stormer.mjs', ...args)))
    for (const it of storm) assert.deepEqual(await it.next(), { ready: true })
    for (const it of storm) it.child.stdin.write('go\n')
    const told = await Promise.all(storm.map((it) => it.next()))
    assert.deepEqual(await Promise.all(storm.map((it) => it.ended)), storm.map(() => 0))

    const executed = readFileSync(`${home}/executed`, 'utf8').trim().split('\n').map(Number).sort((one, other) => one - other)
    assert.deepEqual(executed, Array.from({ length: KEYS }, (_, key) => key))
    const sum = (origin) => told.reduce((sum, it) => sum + it.origins[origin], 0)
    const each = told.map((it) => it.origins.executed).join(', ')
    t.diagnostic(`executed ${sum('executed')} (${each}), collapsed ${sum('collapsed')}, replayed ${sum('replayed')}`)
    assert.equal(sum('executed'), KEYS)
    assert.equal(sum('executed') + sum('collapsed') + sum('replayed'), storm.length * KEYS * DUPLICATES)
    assert.deepEqual(told.map((it) => it.wrong), told.map(() => 0))
  })
}

for (const store of ['SQLite', 'PostgreSQL']) {
  test(`a storm on ${store} of transactions in Node, of calls in Node and of calls in Rust executes each key once`, async (t) => {
    const home = folder()
    const url = { SQLite: `sqlite:${home}/storm.db`, PostgreSQL: postgres.url }[store]
    const database = store === 'SQLite' ? new Database(`${home}/storm.db`) : new pg.Client(postgres.url)
    if (store === 'SQLite') {
      database.exec('CREATE TABLE executed (key integer)')
    } else {
      await database.connect()
      // Its tables are there then, and have nothing of another storm.
      await (await Idempotency.open(url)).close()
      await database.query("DROP TABLE IF EXISTS executed; CREATE TABLE executed (key integer); DELETE FROM oneflight_records WHERE scope = 'storm'")
    }
    const storm = [startRust(t, 'stormer', url, `${home}/executed`, KEYS, DUPLICATES)]
    storm.push(start(t, 'stormer.mjs', url, `${home}/executed`, KEYS, DUPLICATES))
    storm.push(...[1, 2].map(() => start(t, 'transactor.mjs', url, KEYS, DUPLICATES)))
    for (const it of storm) assert.deepEqual(await it.next(), { ready: true })
    // A transaction takes longer, so these begin first.
    for (const it of storm.slice(2)) it.child.stdin.write('go\n')
    await sleep(50)
    for (const it of storm.slice(0, 2)) it.child.stdin.write('go\n')
    const told = await Promise.all(storm.map((it) => it.next()))
    assert.deepEqual(await Promise.all(storm.map((it) => it.ended)), storm.map(() => 0))

    const read = 'SELECT key FROM executed'
    const rows = store === 'SQLite' ? database.prepare(read).all() : (await database.query(read)).rows
    const outside = existsSync(`${home}/executed`) ? readFileSync(`${home}/executed`, 'utf8').trim().split('\n').map(Number) : []
    const executed = [...rows.map((it) => it.key), ...outside].sort((one, other) => one - other)
    assert.deepEqual(executed, Array.from({ length: KEYS }, (_, key) => key))
    const each = told.map((it) => it.origins.executed)
    t.diagnostic(`executed by Rust, by Node, and in transactions: ${each.join(', ')}`)
    assert.equal(each[2] + each[3], rows.length)
    const sum = told.flatMap((it) => Object.values(it.origins)).reduce((sum, it) => sum + it, 0)
    assert.equal(sum, storm.length * KEYS * DUPLICATES)
    assert.deepEqual(told.map((it) => it.wrong), told.map(() => 0))
    await (store === 'SQLite' ? database.close() : database.end())
  })
}

test('a storm on PostgreSQL of transactions in Node and in Rust executes each key once', async (t) => {
  const database = new pg.Client(postgres.url)
  await database.connect()
  await (await Idempotency.open(postgres.url)).close()
  await database.query("DROP TABLE IF EXISTS executed; CREATE TABLE executed (key integer); DELETE FROM oneflight_records WHERE scope = 'storm'")
  const storm = [startRust(t, 'transactor', postgres.url, KEYS, DUPLICATES)]
  storm.push(...[1, 2].map(() => start(t, 'transactor.mjs', postgres.url, KEYS, DUPLICATES)))
  for (const it of storm) assert.deepEqual(await it.next(), { ready: true })
  for (const it of storm) it.child.stdin.write('go\n')
  const told = await Promise.all(storm.map((it) => it.next()))
  assert.deepEqual(await Promise.all(storm.map((it) => it.ended)), storm.map(() => 0))
  const { rows } = await database.query('SELECT key FROM executed ORDER BY key')
  assert.deepEqual(rows.map((it) => it.key), Array.from({ length: KEYS }, (_, key) => key))
  t.diagnostic(`executed by Rust and by Node: ${told.map((it) => it.origins.executed).join(', ')}`)
  const sum = told.flatMap((it) => Object.values(it.origins)).reduce((sum, it) => sum + it, 0)
  assert.equal(sum, storm.length * KEYS * DUPLICATES)
  assert.deepEqual(told.map((it) => it.wrong), told.map(() => 0))
  await database.end()
})

test('what a service in Rust declined is replayed as declined', async (t) => {
  const database = new pg.Client(postgres.url)
  await database.connect()
  await database.query('DROP TABLE IF EXISTS executed; CREATE TABLE executed (key integer)')
  const decliner = startRust(t, 'decliner', postgres.url, 'k')
  assert.deepEqual(await decliner.next(), { declined: true })
  const idem = await Idempotency.open(postgres.url)
  const request = { scope: 'declined', key: 'k' }
  const declined = { value: { why: 'sold out' }, cached: true, declined: true, origin: 'replayed', attempt: 1 }
  assert.deepEqual(await idem.run(request, () => assert.fail('it was run')), declined)
  await database.query('BEGIN')
  assert.deepEqual(await idem.runInTransaction(request, adapters.pg(database), () => assert.fail('it was run')), declined)
  await database.query('COMMIT')
  assert.equal((await database.query('SELECT FROM executed')).rowCount, 0)
  await idem.close()
  await database.end()
})

for (const when of ['before', 'after']) {
  test(`a process that is killed ${when} the commit of its transaction executed once`, async (t) => {
    const file = `${folder()}/killed.db`
    const idem = await Idempotency.open(`sqlite:${file}`)
    const db = new Database(file)
    db.exec('CREATE TABLE executed (key text)')
    assert.equal(await start(t, 'committer.mjs', file, 'k', when).ended, 'SIGKILL')
    const again = db.transaction(() =>
      idem.runInTransactionSync({ scope: 'killed', key: 'k' }, adapters.betterSqlite3(db), () => {
        db.prepare('INSERT INTO executed VALUES (?)').run('k')
      })
    )
    assert.equal(again.immediate().origin, when === 'before' ? 'executed' : 'replayed')
    assert.equal(db.prepare('SELECT count(*) AS count FROM executed').get().count, 1)
    db.close()
    await idem.close()
  })
}

for (const store of ['SQLite', 'PostgreSQL', 'Redis']) {
  describe(`on ${store}`, () => {
    const at = () => ({ SQLite: `sqlite:${folder()}/held.db`, PostgreSQL: postgres.url, Redis: redis.url })[store]

    test('a holder that is killed leaves its request in doubt once its lease is over', async (t) => {
      const url = at()
      const holder = start(t, 'holder.mjs', url, 'killed', 1000)
      await holder.next()
      holder.child.kill('SIGKILL')
      assert.equal(await holder.ended, 'SIGKILL')
      const idem = await Idempotency.open(url)
      const request = { scope: 'held', key: 'killed' }
      await assert.rejects(idem.run(request, () => assert.fail('it was run again')), InDoubt)
      assert.equal(await idem.resolve(request, 'rerun'), 'freed')
      assert.equal((await idem.run(request, () => 'again')).value, 'again')
      await idem.close()
    })

    test('the recovery policy runs it again, as the next attempt', async (t) => {
      const url = at()
      const holder = start(t, 'holder.mjs', url, 'rerun', 1000)
      await holder.next()
      holder.child.kill('SIGKILL')
      const idem = await Idempotency.open(url, { recovery: 'rerun' })
      const reply = await idem.run({ scope: 'held', key: 'rerun' }, (context) => context.attempt)
      assert.deepEqual([reply.value, reply.attempt], [2, 2])
      await idem.close()
    })

    // Ten seconds on one of them, since it takes a core.
    const blockedMs = store === 'PostgreSQL' ? 10_000 : 3000

    test(`a lease of 1 s is renewed while the event loop is blocked for ${blockedMs / 1000} s`, async (t) => {
      const url = at()
      const blocker = start(t, 'blocker.mjs', url, 'blocked', 1000, blockedMs)
      await blocker.next()
      const idem = await Idempotency.open(url, { recovery: 'rerun' })
      const request = { scope: 'held', key: 'blocked' }
      let seen = 0
      for (let state = await idem.status(request); state.state === 'inProgress'; state = await idem.status(request)) {
        seen++
        await sleep(50)
      }
      assert.ok(seen > 20, `it was seen in progress ${seen} times`)
      const reply = await idem.run(request, () => assert.fail('it was taken over'))
      assert.deepEqual([reply.value, reply.origin, reply.attempt], ['blocked', 'replayed', 1])
      assert.equal((await blocker.next()).origin, 'executed')
      assert.equal(await blocker.ended, 0)
      await idem.close()
    })

    test('a process with an open store ends by itself', async (t) => {
      const idle = start(t, 'idle.mjs', at())
      assert.equal((await idle.next()).value, 1)
      const begun = Date.now()
      assert.equal(await idle.ended, 0)
      t.diagnostic(`it ended ${Date.now() - begun} ms after its last line`)
    })

    test('a process lives until work that its callers have left is over', async (t) => {
      const url = at()
      const leaver = start(t, 'leaver.mjs', url)
      assert.deepEqual(await leaver.next(), { name: 'AbortError' })
      assert.equal(await leaver.ended, 0)
      const idem = await Idempotency.open(url)
      const reply = await idem.run({ scope: 'left', key: 'one' }, () => assert.fail('it was done'))
      assert.equal(reply.value, 'done')
      await idem.close()
    })
  })
}

test('the workers of a cluster meet in the store', async (t) => {
  const primary = start(t, 'clustered.mjs', `sqlite:${folder()}/cluster.db`)
  assert.deepEqual(await primary.next(), { origins: ['executed', 'replayed', 'replayed'] })
  assert.equal(await primary.ended, 0)
})

test('a database that cannot be reached is StoreFailed, which says where and why, without its password', async (t) => {
  const silent = createServer(() => {})
  await new Promise((listens) => silent.listen(0, '127.0.0.1', listens))
  t.after(() => silent.close())
  const refused = (port, why) =>
    assert.rejects(Idempotency.open(`postgres://shop:pa55word@127.0.0.1:${port}/shop`), (error) => {
      assert.deepEqual([error.code, error.effect], ['StoreFailed', 'nothing'])
      assert.match(error.message, why)
      assert.doesNotMatch(error.message, /pa55word/)
      return true
    })
  const { port } = silent.address()
  await Promise.all([
    refused(1, /PostgreSQL at 127\.0\.0\.1:1: .*refused/),
    refused(port, new RegExp(`PostgreSQL at 127\\.0\\.0\\.1:${port}: no answer in 10 s`))
  ])
})

test('a server that goes away is StoreFailed, and one that comes back is used again', async () => {
  const own = await startPostgres()
  const idem = await Idempotency.open(own.url, { waitMs: 500 })
  assert.equal((await idem.run({ scope: 's', key: 'k' }, () => 1)).value, 1)
  own.crash()
  await assert.rejects(idem.run({ scope: 's', key: 'other' }, () => 1), { code: 'StoreFailed' })
  own.restart()
  assert.equal((await idem.run({ scope: 's', key: 'other' }, () => 2)).value, 2)
  assert.equal((await idem.run({ scope: 's', key: 'k' }, assert.fail)).origin, 'replayed')
  await idem.close()
  own.stop()
})

test('after a crash of the server, numbers of transactions can be told apart once more', async () => {
  const own = await startPostgres()
  const idem = await Idempotency.open(own.url)
  const session = async (use) => {
    const client = new pg.Client(own.url)
    client.on('error', () => {})
    await client.connect()
    const used = await use(client)
    await client.end()
    return used
  }
  const incarnation = () => session(async (client) => (await client.query('SELECT id FROM oneflight_incarnation')).rows[0]?.id)
  const execute = (key) =>
    session(async (client) => {
      await client.query('BEGIN')
      const reply = await idem.runInTransaction({ scope: 's', key }, adapters.pg(client), () => key)
      await client.query('COMMIT')
      return reply
    })
  const before = await incarnation()
  assert.ok(before)
  own.crash()
  own.restart()
  assert.equal(await incarnation(), undefined)
  assert.equal((await execute('after')).origin, 'executed')
  let now
  for (let tries = 0; tries < 100 && now === undefined; tries++) {
    await sleep(20)
    now = await incarnation()
  }
  assert.ok(now !== undefined && now !== before)
  assert.equal((await execute('later')).origin, 'executed')
  assert.equal(await incarnation(), now)
  await idem.close()
  own.stop()
})
