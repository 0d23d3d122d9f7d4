// A file of SQLite's that the process has open twice, by the SQLite of our store and by that of better-sqlite3: they exclude each
// other as those of two processes do.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { copyFileSync, fstatSync, readdirSync, readFileSync, readlinkSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { Idempotency } from '../index.mjs'
import { folder, start } from './support/processes.mjs'

const onLinux = { skip: process.platform !== 'linux' && 'asks /proc' }
const whereLocksHold = { skip: !['linux', 'win32'].includes(process.platform) && 'two copies of SQLite do not exclude each other here' }
/** Returns what this process has open of the folders of these tests. */
const open = () => {
  const target = (descriptor) => {
    try {
      return readlinkSync(`/proc/self/fd/${descriptor}`)
    } catch {
      return ''
    }
  }
  return readdirSync('/proc/self/fd').map(target).filter((it) => it.includes('oneflight-node-'))
}

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
  test(`a call waits for a transaction of the driver, although ${between} is closed meanwhile`, whereLocksHold, async (t) => {
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

test('what either writes after the other one was closed is there', whereLocksHold, async (t) => {
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

test('a storm of both loses nothing', whereLocksHold, async (t) => {
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

test('processes that each have it open by both lose nothing', whereLocksHold, async (t) => {
  const { file, idem, db } = await both(t)
  await idem.close()
  db.close()
  const writers = [0, 200, 400].map((from) => start(t, 'shared-writer.mjs', file, from, from + 200))
  const told = await Promise.all(writers.map((it) => it.next()))
  assert.deepEqual(await Promise.all(writers.map((it) => it.ended)), [0, 0, 0])
  assert.equal(told.reduce((sum, { executed }) => sum + executed, 0), 100)
  assert.deepEqual(readdirSync(dirname(file)), ['shared.db'])
  const other = new Database(file)
  assert.equal(other.prepare('SELECT count(DISTINCT key) AS count FROM rows').get().count, 600)
  other.close()
  assert.deepEqual(found(file), { rows: 600, records: 100, check: 'ok' })
})

for (const last of ['the store', 'the driver']) {
  test(`when ${last} has closed the file last, all is in it and nothing beside it`, whereLocksHold, async (t) => {
    const { file, idem, db } = await both(t)
    await idem.run({ scope: 's', key: 'k' }, () => 1)
    if (last === 'the driver') await idem.close()
    insert(db, 1)
    db.close()
    if (last === 'the store') await idem.close()
    assert.deepEqual(readdirSync(dirname(file)), ['shared.db'])
    const backup = `${folder()}/backup.db`
    copyFileSync(file, backup)
    assert.deepEqual(found(backup), { rows: 1, records: 1, check: 'ok' })
    const other = new Database(file)
    assert.equal(other.pragma('journal_mode = DELETE', { simple: true }), 'delete')
    other.close()
  })
}

test('a store that is closed has written all to its file', whereLocksHold, async () => {
  for (let round = 0; round < 30; round++) {
    const file = `${folder()}/alone.db`
    const idem = await Idempotency.open(`sqlite:${file}`)
    await idem.run({ scope: 's', key: 'k' }, () => 1)
    await idem.close()
    assert.deepEqual(readdirSync(dirname(file)), ['alone.db'], `in round ${round}`)
  }
})

test('stores that are opened and closed leave nothing open', onLinux, async (t) => {
  const { file } = await both(t)
  const once = async (at) => {
    const idem = await Idempotency.open(`sqlite:${at}`, { connections: 2 })
    await idem.run({ scope: 's', key: 'k' }, () => 1)
    await idem.close()
  }
  for (let round = 0; round < 3; round++) await once(file)
  const before = open()
  for (let round = 0; round < 20; round++) await once(file)
  assert.ok(open().length <= before.length + 2, `${before} and then ${open()}`)
  const many = folder()
  for (let number = 0; number < 20; number++) await once(join(many, `${number}.db`))
  assert.deepEqual(open().filter((it) => it.startsWith(many)), [])
})

test('what the driver keeps open takes no more descriptors, whatever is opened and closed beside it', onLinux, async (t) => {
  const file = `${folder()}/shared.db`
  const once = async (at) => {
    const idem = await Idempotency.open(`sqlite:${at}`, { connections: 1 })
    await idem.run({ scope: 's', key: 'k' }, () => 1)
    await idem.close()
  }
  await once(file)
  const db = new Database(file)
  t.after(() => db.close())
  db.exec('BEGIN')
  db.prepare('SELECT * FROM oneflight_records').all()
  const taken = () => open().filter((it) => it === file).length
  const several = []
  for (let round = 0; round < 5; round++) {
    await once(file)
    several.push(taken())
  }
  const others = folder()
  for (let round = 0; round < 40; round++) {
    await Promise.all([once(file), ...[1, 2, 3, 4].map((number) => once(join(others, `${number}.db`)))])
  }
  assert.equal(taken(), Math.max(...several))
})

test('a file that both have closed is not open', onLinux, async () => {
  const file = `${folder()}/shared.db`
  const idem = await Idempotency.open(`sqlite:${file}`)
  const db = new Database(file)
  await idem.run({ scope: 's', key: 'k' }, () => 1)
  db.prepare('SELECT * FROM oneflight_records').all()
  await idem.close()
  db.close()
  // With the next file that is opened or closed, what was kept for the driver's sake goes.
  await (await Idempotency.open(`sqlite:${folder()}/other.db`)).close()
  assert.deepEqual(open().filter((it) => it.includes(dirname(file))), [])
})

test('a file that is deleted while both have it open stays locked, and takes no place once it is closed', onLinux, async (t) => {
  const { file, idem, db } = await both(t)
  await Promise.all(Array.from({ length: 8 }, (_, key) => idem.status({ scope: 's', key: `${key}` })))
  await idem.run({ scope: 's', key: 'k' }, () => 1)
  const locks = () => ours(file)
  const before = locks()
  assert.ok(before > 0)
  renameSync(file, `${file}.old`)
  unlinkSync(`${file}.old`)
  // Other files are opened and closed meanwhile.
  for (let round = 0; round < 3; round++) await (await Idempotency.open(`sqlite:${folder()}/other.db`)).close()
  assert.ok(locks() >= before, `${before} locks, and then ${locks()}`)
  await idem.close()
  db.close()
  await (await Idempotency.open(`sqlite:${folder()}/other.db`)).close()
  assert.deepEqual(open().filter((it) => it.includes(dirname(file))), [])

  /** Returns the number of our locks on files of this folder. */
  function ours(file) {
    const numbers = new Set()
    for (const descriptor of readdirSync('/proc/self/fd')) {
      try {
        if (readlinkSync(`/proc/self/fd/${descriptor}`).startsWith(dirname(file))) numbers.add(String(fstatSync(Number(descriptor)).ino))
      } catch {}
    }
    const lines = readFileSync('/proc/locks', 'utf8').split('\n')
    return lines.filter((line) => line.includes('OFDLCK') && numbers.has(line.split(/\s+/)[5]?.split(':')[2])).length
  }
})

test('a long read of the driver sees one state, whatever is written and checkpointed meanwhile', whereLocksHold, async (t) => {
  const { idem, db } = await both(t)
  // So long that a page of the index has few of them.
  const name = (number) => String(number).padStart(5, '0') + 'k'.repeat(200)
  const all = (numbers) => Promise.all(numbers.map((number) => idem.run({ scope: 's', key: name(number) }, () => randomBytes(6000).toString('hex'))))
  const numbers = Array.from({ length: 300 }, (_, at) => at * 2)
  await all(numbers)
  const SQL = 'SELECT key, length(result) AS length FROM oneflight_records ORDER BY scope, key'
  // It reads no more than it has to, so that its cache does not have the rest.
  const { length } = db.prepare(`${SQL} LIMIT 1`).get()
  const reading = db.prepare(SQL).iterate()
  const seen = [reading.next().value]
  // Between those that are not read yet, and more than a thousand pages: SQLite checkpoints, and begins its log anew if nobody reads.
  for (let round = 0; round < 30; round++) {
    await all(numbers.slice(290 - round * 10, 300 - round * 10).map((number) => number + 1))
    seen.push(reading.next().value)
  }
  seen.push(...reading)
  assert.deepEqual(seen, numbers.map((number) => ({ key: name(number), length })))
  assert.equal(db.pragma('integrity_check', { simple: true }), 'ok')
  assert.equal(db.prepare('SELECT count(*) AS count FROM oneflight_records').get().count, 600)
})

test('a process whose first three descriptors are closed opens its store', onLinux, async (t) => {
  const child = start(t, 'without-descriptors.mjs', `${folder()}/few.db`)
  assert.deepEqual(await child.next(), { values: [1, 2], leaked: 0 })
})

test('a file that could only be read is locked in every way once it can be written to', onLinux, async (t) => {
  const file = `${folder()}/read-only.db`
  await (await Idempotency.open(`sqlite:${file}`)).close()
  const child = start(t, 'read-only.mjs', file)
  assert.deepEqual(await child.next(), ['StoreFailed', 1, ['read-only.db']])
  assert.equal(await child.ended, 0)
})

for (const [which, where] of [['the system', ''], ['the file system', 'S_ISREG(it.st_mode)']]) {
  test(`where ${which} has no locks of open files, that is said`, onLinux, async (t) => {
    const library = without(where || '1')
    if (library === undefined) return t.skip('there is no C compiler')
    const child = start(t, 'without-locks.mjs', library, `${folder()}/unlocked.db`)
    const told = await child.next()
    if (where) assert.match(told.opened, /is on a file system without locks of open files/)
    else assert.deepEqual([told.opened, told.ran, told.warned], ['opened', 1, 1])
    if (!where) assert.match(told.transaction, /do not exclude each other in one process; use PostgreSQL/)
  })
}

/** Makes a library that lets no such lock pass, of descriptors for which a condition holds. */
function without(condition) {
  const library = `${folder()}/without.so`
  writeFileSync(`${library}.c`, `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
static int pass(const char *name, int descriptor, int command, void *argument) {
  struct stat it;
  if ((command == F_OFD_GETLK || command == F_OFD_SETLK) && fstat(descriptor, &it) == 0 && (${condition})) { errno = EINVAL; return -1; }
  int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
  return next(descriptor, command, argument);
}
#define PASS(name) int name(int descriptor, int command, ...) { \
  va_list all; va_start(all, command); void *argument = va_arg(all, void *); va_end(all); \
  return pass(#name, descriptor, command, argument); }
PASS(fcntl)
PASS(fcntl64)
`)
  const made = spawnSync('cc', ['-shared', '-fPIC', '-o', library, `${library}.c`, '-ldl'], { stdio: ['ignore', 'inherit', 'inherit'] })
  if (made.error?.code === 'ENOENT') return undefined
  assert.equal(made.status, 0)
  return library
}
