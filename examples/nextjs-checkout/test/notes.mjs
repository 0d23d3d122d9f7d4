// The small action: a note on an order, whose key is made of the order's. The same is done to the article's code and to ours.

import assert from 'node:assert/strict'
import { describe } from 'node:test'
import { overlapping } from '../support/harness.mjs'
import { cutting } from './cases.mjs'

/** As the cases of an order. */
const cases = {
  'a double submit of a note with scripts off': {
    wrong: 'a double submit of a note with scripts off is two notes',
    async run(it) {
      const { tab } = await ordered(it, { scripts: false })
      await overlapping(it, () => write(tab, it.item), () => tab.press('note'))
      await shown(tab, 1)
    }
  },

  'a note whose answer is lost after the commit': {
    wrong: 'a lost answer is two notes',
    async run(it) {
      const { tab, other } = await ordered(it)
      await overlapping(it, cutting(it, tab, () => write(tab, it.item)), async () => {
        assert.match(await tab.error(), /no answer/i)
        await write(other, it.item)
      })
      await shown(other, 1)
      // As the page has said: what was done stands there.
      await tab.page.getByRole('button', { name: 'Reload' }).click()
      await shown(tab, 1)
    }
  }
}

/** Places the order, and opens it in two tabs: the next note is the same in both. */
async function ordered(it, options) {
  const { tab, open } = await it.visitor(options)
  await tab.send(it.intent, it.item)
  await tab.order()
  const other = await open()
  await other.page.goto(tab.page.url())
  return { tab, other }
}

async function write(tab, text) {
  await fill(tab, text)
  await tab.press('note')
}

async function fill(tab, text) {
  await tab.isReady('note')
  await tab.page.fill('form#note input[name=text]', text)
}

/** Waits for the note of this number, and returns what it says. */
const shown = (tab, number) => tab.page.locator(`[data-note="${number}"]`).innerText()

async function areNotes({ shop, item, intent }, ...texts) {
  assert.deepEqual(await shop.notes(item), texts.map((text, at) => ({ text, key: `${intent}.note-${at + 1}` })))
}

const ofNotes = (it) => ({ ...it, rows: () => it.shop.notes(it.item) })

/** One note, however it is sent twice. */
export function notesOnce(check, shop) {
  for (const [name, { run }] of Object.entries(cases)) {
    check(name, shop, async (it) => {
      await run(ofNotes(it))
      await areNotes(it, it.item)
    })
  }
}

export function notes(check, shops) {
  describe('MODE=package: one note', () => {
    notesOnce(check, shops.package)

    check('a double click on a note, and another note', shops.package, async (it) => {
      const { tab } = await ordered(it)
      await fill(tab, it.item)
      await tab.page.locator('form#note button').dblclick()
      await shown(tab, 1)
      await write(tab, 'gift')
      await shown(tab, 2)
      await areNotes(it, it.item, 'gift')
    })

    check('the same key with another note', shops.package, async (it) => {
      const { tab, other } = await ordered(it)
      await write(tab, it.item)
      await shown(tab, 1)
      await write(other, 'gift')
      await other.error()
      assert.equal(await other.page.locator('[data-error]').getAttribute('data-error'), 'KeyReused')
      await areNotes(it, it.item)
      await other.page.getByRole('link', { name: 'Start anew' }).click()
      await shown(other, 1)
      await write(other, 'gift')
      await shown(other, 2)
      await areNotes(it, it.item, 'gift')
    })
  })

  describe("MODE=article: what the article's code gets wrong of notes", () => {
    for (const { wrong, run } of Object.values(cases)) {
      check(wrong, shops.article, async (it) => {
        await run(ofNotes(it))
        assert.equal((await shops.article.notes(it.item)).length, 2)
      })
    }

    check('the same key with another note is answered with the first one', shops.article, async (it) => {
      const { tab, other } = await ordered(it)
      await write(tab, it.item)
      await shown(tab, 1)
      await write(other, 'gift')
      assert.equal(await shown(other, 1), it.item)
      await areNotes(it, it.item)
    })
  })

  describe('MODE=service: no notes', () => {
    check('a shop that takes no notes has no form for them', shops.service, async (it) => {
      const { tab } = await ordered(it)
      assert.equal(await tab.page.locator('form#note').count(), 0)
    })
  })
}
