// Compares what a call of the npm package costs with what people write by hand: a bare `Map` of promises in one process, and the
// article's code over a key-value store (get, work, set). Counts how often the work ran as well. Prints the tables and writes them
// into docs/benchmarks.md.
//
// Usage: bin/bench node [--quick] [--dry]
//
// All entrants take part in each round, in turn; given are the medians of the rounds, and the minima in brackets.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync, mkdtempSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism, cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { adapters, Group, Idempotency, InProgress } from 'oneflight'
import pg from 'pg'
import { createClient } from 'redis'
import { startPostgres } from '../../crates/oneflight-node/test/support/postgres.mjs'
import { startRedis } from '../../crates/oneflight-node/test/support/redis.mjs'

const { values: given } = parseArgs({ options: { quick: { type: 'boolean' }, dry: { type: 'boolean' } } })
const ROUNDS = given.quick ? 5 : 25
const load = loadavg()[0]

// ---- How it is measured.

/** Sorted, with the one in the middle. */
function spread(numbers) {
  const sorted = numbers.toSorted((one, other) => one - other)
  return { median: sorted[sorted.length >> 1], minimum: sorted[0] }
}

/**
 * Has each entrant take its turn in each round, and in some before that: a service runs for long, and its code is compiled by then. A turn
 * is a function that answers with how many calls it made. Returns microseconds a call, by name.
 */
async function measure(entrants, before = 2) {
  const taken = new Map(Object.keys(entrants).map((name) => [name, []]))
  for (let round = -before; round < ROUNDS; round++) {
    for (const [name, turn] of Object.entries(entrants)) {
      const begun = process.hrtime.bigint()
      const calls = await turn()
      const micros = Number(process.hrtime.bigint() - begun) / 1e3 / calls
      if (round >= 0) taken.get(name).push(micros)
    }
  }
  return new Map([...taken].map(([name, numbers]) => [name, spread(numbers)]))
}

const number = (it) => (it < 10 ? it.toFixed(2) : it < 100 ? it.toFixed(1) : it.toFixed(0))
const cell = ({ median, minimum }) => `${number(median)} (${number(minimum)})`
const ratio = (one, other) => `${number(one.median / other.median)} × (${number(one.minimum / other.minimum)})`

// ---- In one process.

const CALLERS = 1_000

/** What people write. */
function bareMap() {
  const flights = new Map()
  return (key, work) => {
    const joined = flights.get(key)
    if (joined !== undefined) return joined
    const flight = work().finally(() => flights.delete(key))
    flights.set(key, flight)
    return flight
  }
}

/** A turn: so many callers of one key, all of them there before the work ends. */
function crowd(call, valueOf) {
  return async () => {
    const key = randomUUID()
    let runs = 0
    let finish
    const gate = new Promise((resolve) => (finish = resolve))
    const work = async () => {
      runs++
      await gate
      return 4711
    }
    const calls = []
    for (let caller = 0; caller < CALLERS; caller++) calls.push(call(key, work))
    // The work of an entrant may begin later than its call.
    while (runs === 0) await new Promise(setImmediate)
    finish()
    for (const reply of await Promise.all(calls)) assert.equal(valueOf(reply), 4711)
    assert.equal(runs, 1)
    return CALLERS
  }
}

/** A turn: callers one after the other, each with a key of its own. */
function alone(call, calls) {
  return async () => {
    for (let made = 0; made < calls; made++) await call(randomUUID(), async () => 4711)
    return calls
  }
}

const byValue = (reply) => reply.value

// ---- On a server.

/** A turn: so many clients, each of which places orders one after the other. */
function clients(count, each, call) {
  return async () => {
    const client = async () => {
      for (let made = 0; made < each; made++) await call(randomUUID())
    }
    await Promise.all(Array.from({ length: count }, client))
    return count * each
  }
}

/** How often the work ran, if each of 100 keys is asked for by 10 callers at once. */
async function duplicates(call, count) {
  const keys = Array.from({ length: 100 }, () => randomUUID())
  const before = await count()
  await Promise.all(keys.flatMap((key) => Array.from({ length: 10 }, () => call(key))))
  return (await count()) - before
}

