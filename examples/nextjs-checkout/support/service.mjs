// The shop in Rust, `examples/checkout`, with its orders in a database of its own in PostgreSQL, and stand-ins of its own.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openDatabase } from './postgres.mjs'
import { startProcess } from './process.mjs'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))

/** Builds it. Returns the program's path. */
export function buildService() {
  const what = ['--package', 'oneflight-examples', '--release', '--features', 'postgres', '--example', 'checkout']
  const how = process.env.ONEFLIGHT_CARGO?.split(' ') ?? what
  const cargo = spawnSync('cargo', ['build', '--locked', '--message-format', 'json-render-diagnostics', ...how], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 28
  })
  if (cargo.status !== 0) throw new Error('the service in Rust cannot be built')
  const artifacts = String(cargo.stdout).trim().split('\n').map((line) => JSON.parse(line))
  return artifacts.findLast((it) => it.target?.name === 'checkout' && it.executable).executable
}

/**
 * Starts it, on a database that belongs to it alone: the outbox in it has one relay, which is the service's.
 *
 * `delayMs` is how long its payment provider takes. `query` asks the database: orders are in `orders`.
 */
export async function startService({ databaseUrl, delayMs = 0 }) {
  if (databaseUrl === undefined) throw new TypeError('startService takes the databaseUrl of a database for the service alone')
  const program = buildService()
  const folder = mkdtempSync(join(tmpdir(), 'oneflight-service-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  // No statement is kept prepared: so each says its text to the server, and to what listens before it.
  const url = new URL(databaseUrl)
  url.searchParams.set('statement-cache-capacity', '0')
  const place = ['--store', 'postgres', '--url', url.href, '--ledger', join(folder, 'outside.db')]
  const launch = (port) => [
    program,
    // It ends when its standard input does, and so with this process.
    ['serve', ...place, '--delay-ms', String(delayMs), '--port', String(port), '--until-eof'],
    { stdio: ['pipe', 'pipe', 'pipe'] }
  ]
  const service = await startProcess(launch)
  const database = openDatabase(databaseUrl)
  const { stop } = service
  return Object.assign(service, {
    query: database.query,
    async stop() {
      await database.close()
      await stop()
      rmSync(folder, { recursive: true, force: true })
    }
  })
}
