'use strict'
// How our statements are run on the connection of a transaction, by the driver or the library that has begun it: functions
// (sql, parameters) => rows. All parameters are strings.

/** Whether a statement has no rows to answer with. Some drivers want to know before, others answer with a row of their own. */
function isCommand(sql) {
  return /^(SAVEPOINT|RELEASE|ROLLBACK)\b/.test(sql)
}

/** A client of `pg` that has said `BEGIN`. */
function pg(client) {
  return async (sql, parameters) => (await client.query(sql, parameters)).rows
}

/** A database of better-sqlite3, inside of `db.transaction(…).immediate()`. */
function betterSqlite3(db) {
  return (sql, parameters) => {
    const statement = db.prepare(sql)
    if (statement.reader) return statement.all(...parameters)
    statement.run(...parameters)
    return []
  }
}

/** A transaction of Drizzle on PostgreSQL or SQLite, and the `sql` of `drizzle-orm`. */
function drizzle(tx, sql) {
  const statement = (text, parameters) => {
    let next = 0
    const chunks = text.split(/(\$\d+|\?)/).map((part, at) => {
      if (at % 2 === 0) return sql.raw(part)
      return sql`${parameters[part === '?' ? next++ : Number(part.slice(1)) - 1]}`
    })
    return sql.join(chunks)
  }
  if (typeof tx.execute !== 'function') {
    return (text, parameters) => {
      if (!isCommand(text)) return tx.all(statement(text, parameters))
      return tx.run(statement(text, parameters))
    }
  }
  return async (text, parameters) => {
    const answer = await tx.execute(statement(text, parameters))
    return Array.isArray(answer) ? answer : answer.rows
  }
}

/** A transaction of Kysely, and the `CompiledQuery` of `kysely`. */
function kysely(trx, CompiledQuery) {
  return async (sql, parameters) => (await trx.executeQuery(CompiledQuery.raw(sql, parameters))).rows
}

/** The client of Prisma's `$transaction(async (tx) => …)`. */
function prisma(tx) {
  return (sql, parameters) => {
    if (isCommand(sql)) return tx.$executeRawUnsafe(sql, ...parameters)
    return tx.$queryRawUnsafe(sql, ...parameters)
  }
}

module.exports = { isCommand, adapters: { betterSqlite3, drizzle, kysely, pg, prisma } }
