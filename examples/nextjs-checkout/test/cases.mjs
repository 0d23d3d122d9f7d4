// What is done to the page so that an order is asked for twice at the same time. Each returns the orders that were shown in the end.

import assert from 'node:assert/strict'
import { outside, overlapping } from '../support/harness.mjs'

/**
 * The same is done to the article's code and to ours. `wrong` says what comes of the former, and `charged` how many of its two orders are
 * paid if not both; `how` is of the site that it takes.
 */
export const cases = {
  'a double click with scripts off': {
    wrong: 'a double click with scripts off is two orders',
    async run(it) {
      const { tab } = await it.visitor({ scripts: false })
      await overlapping(it, () => tab.send(it.intent, it.item), () => tab.press())
      return [await tab.order()]
    }
  },

  'a reload during the request': {
    wrong: 'a reload during the request is two orders',
    async run(it) {
      const { tab } = await it.visitor()
      await overlapping(it, () => tab.send(it.intent, it.item), () => tab.send(it.intent, it.item))
      return [await tab.order()]
    }
  },

  'two tabs': {
    wrong: 'two tabs are two orders',
    async run(it) {
      const { tab, open } = await it.visitor()
      const other = await open()
      for (const each of [tab, other]) await (await each.form(it.intent)).fill(it.item)
      await overlapping(it, () => tab.press(), () => other.press())
      return [await tab.order(), await other.order()]
    }
  },

  'an answer that is lost after the commit': {
    wrong: 'a lost answer is two orders',
    async run(it) {
      const { tab } = await it.visitor()
      await overlapping(it, cutting(it, tab), async () => {
        assert.match(await tab.error(), /no answer/i)
        await tab.send(it.intent, it.item)
      })
      return [await tab.order()]
    }
  },

  'an answer that is lost, and the browser asks again by itself': {
    wrong: 'a browser that asks again by itself makes two orders',
    how: { keepAlive: true },
    async run(it) {
      const { tab } = await it.visitor()
      await overlapping(it, cutting(it, tab), () => {})
      return [await tab.order()]
    }
  },

  'Next sends a lost action again': {
    wrong: 'Next sends a lost action again, which is two orders',
    how: { offline: true },
    async run(it) {
      const { tab } = await it.visitor()
      await overlapping(it, cutting(it, tab), () => {})
      return [await tab.order()]
    }
  },

  'the server is killed between commit and answer': {
    wrong: 'a server that is killed between commit and answer makes two orders',
    async run(it) {
      const { tab } = await it.visitor()
      const committed = it.staller.stallNext()
      await tab.send(it.intent, it.item)
      await committed
      await it.app.kill()
      it.staller.goOn()
      await it.app.restart()
      await tab.send(it.intent, it.item)
      return [await tab.order()]
    },
    // Of the first one nobody was told: it is not paid.
    charged: 1
  }
}

/** Sends a form, and has the connection end when what it asks for is committed. */
export function cutting(it, tab, send = () => tab.send(it.intent, it.item)) {
  return async (committed) => {
    const cut = it.cutter.cutNextAnswer(() => committed)
    await send()
    await cut
  }
}

/** The one order that there is of this item. In mode `package`, and behind the proxy, it was charged and mailed, once each. */
export async function oneOrder({ shop, item }) {
  const rows = await shop.rows(item)
  assert.equal(rows.length, 1, `there are ${rows.length} orders: ${JSON.stringify(rows)}`)
  if (shop.mode === 'package' || shop.mode === 'proxied') await outside(shop, item, 1)
  return rows[0]
}

export async function isOneOrder(it, orders) {
  const { id } = await oneOrder(it)
  assert.deepEqual(orders.map((order) => order.id), orders.map(() => id))
}

/** What is said of the next POST to the page: status and headers, as the browser has got them. */
export function answered(tab) {
  return tab.page.waitForResponse((response) => response.request().method() === 'POST')
}

/** What was sent is sent again from the history: the redirect is replayed, by the proxy. */
export async function backAndOnceMore(it) {
  const { tab } = await it.visitor()
  await tab.send(it.intent, it.item)
  const { id } = await tab.order()
  await tab.page.goBack()
  await tab.isReady()
  await tab.fill(it.item)
  const answer = answered(tab)
  await tab.press()
  assert.equal(await (await answer).headerValue('idempotency-origin'), 'replayed')
  assert.match(await (await answer).headerValue('x-action-redirect'), new RegExp(`order=${id}`))
  await isOneOrder(it, [await tab.order()])
}

/** An answer is lost, and a browser without scripts sends the form again. */
export async function lostWithoutScripts(it) {
  const { tab } = await it.visitor({ scripts: false })
  await overlapping(it, cutting(it, tab), () => tab.send(it.intent, it.item))
  await isOneOrder(it, [await tab.order()])
}

/** A double click as a hand makes it. The button is off from the first click on. */
export async function doubleClick(it) {
  const { tab } = await it.visitor()
  await (await tab.form(it.intent)).fill(it.item)
  await tab.page.locator('form#order button[type=submit]').dblclick()
  await isOneOrder(it, [await tab.order()])
}
