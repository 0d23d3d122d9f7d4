// One process of a storm, as `stormer.mjs`, whose work is a row in a transaction of its own: of `pg`, or of better-sqlite3.
//
// Usage: transactor.mjs URL KEYS DUPLICATES

import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import pg from 'pg'
import { adapters, Idempotency, InProgress } from '../../index.mjs'

const [url, keys, duplicates] = process.argv.slice(2)
const idem = await Idempotency.open(url, { connections: 2 })
const isPostgres = url.startsWith('postgres')
const db = isPostgres ? new pg.Pool({ connectionString: url, max: 4 }) : new Database(url.slice('sqlite:'.length), { timeout: 60_000 })
const asks = []
for (let key = 0; key < Number(keys); key++) for (let copy = 0; copy < Number(duplicates); copy++) asks.push(key)
asks.sort(() => Math.random() - 0.5)

// The pool has its connections then.
if (isPostgres) await Promise.all(Array.from({ length: 4 }, () => db.query('SELECT pg_sleep(0.05)')))
console.log(JSON.stringify({ ready: true }))
await once(process.stdin, 'data')
process.stdin.destroy()

const origins = { executed: 0, collapsed: 0, replayed: 0 }
let wrong = 0
await Promise.all(
  asks.map(async (key, at) => {
    await sleep((at % 50) * 4)
    const request = { scope: 'storm', key: `order-${key}`, fingerprint: { key, item: 'tea' } }
    for (;;) {
      try {
        const reply = isPostgres ? await inPostgres(request, key) : inSqlite(request, key)
        origins[reply.origin]++
        if (reply.value.order !== key) wrong++
        return
      } catch (error) {
        if (!(error instanceof InProgress)) throw error
        await sleep(20)
      }
    }
  })
)
await idem.close()
await (isPostgres ? db.end() : db.close())
console.log(JSON.stringify({ origins, wrong }))

async function inPostgres(request, key) {
  const client = await db.connect()
  try {
    await client.query('BEGIN')
    const reply = await idem.runInTransaction(request, adapters.pg(client), async () => {
      await client.query('INSERT INTO executed VALUES ($1)', [key])
      await sleep(key % 7)
      return { order: key, by: process.pid }
    })
    await client.query('COMMIT')
    return reply
  } catch (error) {
    await client.query('ROLLBACK')
    throw error
  } finally {
    client.release()
  }
}

function inSqlite(request, key) {
  const run = db.transaction(() =>
    idem.runInTransactionSync(request, adapters.betterSqlite3(db), () => {
      db.prepare('INSERT INTO executed VALUES (?)').run(key)
      return { order: key, by: process.pid }
    })
  )
  // As libraries begin one that have no other way.
  return key % 2 === 0 ? run.immediate() : run.deferred()
}
