// The article's code as it is, behind `oneflight proxy`: what makes two orders of one without it makes one.
//
// The proxy's users are told apart by their cookie, so that each visitor has one.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { intention } from '../support/browser.mjs'
import { openTests, overlapping } from '../support/harness.mjs'
import { answered, backAndOnceMore, cases, doubleClick, isOneOrder, lostWithoutScripts } from './cases.mjs'
import { notesOnce } from './notes.mjs'

const { check, shops } = await openTests({ modes: ['proxied'] })
const shop = shops.proxied

/** What the proxy tells a browser that has sent a form. */
async function told(tab) {
  const shown = tab.page.locator('[data-problem]')
  await shown.waitFor()
  return shown.getAttribute('data-problem')
}

describe('the article, behind the proxy: one order', () => {
  for (const name of [
    'a double click with scripts off',
    'a reload during the request',
    'two tabs',
    'an answer that is lost after the commit',
    'an answer that is lost, and the browser asks again by itself'
  ]) {
    const { run, how } = cases[name]
    check(name, shop, async (it) => isOneOrder(it, await run(it)), how)
  }

  check('a double click', shop, doubleClick)

  check('an answer that is lost after the commit, with scripts off', shop, lostWithoutScripts)

  check('back, and once more', shop, backAndOnceMore)

  check('by a script, and then as a plain form', shop, async (it) => {
    const [{ tab }, plain] = [await it.visitor(), await it.visitor({ scripts: false })]
    await tab.send(it.intent, it.item)
    const order = await tab.order()
    await plain.tab.send(it.intent, it.item)
    await isOneOrder(it, [order, await plain.tab.order()])
  })

  check('as a plain form, and then by a script', shop, async (it) => {
    const [plain, { tab }] = [await it.visitor({ scripts: false }), await it.visitor()]
    await plain.tab.send(it.intent, it.item)
    const order = await plain.tab.order()
    await tab.send(it.intent, it.item)
    await isOneOrder(it, [order, await tab.order()])
  })

  check('two users with one key', shop, async (it) => {
    const [ada, bob] = [await it.visitor({ user: 'ada' }), await it.visitor({ user: 'bob' })]
    // Each writes a key of its own: the article's code asks its own store by the key alone.
    const other = intention()
    for (const [who, item] of [[ada, it.item], [bob, other.item]]) await (await who.tab.form(it.intent)).fill(item)
    await overlapping({ ...it, rows: () => shop.rows(other.item) }, () => ada.tab.press(), () => bob.tab.press())
    const orders = [await ada.tab.order(), await bob.tab.order()]
    assert.notEqual(orders[0].id, orders[1].id)
    for (const [who, item, order] of [[ada, it.item, orders[0]], [bob, other.item, orders[1]]]) {
      await isOneOrder({ shop, item }, [order])
      await who.tab.send(it.intent, item)
      assert.equal((await who.tab.order()).id, order.id)
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
    const answer = answered(other)
    await other.press()
    const { status, type, text } = await read(await answer)
    assert.deepEqual([status, type], [422, 'text/plain'])
    assert.match(text, /the key of this form was used before/i)
    // The action's promise has rejected, which the page shows as it shows each such thing.
    await other.error()
    const plain = (await it.visitor({ scripts: false })).tab
    await plain.send(it.intent, it.item, 3)
    assert.equal(await told(plain), 'KEY_REUSED')
    await plain.page.getByRole('link', { name: 'Back' }).click()
    await plain.isReady()
    await isOneOrder(it, [order])
  })

  check('the server is killed between commit and answer', shop, async (it) => {
    const { tab } = await it.visitor()
    const committed = it.staller.stallNext()
    await tab.form(it.intent)
    await tab.fill(it.item)
    const lost = answered(tab)
    await tab.press()
    await committed
    await it.app.kill()
    it.staller.goOn()
    assert.match((await read(await lost)).text, /no answer came/i)
    await tab.error()
    await it.app.restart()
    // What the article's code did is not known to the proxy, and so it is not done again: by a script, and without one.
    await tab.form(it.intent)
    await tab.fill(it.item)
    const held = answered(tab)
    await tab.press()
    const { status, text } = await read(await held)
    assert.equal(status, 409)
    assert.match(text, /not known whether this was done/i)
    const plain = (await it.visitor({ scripts: false })).tab
    await plain.send(it.intent, it.item)
    assert.equal(await told(plain), 'IN_DOUBT')
    assert.equal((await shop.rows(it.item)).length, 1)
  })
})

async function read(response) {
  return { status: response.status(), type: await response.headerValue('content-type'), text: await response.text() }
}

notesOnce(check, shop)
