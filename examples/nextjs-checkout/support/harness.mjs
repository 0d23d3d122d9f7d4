// What the browser tests share: the servers, the shops in each mode, and a test that tells what the application said if it fails.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { buildApp } from './app.mjs'
import { intention, startBrowser } from './browser.mjs'
import { startPostgres } from './postgres.mjs'
import { buildProxy } from './proxy.mjs'
import { startRedis } from './index.mjs'
import { buildService } from './service.mjs'
import { openShop } from './shop.mjs'

/** Builds and starts what is tested, and has it end after the tests. */
export async function openTests({ modes = ['article', 'package', 'service'], home } = {}) {
  if (modes.includes('service')) buildService()
  if (modes.includes('proxied')) buildProxy()
  buildApp({ home })
  const postgres = await startPostgres()
  const redis = await startRedis()
  const browser = await startBrowser()
  console.log(`pictures are in ${browser.folder}`)
  const shops = {}
  for (const mode of modes) shops[mode] = await openShop(mode, { postgres, redis, home })

  after(async () => {
    await browser.close()
    await Promise.all(modes.map((mode) => shops[mode].close()))
    redis.stop()
    await postgres.stop()
  })

  const sites = new Map()
  function siteOf(shop, how) {
    const name = JSON.stringify([shop.mode, how])
    if (!sites.has(name)) sites.set(name, shop.site(how))
    return sites.get(name)
  }

  /**
   * A test of a shop. `body` is given a new intent, an item that nobody else orders, and what begins a visit; pictures of the tabs that
   * it opened are taken in the end. `how` is what `site` of the shop takes.
   */
  function check(name, shop, body, how = {}) {
    test(name, async () => {
      if (how.offline) buildApp({ home, offline: true })
      const { app, cutter, proxy } = await siteOf(shop, how)
      const before = app.output().length
      const unproxied = proxy?.output().length
      const [visitors, tabs] = [[], []]
      async function visitor(options) {
        // Before the proxy a key belongs to somebody.
        const made = await browser.visitor(cutter.url, { ...(proxy && { user: 'eve' }), ...options })
        visitors.push(made)
        const open = async () => {
          const tab = await made.open()
          tabs.push(tab)
          return tab
        }
        return { open, tab: await open() }
      }
      try {
        const intended = intention()
        const rows = () => shop.rows(intended.item)
        await body({ ...intended, rows, shop, app, cutter, proxy, staller: shop.staller, visitor })
      } catch (error) {
        const service = shop.service === undefined ? '' : `\n--- the service said last:\n${shop.service.output().slice(-2_000)}`
        const proxied = proxy === undefined ? '' : `\n--- the proxy said:\n${proxy.output().slice(unproxied).slice(-6_000)}`
        error.message += `\n--- the application said:\n${app.output().slice(before).slice(-6_000)}${service}${proxied}`
        throw error
      } finally {
        // What a test that has failed left behind.
        shop.staller.goOn()
        shop.standIns.fail()
        cutter.forget()
        for (const [at, tab] of tabs.entries()) await tab.picture(`${shop.mode} ${name} ${at + 1}`).catch(() => {})
        for (const it of visitors) await it.close()
      }
    })
  }

  return { check, postgres, shops }
}

export async function until(what, condition, ms = 20_000) {
  for (const end = Date.now() + ms; !(await condition()); await sleep(20)) {
    assert.ok(Date.now() < end, `${what}: not in ${ms} ms`)
  }
}

/** Waits until so many POST requests have come. */
export const untilPosts = (cutter, count) => until(`${count} requests`, () => cutter.posts() >= count)

/** Waits until so many charges and mails of this item have come to the stand-ins. */
export async function outside({ standIns }, item, charges, mails = charges) {
  const about = (messages) => messages.filter(({ body }) => JSON.stringify(body).includes(item)).length
  const counts = () => [about(standIns.charges()), about(standIns.mails())]
  const wanted = [charges, mails]
  await until(`charges and mails of ${item}`, () => counts().every((it, at) => it >= wanted[at]))
  assert.deepEqual(counts(), wanted, 'charges and mails')
}

/** Has two requests of one intent be under way at once: the second is sent when the first has committed and was not answered. */
export async function overlapping({ cutter, staller, shop, rows }, first, second) {
  const before = cutter.posts()
  const committed = staller.stallNext()
  await first(committed)
  await committed
  await second()
  await untilPosts(cutter, before + 2)
  // The article's code writes its second row now. Ours has time to do the same.
  if (shop.mode === 'article') await until('a second row', async () => (await rows()).length === 2)
  else await sleep(300)
  staller.goOn()
}
