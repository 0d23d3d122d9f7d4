// The checkout in a real browser, built and started as it is deployed: whatever is done to the page, an intent is one order. The
// same is done to the article's code, and its doubles are counted.
//
// All tests share one PostgreSQL, one Redis and one browser, and one application a mode. Pictures of what was seen in the end go to
// the folder SCREENSHOTS, or a temporary one.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { intention } from '../support/browser.mjs'
import { openTests, outside, untilPosts } from '../support/harness.mjs'
import { OURS } from '../support/postgres.mjs'
import { cases, doubleClick, isOneOrder, oneOrder } from './cases.mjs'
import { notes } from './notes.mjs'
import { payments } from './payments.mjs'

const { check, postgres, shops } = await openTests()

for (const mode of ['package', 'service']) {
  describe(`MODE=${mode}: one order`, () => {
    const shop = shops[mode]

    for (const [name, { run, how }] of Object.entries(cases)) {
      check(name, shop, async (it) => isOneOrder(it, await run(it)), how)
    }

    check('a double click', shop, doubleClick)

    check('scripts off', shop, async (it) => {
      const { tab } = await it.visitor({ scripts: false })
      await tab.send(it.intent, it.item, 2)
      const { id, origin } = await tab.order()
      assert.equal(origin, 'executed')
      const row = await oneOrder(it)
      assert.deepEqual([row.id, row.quantity], [id, 2])
      // A page that was fetched: to load it again sends nothing.
      const before = it.cutter.posts()
      await tab.page.reload()
      assert.equal((await tab.order()).id, id)
      assert.equal(it.cutter.posts(), before)
    })

    check('back, and once more', shop, async (it) => {
      const { tab } = await it.visitor()
      await tab.send(it.intent, it.item)
      const { id } = await tab.order()
      await tab.page.goBack()
      await tab.isReady()
      assert.equal(await tab.page.inputValue('form#order input[name=key]'), it.intent)
      await tab.fill(it.item)
      await tab.press()
      assert.deepEqual(await tab.order(), { id, origin: 'replayed' })
      await isOneOrder(it, [{ id }])
      // Another order is another intent.
      await tab.page.locator('a[data-again]').click()
      await tab.isReady()
      assert.notEqual(await tab.page.inputValue('form#order input[name=key]'), it.intent)
    })

    check('two users with one key', shop, async (it) => {
      const [ada, bob] = [await it.visitor({ user: 'ada' }), await it.visitor({ user: 'bob' })]
      const other = intention().item
      await (await ada.tab.form(it.intent)).fill(it.item)
      await (await bob.tab.form(it.intent)).fill(other)
      await Promise.all([ada.tab.press(), bob.tab.press()])
      const orders = [await ada.tab.order(), await bob.tab.order()]
      assert.notEqual(orders[0].id, orders[1].id)
      // Each has the order of their own, now and when they ask once more.
      for (const [who, item, order] of [[ada, it.item, orders[0]], [bob, other, orders[1]]]) {
        await isOneOrder({ shop, item }, [order])
        await who.tab.send(it.intent, item)
        assert.deepEqual(await who.tab.order(), { id: order.id, origin: 'replayed' })
        assert.match(await who.tab.page.innerText('main'), new RegExp(item))
        await isOneOrder({ shop, item }, [order])
      }
    })

    check('the same key with other fields', shop, async (it) => {
      const { tab, open } = await it.visitor()
      const other = await open()
      await (await other.form(it.intent)).fill(it.item, 2)
      await tab.send(it.intent, it.item, 1)
      const order = await tab.order()
      await other.press()
      assert.match(await other.error(), /the key of this form was used before/i)
      await isOneOrder(it, [order])
    })
  })
}

describe('MODE=package: one order', () => {
  check('two tabs, each at another server', shops.package, async (it) => {
    const { tab, open } = await it.visitor()
    const other = await open()
    const { cutter } = await it.shop.site()
    other.url = cutter.url
    const written = it.staller.stallNext('written')
    await tab.send(it.intent, it.item)
    await written
    // The first one is in its transaction. The second waits, and not in one.
    await other.send(it.intent, it.item)
    await untilPosts(cutter, 1)
    await sleep(300)
    it.staller.goOn()
    const orders = [await tab.order(), await other.order()]
    assert.deepEqual(orders.map(({ origin }) => origin), ['executed', 'replayed'])
    await isOneOrder(it, orders)
    // The first one is the other build: so these are two processes.
  }, { offline: true })
})

