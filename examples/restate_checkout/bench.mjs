// Measures how long one order takes in steps over SQLite and PostgreSQL, and through Restate, in turn.
//
// Usage: node bench.mjs [--orders 500]
//
//   --orders       how many are measured in each way
//
// What is asked of those outside is answered at once. All stores write through to the disk before they answer, as they do unless told
// otherwise.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startPostgres } from '../../crates/oneflight-node/test/support/postgres.mjs'
import { start } from './support.mjs'

const { values } = parseArgs({ options: { orders: { type: 'string', default: '500' } } })
const all = await start()
all.outside.hold(() => {})
const postgres = await startPostgres('-c fsync=on')
try {
  const options = ['--db', join(all.directory, 'bench.db'), '--outside', all.outside.url, '--restate', all.restate.ingress]
  const arguments_ = [...options, '--postgres', postgres.url, '--orders', values.orders]
  // Not `spawnSync`: the stand-ins are in this process.
  const [code] = await once(spawn(process.env.RESTATE_BENCH, arguments_, { stdio: 'inherit' }), 'exit')
  process.exitCode = code
} finally {
  postgres.stop()
  await all.stop()
}