// ---- The run.

const folder = mkdtempSync(join(tmpdir(), 'oneflight-benches-'))
process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
const [postgres, redis] = [await startPostgres(), await startRedis()]
const kv = createClient({ url: redis.url })
await kv.connect()
const pool = new pg.Pool({ connectionString: postgres.url, max: 16 })
await pool.query('CREATE TABLE orders (id serial PRIMARY KEY, item text NOT NULL)')

const [inMemory, onSqlite, onRedis, onPostgres] = await Promise.all(
  ['memory:', `sqlite:${join(folder, 'records.db')}`, redis.url, postgres.url].map((url) => Idempotency.open(url))
)
const asked = (key) => ({ scope: 'orders', key, fingerprint: { item: 'tea', quantity: 1 } })

const inProcess = { 'in flight, a caller of 1,000': [], 'alone, ready work': [] }
{
  const [map, group] = [bareMap(), new Group()]
  const run = (key, work) => inMemory.run(asked(key), work)
  const withoutFingerprint = (key, work) => inMemory.run({ scope: 'orders', key }, work)
  inProcess['in flight, a caller of 1,000'] = await measure({
    'bare `Map`': crowd(map, (value) => value),
    '`Group`': crowd((key, work) => group.run(key, work), byValue),
    '`run`, no fingerprint': crowd(withoutFingerprint, byValue),
    '`run`': crowd(run, byValue)
  }, 50)
  inProcess['alone, ready work'] = await measure({
    'bare `Map`': alone(map, 10_000),
    '`Group`': alone((key, work) => group.run(key, work), 10_000),
    '`run`, no fingerprint': alone(withoutFingerprint, 300),
    '`run`': alone(run, 300)
  }, 10)
}

let worked = 0
const work = async (key) => {
  worked++
  return { order: 4711, key }
}

/** The article's code, with a mutation that takes no time. */
async function article(key) {
  const cached = await kv.get(`order:${key}`)
  if (cached) return JSON.parse(cached)
  const order = await work(key)
  await kv.set(`order:${key}`, JSON.stringify(order), { expiration: { type: 'EX', value: 24 * 3600 } })
  return order
}

/** The article's code, whose mutation is a row. */
async function articleWithRow(key) {
  const cached = await kv.get(`row:${key}`)
  if (cached) return JSON.parse(cached)
  const { rows: [order] } = await pool.query("INSERT INTO orders (item) VALUES ('tea') RETURNING id")
  await kv.set(`row:${key}`, JSON.stringify(order), { expiration: { type: 'EX', value: 24 * 3600 } })
  return order
}

/** The row alone, in a transaction: what there is without anything against duplicates. */
async function bareRow() {
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    const { rows: [order] } = await client.query("INSERT INTO orders (item) VALUES ('tea') RETURNING id")
    await client.query('COMMIT')
    return order
  } finally {
    client.release()
  }
}

async function rowInTransaction(key) {
  for (;;) {
    const client = await pool.connect()
    try {
      await client.query('BEGIN')
      const reply = await onPostgres.runInTransaction(asked(key), adapters.pg(client), async () => {
        const { rows: [order] } = await client.query("INSERT INTO orders (item) VALUES ('tea') RETURNING id")
        return order
      })
      await client.query('COMMIT')
      return reply.value
    } catch (error) {
      await client.query('ROLLBACK')
      if (!(error instanceof InProgress)) throw error
    } finally {
      client.release()
    }
    await sleep(5)
  }
}

const ours = (idem) => (key) => idem.run(asked(key), () => work(key))
const rowByRun = (key) =>
  onPostgres.run(asked(key), async () => {
    const { rows: [order] } = await pool.query("INSERT INTO orders (item) VALUES ('tea') RETURNING id")
    return order
  })

