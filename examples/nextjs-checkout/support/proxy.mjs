// The proxy `oneflight proxy`, before the application as it is: its records in a file of SQLite, in a folder of its own.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startProcess } from './process.mjs'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))

let program

/** Builds it. Returns the program's path. */
export function buildProxy() {
  if (program !== undefined) return program
  const how = process.env.ONEFLIGHT_CARGO?.split(' ') ?? ['--package', 'oneflight-cli', '--release', '--bin', 'oneflight']
  const cargo = spawnSync('cargo', ['build', '--locked', '--message-format', 'json-render-diagnostics', ...how], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 28
  })
  if (cargo.status !== 0) throw new Error('the proxy cannot be built')
  const artifacts = String(cargo.stdout).trim().split('\n').map((line) => JSON.parse(line))
  program = artifacts.findLast((it) => it.target?.name === 'oneflight' && it.target.kind.includes('bin') && it.executable).executable
  return program
}

/** Starts it before `upstream`, whose users are told apart by their cookie `user`. */
export async function startProxy({ upstream }) {
  const folder = mkdtempSync(join(tmpdir(), 'oneflight-proxy-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  const file = join(folder, 'oneflight.toml')
  const config = (port) => `
listen = "127.0.0.1:${port}"
upstream = { url = "${upstream}" }
store = { url = "${join(folder, 'oneflight.db')}" }
admin = { listen = "127.0.0.1:0" }

[[route]]
server-actions = true
scope = "cookie user"
key = { field = "key" }
`
  const launch = (port) => {
    writeFileSync(file, config(port))
    return [buildProxy(), ['proxy', '--config', file, '--access-log'], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] }]
  }
  const proxy = await startProcess(launch, { says: /listening address=[\d.]+:(\d+)/ })
  const { stop } = proxy
  return Object.assign(proxy, {
    async stop() {
      await stop()
      rmSync(folder, { recursive: true, force: true })
    }
  })
}
