// The payment API fails, behind the commit of an order. The customer has the order at once, and the mail when it is known what came of
// the charge.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { outside } from '../support/harness.mjs'
import { CUT } from '../support/stand-ins.mjs'

/** Places an order whose charge is answered so, one attempt after the other, and then as ever. Returns the list of all that is asked. */
async function placed(it, ...answers) {
  const asked = []
  it.shop.standIns.fail(({ path, key, body }) => {
    if (body.item !== it.item) return
    asked.push({ path, key })
    if (path === '/v1/charges') return answers.shift()
  })
  const { tab } = await it.visitor()
  await tab.send(it.intent, it.item)
  await tab.order()
  return { tab, asked }
}

/** All attempts at the charge are under one key, and the mail comes after them. */
function areAsked(asked, charges) {
  assert.deepEqual(asked.map(({ path }) => path), [...Array(charges).fill('/v1/charges'), '/mails'])
  assert.equal(new Set(asked.map(({ key }) => key)).size, 2, 'a key of the charge, and one of the mail')
}

const of = ({ item }, messages) => messages.filter(({ body }) => body.item === item)

export function payments(check, shop) {
  describe('MODE=package: a payment API that fails', () => {
    check('a charge that fails twice is made once, before the mail', shop, async (it) => {
      const { asked } = await placed(it, 500, 500)
      await outside(shop, it.item, 1)
      areAsked(asked, 3)
      assert.equal(of(it, shop.standIns.charges())[0].times, 1)
    })

    check('a charge whose answer is lost is asked for again, and made once', shop, async (it) => {
      const { asked } = await placed(it, CUT)
      await outside(shop, it.item, 1)
      areAsked(asked, 2)
      assert.equal(of(it, shop.standIns.charges())[0].times, 2)
    })

    check('a charge that is declined cancels its order, and page and mail say so', shop, async (it) => {
      const { tab, asked } = await placed(it, 402)
      await outside(shop, it.item, 0, 1)
      areAsked(asked, 1)
      assert.equal(of(it, shop.standIns.mails())[0].body.isCancelled, true)
      await tab.page.reload()
      await tab.page.locator('[data-cancelled]').waitFor()
    })
  })
}
