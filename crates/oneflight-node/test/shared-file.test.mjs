// A file of SQLite's that the process has open twice, by the SQLite of our store and by that of better-sqlite3: they exclude each
// other as those of two processes do.

import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { Idempotency } from '../index.mjs'
import { folder } from './support/processes.mjs'

/** Opens a file by both. */
async function both(t) {
  const file = `${folder()}/shared.db`
  const idem = await Idempotency.open(`sqlite:${file}`)
  const db = new Database(file)
  db.exec('CREATE TABLE rows (key integer)')
  t.after(async () => {
    db.close()
    await idem.close()
  })
  return { file, idem, db }
}

const insert = (db, key) => db.prepare('INSERT INTO rows VALUES (?)').run(key)
/** Returns what a connection that has seen nothing yet finds. */
function found(file) {
  const db = new Database(file)
  const count = (table) => db.prepare(`SELECT count(*) AS count FROM ${table}`).get().count
  const all = { rows: count('rows'), records: count('oneflight_records'), check: db.pragma('integrity_check', { simple: true }) }
  db.close()
  return all
}

for (const between of ['nothing', 'another connection', 'another store']) {
  test(`a call waits for a transaction of the driver, although ${between} is closed meanwhile`, async (t) => {
    const { file, idem, db } = await both(t)
    const request = { scope: 's', key: 'k' }
    db.exec('BEGIN IMMEDIATE')
    insert(db, 1)
    if (between === 'another connection') {
      const other = new Database(file)
      other.prepare('SELECT * FROM rows').all()
      other.close()
    }
    if (between === 'another store') {
      // With options of its own it is not the one that is open.
      const other = await Idempotency.open(`sqlite:${file}`, { connections: 2 })
      assert.equal((await other.status(request)).state, 'absent')
      await other.close()
    }
    let isRun = false
    const called = idem.run(request, () => (isRun = true))
    await sleep(500)
    assert.equal(isRun, false)
    insert(db, 2)
    db.exec('COMMIT')
    assert.equal((await called).origin, 'executed')
    assert.equal((await idem.run(request, () => assert.fail('it was run again'))).origin, 'replayed')
    assert.deepEqual(found(file), { rows: 2, records: 1, check: 'ok' })
  })
}

test('what either writes after the other one was closed is there', async (t) => {
  const { file, idem, db } = await both(t)
  await idem.run({ scope: 's', key: 'before' }, () => 1)
  await idem.close()
  insert(db, 1)
  const again = await Idempotency.open(`sqlite:${file}`)
  await again.run({ scope: 's', key: 'between' }, () => 1)
  db.close()
  await again.run({ scope: 's', key: 'after' }, () => 1)
  assert.deepEqual(found(file), { rows: 1, records: 3, check: 'ok' })
  await again.close()
  assert.deepEqual(found(file), { rows: 1, records: 3, check: 'ok' })
})

test('a storm of both loses nothing', async (t) => {
  const { file, idem, db } = await both(t)
  const CALLS = 300
  let inserted = 0
  let isOver = false
  const inserting = (async () => {
    for (; !isOver; await sleep(0)) {
      const other = inserted % 10 === 0 ? new Database(file) : db
      other.transaction(() => insert(other, inserted++)).immediate()
      if (other !== db) other.close()
    }
  })()
  let executed = 0
  const ask = (key) => idem.run({ scope: 's', key: `k${key % CALLS}` }, () => ++executed)
  await Promise.all(Array.from({ length: 2 * CALLS }, (_, key) => ask(key)))
  isOver = true
  await inserting
  assert.equal(executed, CALLS)
  assert.deepEqual(found(file), { rows: inserted, records: CALLS, check: 'ok' })
  t.diagnostic(`${inserted} rows`)
})

test('stores that are opened and closed leave nothing open', { skip: process.platform !== 'linux' && 'asks /proc' }, async (t) => {
  const { file } = await both(t)
  const open = () => readdirSync('/proc/self/fd').length
  const once = async (at) => {
    const idem = await Idempotency.open(`sqlite:${at}`, { connections: 2 })
    await idem.run({ scope: 's', key: 'k' }, () => 1)
    await idem.close()
  }
  for (let round = 0; round < 3; round++) await once(file)
  const before = open()
  for (let round = 0; round < 20; round++) await once(file)
  assert.ok(open() <= before + 2, `${before} and then ${open()}`)
})
