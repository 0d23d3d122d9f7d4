// The application, as it is deployed: `next build`, `next start`.

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { answers, startProcess } from './process.mjs'

const HOME = fileURLToPath(new URL('..', import.meta.url))

/** What is no source of the application. */
const BESIDE = /^(node_modules|test|support|\.next.*|next-env\.d\.ts|.*\.tsbuildinfo|.*\.md)$/

/** The environment of a build: `offline` is one whose client sends again what failed (`experimental.useOffline`). */
function environment(offline) {
  const own = offline ? { USE_OFFLINE: '1', NEXT_DIST_DIR: '.next-offline' } : { NEXT_DIST_DIR: '.next' }
  return { ...process.env, NEXT_TELEMETRY_DISABLED: '1', ...own }
}

function newest(folder) {
  let latest = 0
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (BESIDE.test(entry.name)) continue
    const path = join(folder, entry.name)
    latest = Math.max(latest, entry.isDirectory() ? newest(path) : statSync(path).mtimeMs)
  }
  return latest
}

/** Builds it in `home`, unless the build there is newer than the sources. */
export function buildApp({ offline = false, home = HOME } = {}) {
  const env = environment(offline)
  const built = join(home, env.NEXT_DIST_DIR, 'BUILD_ID')
  if (existsSync(built) && statSync(built).mtimeMs > newest(home)) return
  const made = spawnSync('npm', ['run', 'build'], { cwd: home, env: { ...env, NODE_ENV: 'production' }, encoding: 'utf8' })
  if (made.status !== 0) throw new Error(`the application cannot be built:\n${made.stdout}\n${made.stderr}`)
}

/** Starts what was built, on a free port or on `port`, and waits until it answers. `env` is added to the environment. */
export function startApp({ mode, env = {}, port = 0, offline = false, home = HOME }) {
  const next = createRequire(join(home, 'package.json')).resolve('next/dist/bin/next')
  const all = { ...environment(offline), NODE_ENV: 'production', MODE: mode, ...env }
  const launch = (own) => [
    process.execPath,
    [next, 'start', '--hostname', '127.0.0.1', '--port', String(own || port)],
    { cwd: home, env: all, stdio: ['ignore', 'pipe', 'pipe'] }
  ]
  return startProcess(launch, { ready: (url) => answers(`${url}/api/health`) })
}
