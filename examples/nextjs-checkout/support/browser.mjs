// A browser, and visitors of the checkout in it.

import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium } from 'playwright-core'

const PROGRAM = '/usr/bin/chromium'

/** What a page is waited for. It is long, for a machine that has other things to do. */
const PATIENCE_MS = 30_000

/** Starts the browser. */
export async function startBrowser() {
  if (!existsSync(PROGRAM)) throw new Error(`there is no ${PROGRAM}; install the package \`chromium\``)
  const browser = await chromium.launch({ executablePath: PROGRAM, args: ['--no-sandbox'] })
  const folder = process.env.SCREENSHOTS ?? mkdtempSync(join(tmpdir(), 'oneflight-screenshots-'))
  mkdirSync(folder, { recursive: true })

  /** Begins to visit a shop. A visitor has cookies of its own: another one is another person, or another browser. */
  async function visitor(url, { user, scripts = true } = {}) {
    const context = await browser.newContext({ javaScriptEnabled: scripts, viewport: { width: 900, height: 640 } })
    context.setDefaultTimeout(PATIENCE_MS)
    const open = async () => new Tab(await context.newPage(), url, scripts, folder)
    if (user !== undefined) {
      const tab = await open()
      await tab.page.goto(`${url}/login?user=${user}`)
      await tab.page.close()
    }
    return { open, close: () => context.close() }
  }

  return { visitor, folder, close: () => browser.close() }
}

/** A tab of a visitor's. */
class Tab {
  constructor(page, url, scripts, folder) {
    Object.assign(this, { page, url, scripts, folder, places: {} })
  }

  /** Opens the form of an intent, and waits until React has it. */
  async form(intent) {
    await this.page.goto(`${this.url}/?intent=${intent}`)
    await this.isReady()
    return this
  }

  async isReady(form = 'order') {
    await this.page.locator(`form#${form}`).waitFor()
    if (!this.scripts) return
    await this.page.waitForFunction((id) => Object.keys(document.getElementById(id)).some((it) => it.startsWith('__react')), form)
  }

  async fill(item, quantity = 1) {
    await this.page.fill('form#order input[name=item]', item)
    await this.page.fill('form#order input[name=quantity]', String(quantity))
    return this
  }

  /** Presses the button, and waits for nothing. */
  async press(form = 'order') {
    const button = this.page.locator(`form#${form} button[type=submit]`)
    if (this.scripts) return button.click({ noWaitAfter: true })
    // Not by the button: the driver would wait for the navigation that an earlier click has begun. A user does not.
    const { x, y, width, height } = (this.places[form] ??= await button.boundingBox())
    return this.page.mouse.click(x + width / 2, y + height / 2)
  }

  /** Opens the form of an intent, fills it and sends it. */
  async send(intent, item, quantity) {
    await this.form(intent)
    await this.fill(item, quantity)
    await this.press()
    return this
  }

  /** Waits for the order, and returns its number and how the answer came to be. */
  async order() {
    const shown = this.page.locator('[data-order]')
    await shown.waitFor()
    return { id: await shown.getAttribute('data-order'), origin: await this.page.locator('[data-origin]').first().getAttribute('data-origin') }
  }

  /** Waits for an error, and returns what it says. */
  async error() {
    const shown = this.page.locator('[data-error]')
    await shown.waitFor()
    return shown.innerText()
  }

  async picture(name) {
    await this.page.screenshot({ path: join(this.folder, `${name.replaceAll(/\W+/g, '-')}.png`) })
  }
}

/** A new intent, and an item that nobody else orders. */
export function intention() {
  return { intent: randomUUID(), item: `tea ${randomUUID().slice(0, 8)}` }
}
