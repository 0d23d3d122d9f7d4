// Sends the form of each order many times at once, as browsers without scripts do, to the article's code and to the package, and prints
// what came of it side by side. Some clients hang up and come back later, some send again what was answered.
//
// Usage: node storm.mjs [--keys 40] [--duplicates 20] [--clients 48] [--hang-up 5] [--repeat 10] [--work-ms 50] [--seed NUMBER]
//                       [--behind proxy] [--json]
//
//   --behind proxy storms the article's code as it is behind `oneflight proxy`, in place of the package's
//   --keys         how many different orders are sent
//   --duplicates   how often each of them is sent
//   --clients      how many are sent at the same time
//   --hang-up      how many of 100 clients hang up before they are answered, and send again later
//   --repeat       how many of 100 send again after they were answered
//   --work-ms      how long a mutation takes
//   --seed         makes the same storm again
//
// The exit status is 1 if there is not exactly one order, one charge and one mail a key in mode package, or behind the proxy, or if a
// request got an error or a wrong answer there.

import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { buildApp, buildProxy, startApp, startPostgres, startProxy, startRedis, startStandIns } from './support/index.mjs'

const ANSWER_MS = 60_000
const SETTLE_MS = 60_000

const number = (fallback) => ({ type: 'string', default: String(fallback) })
const { values } = parseArgs({
  options: {
    keys: number(40),
    duplicates: number(20),
    clients: number(48),
    'hang-up': number(5),
    repeat: number(10),
    'work-ms': number(50),
    seed: number(Math.floor(Math.random() * 2 ** 31)),
    behind: { type: 'string' },
    json: { type: 'boolean', default: false }
  }
})
const { behind, ...numbers } = values
if (behind !== undefined && behind !== 'proxy') throw new Error(`--behind is ${behind}; give proxy`)
const settings = {}
for (const [name, value] of Object.entries(numbers)) {
  settings[name] = typeof value === 'string' ? Number(value) : value
  if (!Number.isInteger(Number(value)) || Number(value) < 0) throw new Error(`--${name} is ${value}; give a whole number`)
}

