// The same sources, built with Next 15.5: what differs between the two is the client that sends actions, and the server that takes them;
// and so what the proxy reads of both.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe } from 'node:test'
import { fileURLToPath } from 'node:url'
import { openTests } from '../support/harness.mjs'
import { backAndOnceMore, cases, doubleClick, isOneOrder, lostWithoutScripts } from './cases.mjs'

const home = mkdtempSync(join(tmpdir(), 'nextjs-checkout-15-'))
process.once('exit', () => rmSync(home, { recursive: true, force: true }))
execFileSync(process.execPath, [fileURLToPath(new URL('../scripts/with-next-15.mjs', import.meta.url)), home], { stdio: 'inherit' })

const { check, shops } = await openTests({ modes: ['package', 'proxied'], home })

function onceEach(shop) {
  check('a double click', shop, doubleClick)
  for (const name of ['a double click with scripts off', 'an answer that is lost after the commit']) {
    check(name, shop, async (it) => isOneOrder(it, await cases[name].run(it)))
  }
}

describe('Next 15.5, MODE=package: one order', () => onceEach(shops.package))

describe('Next 15.5, the article, behind the proxy: one order', () => {
  onceEach(shops.proxied)
  check('an answer that is lost after the commit, with scripts off', shops.proxied, lostWithoutScripts)
  check('back, and once more', shops.proxied, backAndOnceMore)
})
