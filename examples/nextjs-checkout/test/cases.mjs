// What is done to the page, whatever version of Next serves it; and the one order that is to come of it.

import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { outside, untilPosts } from '../support/harness.mjs'

/** The one order that there is of this item. In mode `package` it was charged and mailed, once each. */
export async function oneOrder({ shop, item }) {
  const rows = await shop.rows(item)
  assert.equal(rows.length, 1, `there are ${rows.length} orders: ${JSON.stringify(rows)}`)
  if (shop.mode === 'package') await outside(shop, item, 1)
  return rows[0]
}

export async function doubleClick(it) {
  const { tab } = await it.visitor()
  await tab.form(it.intent)
  await tab.fill(it.item)
  await tab.page.locator('form#order button[type=submit]').dblclick()
  const { id, origin } = await tab.order()
  assert.equal(origin, 'executed')
  assert.equal((await oneOrder(it)).id, id)
}

/** Before the scripts have come, and where they never do: each click is a request. */
export async function doubleClickWithoutScripts(it) {
  const before = it.cutter.posts()
  const { tab } = await it.visitor({ scripts: false })
  await tab.send(it.intent, it.item, 2)
  await untilPosts(it.cutter, before + 1)
  await tab.press()
  await untilPosts(it.cutter, before + 2)
  const { id, origin } = await tab.order()
  assert.notEqual(origin, 'executed')
  const row = await oneOrder(it)
  assert.deepEqual([row.id, row.quantity], [id, 2])
}

export async function lostAnswer(it) {
  const { tab } = await it.visitor()
  const cut = it.cutter.cutNextAnswer()
  await tab.send(it.intent, it.item)
  await cut
  assert.match(await tab.error(), /no answer/i)
  const { id } = await oneOrder(it)
  await tab.send(it.intent, it.item)
  assert.deepEqual(await tab.order(), { id, origin: 'replayed' })
  await oneOrder(it)
}

/** Next's client sends an action again whose answer it did not get, as soon as it reaches the server. */
export async function sentAgainByNext(it) {
  const { tab } = await it.visitor()
  await tab.form(it.intent)
  await tab.fill(it.item)
  const before = it.cutter.posts()
  const cut = it.cutter.cutNextAnswer(() => it.staller.stallNextOrder())
  await tab.press()
  await cut
  await untilPosts(it.cutter, before + 2)
  // Time to make another order.
  await sleep(300)
  it.staller.goOn()
  const { id } = await tab.order()
  assert.equal((await oneOrder(it)).id, id)
}