/** Numbers from 0 to below 1, the same for the same seed (xorshift32). */
function randomOf(seed) {
  let state = seed | 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

/** All of them are one user's: a key belongs to somebody. */
const COOKIE = { Cookie: 'user=storm' }

/** The fields of the form that a browser without scripts would send. */
async function formOf(url, key) {
  const page = await (await fetch(`${url}/?intent=${key}`, { headers: COOKIE })).text()
  const form = /<form\b[^>]*\bid="order"[^>]*>([\s\S]*?)<\/form>/.exec(page)?.[1]
  if (form === undefined) throw new Error(`there is no form at /?intent=${key}:\n${page}`)
  const fields = { item: `tea ${key}`, quantity: '1' }
  for (const [input] of form.matchAll(/<input\b[^>]*>/g)) {
    const attribute = (name) => unescaped(new RegExp(`\\b${name}="([^"]*)"`).exec(input)?.[1] ?? '')
    if (attribute('type') === 'hidden') fields[attribute('name')] = attribute('value')
  }
  return fields
}

function unescaped(text) {
  const named = { amp: '&', quot: '"', lt: '<', gt: '>', '#x27': "'" }
  return text.replace(/&(amp|quot|lt|gt|#x27);/g, (_, name) => named[name])
}

/** Sends the form. Returns the order's number and how the answer came to be. */
async function post(url, key, fields, signal) {
  const body = new FormData()
  for (const [name, value] of Object.entries(fields)) body.append(name, value)
  const request = { method: 'POST', body, redirect: 'manual', headers: { Origin: url, ...COOKIE }, signal }
  const response = await fetch(`${url}/?intent=${key}`, request)
  const text = await response.text()
  if (response.status !== 303) {
    throw new Error(/data-error="(\w+)"/.exec(text)?.[1] ?? `status ${response.status}`)
  }
  const answer = new URL(response.headers.get('location'), url).searchParams
  return { order: answer.get('order'), origin: answer.get('origin') }
}

async function storm(url, column) {
  const random = randomOf(settings.seed)
  const percent = (name) => random() * 100 < settings[name]
  const keys = Array.from({ length: settings.keys }, (_, at) => `${column.replace(' ', '-')}-${settings.seed}-${at}`)
  const forms = new Map()
  for (const key of keys) forms.set(key, await formOf(url, key))
  // Duplicates of a key are near to each other, and not in a row.
  const sends = keys.flatMap((key, at) => {
    return Array.from({ length: settings.duplicates }, () => ({
      key,
      when: at + random() * 3,
      hangUp: percent('hang-up') ? Math.ceil(random() * settings['work-ms'] * 1.5) : undefined,
      repeat: percent('repeat')
    }))
  })
  sends.sort((one, other) => one.when - other.when)

  const [times, errors, orders, origins] = [[], {}, new Map(), {}]
  async function ask(key) {
    const began = performance.now()
    try {
      const { order, origin } = await post(url, key, forms.get(key), AbortSignal.timeout(ANSWER_MS))
      times.push(performance.now() - began)
      orders.set(key, (orders.get(key) ?? new Set()).add(order))
      origins[origin] = (origins[origin] ?? 0) + 1
    } catch (error) {
      errors[error.message] = (errors[error.message] ?? 0) + 1
    }
  }
  async function client() {
    for (let send = sends.shift(); send !== undefined; send = sends.shift()) {
      if (send.hangUp !== undefined) {
        await post(url, send.key, forms.get(send.key), AbortSignal.timeout(send.hangUp)).catch(() => {})
        await sleep(settings['work-ms'] * random())
      }
      await ask(send.key)
      if (send.repeat) await ask(send.key)
    }
  }
  const began = performance.now()
  await Promise.all(Array.from({ length: settings.clients }, client))
  const seconds = (performance.now() - began) / 1000
  times.sort((one, other) => one - other)
  const at = (part) => Math.round(times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? 0)
  const differing = [...orders.values()].filter((it) => it.size > 1).length
  return { answers: times.length, errors, differing, origins, p50: at(0.5), p99: at(0.99), perSecond: Math.round(times.length / seconds) }
}

/** How many there are, and how many of them are more than one of a key. */
function counted(keys) {
  return { count: keys.length, doubles: keys.length - new Set(keys).size }
}

/** Counts when nothing comes any more: clients that hung up have left orders behind that are still being placed. */
async function settled(count, isDone) {
  let [last, since] = ['', Date.now()]
  for (const end = Date.now() + SETTLE_MS; ; await sleep(100)) {
    const now = await count()
    if (JSON.stringify(now) !== last) [last, since] = [JSON.stringify(now), Date.now()]
    if (Date.now() - since > 1_500 && (isDone(now) || Date.now() > end)) return now
  }
}

/** Storms a mode, or the article's code behind the proxy. */
async function run(column, servers) {
  const isProxied = column === 'behind proxy'
  const mode = isProxied ? 'article' : column
  const database = await servers.postgres.database(`storm_${column.replace(' ', '_')}`)
  const standIns = await startStandIns()
  const env = {
    DATABASE_URL: database.url,
    REDIS_URL: servers.redis.url,
    PAYMENT_URL: standIns.paymentUrl,
    MAIL_URL: standIns.mailUrl,
    WORK_MS: String(settings['work-ms'])
  }
  const app = await startApp({ mode, env })
  const proxy = isProxied ? await startProxy({ upstream: app.url }) : undefined
  try {
    // The article's code would find what the column before has left.
    const figures = await storm((proxy ?? app).url, column)
    const references = (messages) => messages.map(({ body }) => body.reference)
    const outcome = await settled(
      async () => ({
        orders: counted((await database.query('SELECT key FROM shop_orders')).map(({ key }) => key)),
        charges: counted(references(standIns.charges())),
        mails: counted(references(standIns.mails()))
      }),
      ({ orders, charges, mails }) => charges.count >= orders.count && mails.count >= orders.count
    )
    return { mode: column, keys: settings.keys, ...outcome, ...figures }
  } finally {
    await proxy?.stop()
    await app.stop()
    standIns.stop()
  }
}

function isRight({ keys, orders, charges, mails, errors, differing }) {
  const once = [orders, charges, mails].every(({ count, doubles }) => count === keys && doubles === 0)
  return once && differing === 0 && Object.keys(errors).length === 0
}

function print(columns) {
  const rows = [['', ({ mode }) => mode]]
  rows.push(['keys', ({ keys }) => keys])
  for (const what of ['orders', 'charges', 'mails']) rows.push([what, (it) => it[what].count])
  for (const what of ['orders', 'charges', 'mails']) rows.push([`doubled ${what}`, (it) => it[what].doubles])
  rows.push(['keys with two different answers', ({ differing }) => differing])
  rows.push(['errors', ({ errors }) => Object.values(errors).reduce((sum, count) => sum + count, 0)])
  rows.push(['answers', ({ answers }) => answers])
  for (const origin of ['executed', 'collapsed', 'replayed']) rows.push([`  ${origin}`, ({ origins }) => origins[origin] ?? 0])
  rows.push(['p50, ms', ({ p50 }) => p50], ['p99, ms', ({ p99 }) => p99], ['answers a second', ({ perSecond }) => perSecond])
  for (const [name, value] of rows) console.log(name.padEnd(34) + columns.map((it) => String(value(it)).padStart(14)).join(''))
  for (const { mode, errors } of columns) {
    for (const [message, count] of Object.entries(errors)) console.log(`error in mode ${mode}, ${count} times: ${message}`)
  }
}

buildApp()
if (behind) buildProxy()
const servers = { postgres: await startPostgres(), redis: await startRedis() }
// The tests read the server's log. A storm would only fill it.
await servers.postgres.query('ALTER SYSTEM RESET log_statement')
await servers.postgres.query('SELECT pg_reload_conf()')
try {
  const columns = [await run('article', servers), await run(behind ? 'behind proxy' : 'package', servers)]
  if (settings.json) {
    console.log(JSON.stringify({ settings, columns }))
  } else {
    console.log(`${settings.keys} orders, each sent ${settings.duplicates} times by ${settings.clients} clients, seed ${settings.seed}\n`)
    print(columns)
  }
  if (columns[0].orders.doubles === 0) console.error("the article's code made no doubles this time: try more --duplicates or --clients")
  process.exitCode = isRight(columns[1]) ? 0 : 1
} finally {
  servers.redis.stop()
  await servers.postgres.stop()
}
