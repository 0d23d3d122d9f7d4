'use strict'
// How our statements are run on the connection of a transaction, by the driver or the library that has begun it: functions
// (sql, parameters) => rows. All parameters are strings.

const { classes } = require('./errors.js')

/** Whether a statement has no rows to answer with. Some drivers want to know before, others answer with a row of their own. */
function isCommand(sql) {
  return /^(SAVEPOINT|RELEASE|ROLLBACK)\b/.test(sql)
}

/** What a function of ours knows besides: what stands for its connection, and a check before its first statement. */
const ABOUT = Symbol.for('oneflight.adapter')

function adapter(run, connection, check = () => {}) {
  return Object.assign(run, { [ABOUT]: { connection, check } })
}

/** Returns what is known of a function. Of one of the user's that is nothing. */
function about(run) {
  return run[ABOUT] ?? {}
}

/** The client itself runs statements beside those of other requests: on SQLite ours would begin a transaction around theirs. */
function noTransaction(give) {
  return new classes.InvalidArgument(`this is no transaction, and statements of other requests would be in ours; ${give}`)
}

/** A client of `pg` that has said `BEGIN`. */
function pg(client) {
  return adapter(async (sql, parameters) => (await client.query(sql, parameters)).rows, client)
}

/** A database of better-sqlite3, inside of `db.transaction(…).immediate()`. */
function betterSqlite3(db) {
  const run = (sql, parameters) => {
    const statement = db.prepare(sql)
    if (statement.reader) return statement.all(...parameters)
    statement.run(...parameters)
    return []
  }
  return adapter(run, db, () => {
    if (!db.inTransaction) throw noTransaction('call inside of `db.transaction(() => …).immediate()`')
  })
}

/** A transaction of Drizzle on PostgreSQL or SQLite, and the `sql` of `drizzle-orm`. */
function drizzle(tx, sql) {
  if (typeof tx.rollback !== 'function') throw noTransaction('give the `tx` of `db.transaction((tx) => …)`')
  // That of all its nested transactions.
  const connection = tx.session?.client ?? tx
  const statement = (text, parameters) => {
    let next = 0
    const chunks = text.split(/(\$\d+|\?)/).map((part, at) => {
      if (at % 2 === 0) return sql.raw(part)
      return sql`${parameters[part === '?' ? next++ : Number(part.slice(1)) - 1]}`
    })
    return sql.join(chunks)
  }
  if (typeof tx.execute !== 'function') {
    const run = (text, parameters) => {
      if (!isCommand(text)) return tx.all(statement(text, parameters))
      return tx.run(statement(text, parameters))
    }
    return adapter(run, connection)
  }
  const run = async (text, parameters) => {
    const answer = await tx.execute(statement(text, parameters))
    return Array.isArray(answer) ? answer : answer.rows
  }
  return adapter(run, connection)
}

/** A transaction of Kysely, and the `CompiledQuery` of `kysely`. */
function kysely(trx, CompiledQuery) {
  if (trx.isTransaction !== true) throw noTransaction('give the `trx` of `db.transaction().execute((trx) => …)`')
  return adapter(async (sql, parameters) => (await trx.executeQuery(CompiledQuery.raw(sql, parameters))).rows, trx)
}

/** The client of Prisma's `$transaction(async (tx) => …)`. */
function prisma(tx) {
  if (typeof tx.$connect === 'function') throw noTransaction('give the `tx` of `prisma.$transaction((tx) => …)`')
  const run = async (sql, parameters) => {
    try {
      return await (isCommand(sql) ? tx.$executeRawUnsafe(sql, ...parameters) : tx.$queryRawUnsafe(sql, ...parameters))
    } catch (error) {
      throw recoded(error)
    }
  }
  return adapter(run, tx)
}

/**
 * All errors of raw statements have one code in Prisma. A loop that begins again after a conflict looks for the code that its other
 * statements have then.
 */
function recoded(error) {
  const code = error?.meta?.driverAdapterError?.cause?.originalCode
  if (error?.code === 'P2010' && (code === '40001' || code === '40P01')) error.code = 'P2034'
  return error
}

module.exports = { about, isCommand, adapters: { betterSqlite3, drizzle, kysely, pg, prisma } }