const withoutRow = { 'article: KV in Redis': article, '`run`, Redis': ours(onRedis), '`run`, SQLite': ours(onSqlite), '`run`, PostgreSQL': ours(onPostgres) }
const withRow = {
  'the transaction alone': bareRow,
  'article: row, KV in Redis': articleWithRow,
  '`runInTransaction`, PostgreSQL': rowInTransaction,
  '`run` around the row, PostgreSQL': rowByRun
}
const onServers = new Map()
for (const [about, entrants] of [['work that takes no time', withoutRow], ['an order, which is a row in PostgreSQL', withRow]]) {
  for (const count of [1, 16]) {
    const turns = Object.fromEntries(Object.entries(entrants).map(([name, call]) => [name, clients(count, 160 / count, call)]))
    onServers.set(`${about}, ${count === 1 ? '1 client' : `${count} clients`}`, await measure(turns))
  }
}

const rows = async () => Number((await pool.query('SELECT count(*) FROM orders')).rows[0].count)
const executions = {
  'article: KV in Redis': await duplicates(article, () => worked),
  '`run`, Redis': await duplicates(ours(onRedis), () => worked),
  '`run`, SQLite': await duplicates(ours(onSqlite), () => worked),
  '`run`, PostgreSQL': await duplicates(ours(onPostgres), () => worked),
  'article: row, KV in Redis': await duplicates(articleWithRow, rows),
  '`runInTransaction`, PostgreSQL': await duplicates(rowInTransaction, rows),
  '`run` around the row, PostgreSQL': await duplicates(rowByRun, rows)
}
for (const [name, count] of Object.entries(executions)) if (!name.startsWith('article')) assert.equal(count, 100, name)

// ---- What is told.

const table = (head, ...lines) =>
  [head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n')

function ofCases(cases) {
  return cases.map(([about, figures]) => {
    const names = [...figures.keys()]
    const [first] = figures.values()
    return table(
      [about, 'µs a call', `against ${names[0]}`],
      ...names.map((name) => [name, cell(figures.get(name)), name === names[0] ? '' : ratio(figures.get(name), first)])
    )
  })
}

const version = (name) => createRequire(import.meta.url)(`${name}/package.json`).version
const versions = `Node ${process.versions.node}, pg ${version('pg')}, redis ${version('redis')}, oneflight ${version('oneflight')}`
const facts = table(
  ['', ''],
  ['date', `${new Date().toISOString().slice(0, 19).replace('T', ' ')} UTC`],
  ['machine', `${availableParallelism()} cores, ${cpus()[0]?.model.split(' ').slice(0, 2).join(' ') ?? 'unknown'}`],
  ['load before', `${load.toFixed(2)} (of other programs; a quiet machine has about 0)`],
  ['rounds', `${ROUNDS}`],
  ['versions', versions]
)
const joined = inProcess['in flight, a caller of 1,000']
const aim = table(
  ['case', 'aim', 'reached', ''],
  ...['`Group`', '`run`, no fingerprint', '`run`'].map((name) => {
    const { median } = joined.get(name)
    return [`${name}: a call that joins one in flight, in process`, '≤ 3 µs', `${number(median)} µs`, median <= 3 ? 'met' : 'missed']
  })
)
const doubles = table(
  ['100 keys, 10 callers of each at once', 'executions', 'doubles'],
  ...Object.entries(executions).map(([name, count]) => [name, count, count - 100])
)
const text = [facts, aim, ...ofCases([...Object.entries(inProcess), ...onServers]), doubles].join('\n\n')
console.log(text)

if (!given.quick && !given.dry) {
  const [BEGIN, END] = ['<!-- node: begin (written by a run; edit nothing in here) -->', '<!-- node: end -->']
  const page = fileURLToPath(new URL('../../docs/benchmarks.md', import.meta.url))
  const [before, rest] = readFileSync(page, 'utf8').split(BEGIN)
  const after = rest?.split(END)[1]
  if (after === undefined) throw new Error(`${page} has no part between \`${BEGIN}\` and \`${END}\``)
  writeFileSync(page, `${before}${BEGIN}\n\n${text}\n\n${END}${after}`)
}

await Promise.all([inMemory, onSqlite, onRedis, onPostgres].map((idem) => idem.close()))
await Promise.all([pool.end(), kv.close()])
redis.stop()
postgres.stop()
