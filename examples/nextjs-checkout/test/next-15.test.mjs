// The same sources, built with Next 15.5: what differs between the two is the client that sends actions, and the server that takes them.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe } from 'node:test'
import { fileURLToPath } from 'node:url'
import { openTests } from '../support/harness.mjs'
import { cases, doubleClick, isOneOrder } from './cases.mjs'

const home = mkdtempSync(join(tmpdir(), 'nextjs-checkout-15-'))
process.once('exit', () => rmSync(home, { recursive: true, force: true }))
execFileSync(process.execPath, [fileURLToPath(new URL('../scripts/with-next-15.mjs', import.meta.url)), home], { stdio: 'inherit' })

const { check, shops } = await openTests({ modes: ['package'], home })

describe('Next 15.5, MODE=package: one order', () => {
  check('a double click', shops.package, doubleClick)
  for (const name of ['a double click with scripts off', 'an answer that is lost after the commit']) {
    check(name, shops.package, async (it) => isOneOrder(it, await cases[name].run(it)))
  }
})
