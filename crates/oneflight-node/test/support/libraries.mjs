// The drivers and libraries whose transactions the tests begin. Each is opened on a database, and has
//
//   transaction(body, isolation)  runs `body({ tx, insert, read, say })` in one, and commits it unless that throws
//   outside()                     makes a `tx` of the client itself, which is in none
//   close()
//
// where `tx` is for `runInTransaction`, `insert` and `read` are the library's own way to the table `orders`, and `say` runs a bare
// statement. The ones `atOnce` have bodies that answer at once.

import { PrismaBetterSqlite3 } from '@prisma/adapter-better-sqlite3'
import { PrismaPg } from '@prisma/adapter-pg'
import Database from 'better-sqlite3'
import { sql } from 'drizzle-orm'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import * as pgCore from 'drizzle-orm/pg-core'
import * as sqliteCore from 'drizzle-orm/sqlite-core'
import { CompiledQuery, Kysely, PostgresDialect, SqliteDialect } from 'kysely'
import pg from 'pg'
import { adapters } from '../../index.mjs'
import { prismaClient } from './prisma.mjs'

const SIZE = 4

function pool(url) {
  const made = new pg.Pool({ connectionString: url, max: SIZE })
  // Connections that are lost: what uses one has an error of its own.
  made.on('error', () => {})
  made.on('connect', (client) => client.on('error', () => {}))
  return made
}

const pgOrders = pgCore.pgTable('orders', { id: pgCore.serial().primaryKey(), item: pgCore.text().notNull() })
const sqliteOrders = sqliteCore.sqliteTable('orders', {
  id: sqliteCore.integer().primaryKey({ autoIncrement: true }),
  item: sqliteCore.text().notNull()
})

export const onPostgres = {
  pg(url) {
    const connections = pool(url)
    return {
      async transaction(body, isolation = 'READ COMMITTED') {
        const client = await connections.connect()
        let lost
        try {
          await client.query(`BEGIN ISOLATION LEVEL ${isolation}`)
          const value = await body({
            tx: adapters.pg(client),
            insert: (item) => client.query('INSERT INTO orders (item) VALUES ($1)', [item]),
            read: async () => (await client.query('SELECT item FROM orders')).rows,
            say: (text) => client.query(text)
          })
          await client.query('COMMIT')
          return value
        } catch (error) {
          await client.query('ROLLBACK').catch((failed) => (lost = failed))
          throw error
        } finally {
          client.release(lost)
        }
      },
      outside: () => (sql, parameters) => connections.query(sql, parameters).then((it) => it.rows),
      close: () => connections.end()
    }
  },

  drizzle(url) {
    const connections = pool(url)
    const db = drizzlePg(connections)
    return {
      transaction(body, isolation = 'READ COMMITTED') {
        const begun = (tx) =>
          body({
            tx: adapters.drizzle(tx, sql),
            insert: (item) => tx.insert(pgOrders).values({ item }),
            read: () => tx.select().from(pgOrders),
            say: (text) => tx.execute(sql.raw(text))
          })
        return db.transaction(begun, { isolationLevel: isolation.toLowerCase() })
      },
      outside: () => adapters.drizzle(db, sql),
      close: () => connections.end()
    }
  },

  kysely(url) {
    const db = new Kysely({ dialect: new PostgresDialect({ pool: pool(url) }) })
    return {
      transaction: (body, isolation = 'READ COMMITTED') =>
        db.transaction().setIsolationLevel(isolation.toLowerCase()).execute((trx) => body(ofKysely(trx))),
      outside: () => adapters.kysely(db, CompiledQuery),
      close: () => db.destroy()
    }
  },

  prisma(url) {
    const PrismaClient = prismaClient('postgresql')
    const db = new PrismaClient({ adapter: new PrismaPg(pool(url), { disposeExternalPool: true }) })
    const levels = { 'READ COMMITTED': 'ReadCommitted', 'REPEATABLE READ': 'RepeatableRead', SERIALIZABLE: 'Serializable' }
    return {
      transaction: (body, isolation = 'READ COMMITTED', timeout = 30_000) =>
        db.$transaction((tx) => body(ofPrisma(tx)), { isolationLevel: levels[isolation], timeout, maxWait: 30_000 }),
      outside: () => adapters.prisma(db),
      close: () => db.$disconnect()
    }
  }
}

export const onSqlite = {
  'better-sqlite3'(file) {
    const db = new Database(file)
    return {
      atOnce: true,
      transaction(body, mode = 'immediate') {
        return db.transaction(() =>
          body({
            tx: adapters.betterSqlite3(db),
            insert: (item) => db.prepare('INSERT INTO orders (item) VALUES (?)').run(item),
            read: () => db.prepare('SELECT item FROM orders').all(),
            say: (text) => db.exec(text)
          })
        )[mode]()
      },
      outside: () => adapters.betterSqlite3(db),
      close: () => db.close()
    }
  },

  drizzle(file) {
    const connection = new Database(file)
    const db = drizzleSqlite(connection)
    return {
      atOnce: true,
      transaction(body, behavior = 'immediate') {
        const begun = (tx) =>
          body({
            tx: adapters.drizzle(tx, sql),
            insert: (item) => tx.insert(sqliteOrders).values({ item }).run(),
            read: () => tx.select().from(sqliteOrders).all(),
            say: (text) => tx.run(sql.raw(text))
          })
        return db.transaction(begun, { behavior })
      },
      outside: () => adapters.drizzle(db, sql),
      close: () => connection.close()
    }
  },

  kysely(file) {
    const db = new Kysely({ dialect: new SqliteDialect({ database: new Database(file) }) })
    return {
      transaction: (body) => db.transaction().execute((trx) => body(ofKysely(trx))),
      outside: () => adapters.kysely(db, CompiledQuery),
      close: () => db.destroy()
    }
  },

  prisma(file) {
    const PrismaClient = prismaClient('sqlite')
    const db = new PrismaClient({ adapter: new PrismaBetterSqlite3({ url: `file:${file}` }) })
    return {
      transaction: (body, _, timeout = 30_000) => db.$transaction((tx) => body(ofPrisma(tx)), { timeout, maxWait: 30_000 }),
      outside: () => adapters.prisma(db),
      close: () => db.$disconnect()
    }
  }
}

function ofKysely(trx) {
  return {
    tx: adapters.kysely(trx, CompiledQuery),
    insert: (item) => trx.insertInto('orders').values({ item }).execute(),
    read: () => trx.selectFrom('orders').select('item').execute(),
    readInOrder: () => trx.selectFrom('orders').select('item').orderBy('id').execute(),
    say: (text) => trx.executeQuery(CompiledQuery.raw(text))
  }
}

function ofPrisma(tx) {
  return {
    tx: adapters.prisma(tx),
    insert: (item) => tx.orders.create({ data: { item } }),
    read: () => tx.orders.findMany(),
    say: (text) => tx.$executeRawUnsafe(text)
  }
}
