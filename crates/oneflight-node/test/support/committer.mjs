// Writes a row in a transaction, and is killed before or after its commit.
//
// Usage: committer.mjs FILE KEY before|after

import Database from 'better-sqlite3'
import { adapters, Idempotency } from '../../index.mjs'

const [file, key, when] = process.argv.slice(2)
const idem = await Idempotency.open(`sqlite:${file}`)
const db = new Database(file)
const die = () => process.kill(process.pid, 'SIGKILL')
db.transaction(() => {
  idem.runInTransactionSync({ scope: 'killed', key }, adapters.betterSqlite3(db), () => {
    db.prepare('INSERT INTO executed VALUES (?)').run(key)
  })
  if (when === 'before') die()
}).immediate()
die()
