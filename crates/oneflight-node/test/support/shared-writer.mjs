// Writes to a file by the store and by a driver, both in this process.
//
// Usage: shared-writer.mjs file from to

import Database from 'better-sqlite3'
import { Idempotency } from '../../index.mjs'

const [file, from, to] = process.argv.slice(2)
const idem = await Idempotency.open(`sqlite:${file}`)
const db = new Database(file)
let executed = 0
for (let key = Number(from); key < Number(to); key++) {
  const called = idem.run({ scope: 's', key: `${key % 100}` }, () => ++executed)
  db.transaction(() => db.prepare('INSERT INTO rows VALUES (?)').run(key)).immediate()
  await called
}
db.close()
await idem.close()
console.log(JSON.stringify({ executed }))
