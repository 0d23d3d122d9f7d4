// A store with an outbox, and transactions of Kysely's in its database: to send messages from, and to have effects in.

import { setTimeout as sleep } from 'node:timers/promises'
import { Idempotency } from '../../index.mjs'
import { onPostgres, onSqlite } from './libraries.mjs'

const ORDERS = {
  postgres: 'CREATE TABLE IF NOT EXISTS orders (id serial PRIMARY KEY, item text NOT NULL)',
  sqlite: 'CREATE TABLE IF NOT EXISTS orders (id integer PRIMARY KEY AUTOINCREMENT, item text NOT NULL)'
}

/** Opens it, under a prefix in PostgreSQL. */
export async function openOutbox(url, prefix) {
  const isPostgres = url.startsWith('postgres')
  const idem = await Idempotency.open(url, isPostgres ? { prefix, connections: 4 } : {})
  const library = isPostgres ? onPostgres.kysely(url) : onSqlite.kysely(url.slice('sqlite:'.length))
  let sent = 0
  const transact = (request, work) =>
    library.transaction((its) => idem.runInTransaction(request, its.tx, (context) => work(context, its)))
  return {
    idem,
    /** Runs `work(context, its)` as a request in a transaction. */
    transact,
    /** Sends messages with one commit. */
    async send(...messages) {
      const request = { scope: 'sender', key: `${process.pid}-${sent++}` }
      const reply = await transact(request, async (context) => {
        const all = []
        for (const message of messages) all.push(await context.send(message))
        return all
      })
      return reply.value
    },
    /** Makes the table for effects. */
    prepare: () => library.transaction((its) => its.say(ORDERS[isPostgres ? 'postgres' : 'sqlite'])),
    /** Writes a row once under this key, as an inbox does. */
    effect: (key) => transact({ scope: 'inbox', key }, (_, its) => its.insert(key).then(() => null)),
    /** Returns the rows in the order in which they were written. */
    effectsInOrder: async () => (await library.transaction((its) => its.readInOrder())).map((row) => row.item),
    /** Returns the rows. */
    effects: async () => (await library.transaction((its) => its.read())).map((row) => row.item).sort(),
    async close() {
      await idem.close()
      await library.close()
    }
  }
}

/** Waits until it is true. */
export async function eventually(isTrue, what) {
  const until = Date.now() + 60_000
  while (!(await isTrue())) {
    if (Date.now() > until) throw new Error(`it has not come to be after a minute: ${what}`)
    await sleep(10)
  }
}
