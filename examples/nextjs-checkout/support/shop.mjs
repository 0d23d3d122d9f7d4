// A shop of the tests: the application in one mode, with what it needs, a staller before its database and a cutter before itself, and
// the proxy between the two, if it stands behind one.

import { startApp } from './app.mjs'
import { startCutter } from './cutter.mjs'
import { startProxy } from './proxy.mjs'
import { startService } from './service.mjs'
import { startStaller } from './staller.mjs'
import { startStandIns } from './stand-ins.mjs'

/** Long enough that a duplicate comes while it works. */
const WORK_MS = 300

const NOTES = `
  SELECT shop_notes.text, shop_notes.key FROM shop_notes JOIN shop_orders ON order_id = shop_orders.id
  WHERE item = $1 ORDER BY shop_notes.id`

/** What the shop of a mode is made of: `proxied` is the article's code as it is, behind the proxy. */
const BEHIND = { proxied: 'article' }

/** Opens the shop of a mode: `article`, `package`, `service` or `proxied`. */
export async function openShop(mode, { postgres, redis, home }) {
  const database = await postgres.database(mode)
  const staller = await startStaller(database.url)
  const standIns = await startStandIns()
  const isRemote = mode === 'service'
  const service = isRemote ? await startService({ databaseUrl: staller.url, delayMs: WORK_MS }) : undefined
  // The application has a database in that mode as well, and the orders are not in it.
  const databaseUrl = isRemote ? (await postgres.database('beside_the_service')).url : staller.url
  const env = {
    DATABASE_URL: databaseUrl,
    REDIS_URL: redis.url,
    PAYMENT_URL: standIns.paymentUrl,
    MAIL_URL: standIns.mailUrl,
    WORK_MS: String(WORK_MS),
    ...(isRemote && { SERVICE_URL: service.url })
  }
  const apps = new Map()
  const cutters = []
  const app = (offline) => {
    if (!apps.has(offline)) apps.set(offline, startApp({ mode: BEHIND[mode] ?? mode, env, offline, home }))
    return apps.get(offline)
  }
  const proxies = new Map()
  const proxy = (offline, upstream) => {
    if (!proxies.has(offline)) proxies.set(offline, startProxy({ upstream }))
    return proxies.get(offline)
  }
  const orders = isRemote
    ? 'SELECT id::text, item, quantity::int, idempotency_key AS key, correlation_id FROM orders WHERE item = $1 ORDER BY orders.id'
    : 'SELECT id::text, "user", item, quantity::int, key, correlation_id FROM shop_orders WHERE item = $1 ORDER BY shop_orders.id'
  return {
    mode,
    database,
    staller,
    standIns,
    service,
    /** The orders of an item. */
    rows: (item) => database.query(orders, [item]),
    /** The notes on the order of an item. */
    notes: (item) => database.query(NOTES, [item]),
    /**
     * A way to the application, which is started by the first one. `offline` is the build that sends again what failed; with
     * `keepAlive` the browser keeps its connections.
     */
    async site({ offline = false, keepAlive = false } = {}) {
      const started = await app(offline)
      const before = mode in BEHIND ? await proxy(offline, started.url) : undefined
      const cutter = await startCutter((before ?? started).url, { keepAlive })
      cutters.push(cutter)
      return { app: started, cutter, proxy: before }
    },
    async close() {
      for (const it of cutters) it.stop()
      // Each waits some seconds for connections that nobody uses any more.
      await Promise.all([...proxies.values(), ...apps.values()].map(async (it) => (await it).stop()))
      await service?.stop()
      staller.stop()
      standIns.stop()
    }
  }
}