describe('MODE=service: one order', () => {
  check('the service is killed between commit and answer', shops.service, async (it) => {
    const { tab } = await it.visitor()
    const committed = it.staller.stallNext()
    await tab.send(it.intent, it.item)
    await committed
    await it.shop.service.kill()
    it.staller.goOn()
    await it.shop.service.restart()
    await tab.send(it.intent, it.item)
    await isOneOrder(it, [await tab.order()])
  })
})

describe("MODE=article: what the article's code gets wrong", () => {
  const shop = shops.article

  for (const { wrong, run, how, charged = 2 } of Object.values(cases)) {
    const body = async (it) => {
      await run(it)
      assert.equal((await shop.rows(it.item)).length, 2, 'what docs/nextjs.md says of the article is no longer so')
      await outside(shop, it.item, charged)
    }
    check(wrong, shop, body, how)
  }

  check("another user's key shows their order", shop, async (it) => {
    const [ada, bob] = [await it.visitor({ user: 'ada' }), await it.visitor({ user: 'bob' })]
    const other = intention().item
    await ada.tab.send(it.intent, it.item)
    const hers = await ada.tab.order()
    await bob.tab.send(it.intent, other)
    assert.equal((await bob.tab.order()).id, hers.id)
    assert.match(await bob.tab.page.innerText('main'), new RegExp(it.item))
    assert.equal((await shop.rows(other)).length, 0)
  })

  check('the same key with other fields is answered with the first order', shop, async (it) => {
    const { tab, open } = await it.visitor()
    const other = await open()
    await (await other.form(it.intent)).fill(it.item, 2)
    await tab.send(it.intent, it.item, 1)
    const { id } = await tab.order()
    await other.press()
    assert.equal((await other.order()).id, id)
  })
})

notes(check, shops)
payments(check, shops.package)

// ---- One id.

/** Places an order, and returns the correlation id by which the browser knows it. */
async function orderById(it) {
  const { tab } = await it.visitor({ user: 'ada' })
  await tab.form(it.intent)
  await tab.fill(it.item)
  const answered = tab.page.waitForResponse((response) => response.request().method() === 'POST')
  await tab.press()
  const id = await (await answered).headerValue('x-correlation-id')
  await tab.order()
  assert.match(id ?? '', /^[\w-]{16,}$/)
  return id
}

function isLogged({ app }, id) {
  const lines = app.output().split('\n').filter((line) => line.startsWith('{'))
  return lines.some((line) => JSON.parse(line).correlationId === id)
}

/** What PostgreSQL has logged of it, without what the tests have asked. */
const statements = (id) => postgres.log().split('\n').filter((line) => line.includes(id) && !line.includes(`<${OURS}>`))

describe('one correlation id', () => {
  check('MODE=package: in browser, log, rows, outbox, payment, mail, and in the log of PostgreSQL', shops.package, async (it) => {
    const id = await orderById(it)
    assert.equal((await oneOrder(it)).correlation_id, id)
    assert.ok(isLogged(it, id), 'the log of the application')
    const sent = await it.shop.database.query('SELECT topic FROM oneflight_messages WHERE correlation_id = $1 ORDER BY topic', [id])
    assert.deepEqual(sent.map(({ topic }) => topic), ['mail.receipt', 'payment.charge'])
    for (const messages of [it.shop.standIns.charges(), it.shop.standIns.mails()]) {
      const [message] = messages.filter(({ correlationId }) => correlationId === id)
      assert.match(JSON.stringify(message), new RegExp(it.item))
    }
    assert.match(statements(id).join('\n'), /insert into "?shop_orders/i)
  })

  check('MODE=service: in browser, log and the rows of the service', shops.service, async (it) => {
    const id = await orderById(it)
    assert.equal((await oneOrder(it)).correlation_id, id)
    assert.ok(isLogged(it, id), 'the log of the application')
  })
})
