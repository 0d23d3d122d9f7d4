// The private PostgreSQL of the package's own tests, told to log each statement with the name of its application.

import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import pg from 'pg'
import { startPostgres as start } from '../../../crates/oneflight-node/test/support/postgres.mjs'

/** The application by which the log knows statements of the tests themselves. */
export const OURS = 'the-tests'

/** Opens a database. `query` resolves with the rows. */
export function openDatabase(url) {
  const pool = new pg.Pool({ connectionString: url, max: 2, application_name: OURS })
  // Connections that are lost: what uses one has an error of its own.
  pool.on('error', () => {})
  return { url, query: async (sql, parameters) => (await pool.query(sql, parameters)).rows, close: () => pool.end() }
}

/** Starts a server. It ends with this process. */
export async function startPostgres() {
  const server = await start()
  const databases = [openDatabase(server.url)]
  const [{ url, query }] = databases
  await query("ALTER SYSTEM SET log_statement = 'all'")
  await query("ALTER SYSTEM SET log_line_prefix = '%m [%p] <%a> '")
  const [{ directory }] = await query("SELECT pg_reload_conf(), current_setting('data_directory') AS directory")
  return {
    url,
    query,
    /** What the server has logged. */
    log: () => readFileSync(join(dirname(directory), 'log'), 'utf8'),
    /** Makes a further database in it. */
    async database(name) {
      await query(`CREATE DATABASE "${name}"`)
      const its = new URL(url)
      its.pathname = `/${name}`
      const made = openDatabase(its.href)
      databases.push(made)
      return made
    },
    async stop() {
      await Promise.all(databases.map((it) => it.close()))
      server.stop()
    }
  }
}
