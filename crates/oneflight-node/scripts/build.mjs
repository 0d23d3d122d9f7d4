// Builds the native half for this platform and puts it beside `index.js`. Cargo has to be installed.
//
// Usage: npm run build
//
// ONEFLIGHT_CARGO says in place of `--release` how cargo builds: the tests of the project have it built with all else that they test.

import { spawnSync } from 'node:child_process'
import { copyFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const home = dirname(dirname(fileURLToPath(import.meta.url)))
const how = process.env.ONEFLIGHT_CARGO?.split(' ') ?? ['--package', 'oneflight-node', '--lib', '--release', '--features', 'tls']
const cargo = spawnSync('cargo', ['build', '--locked', '--message-format', 'json-render-diagnostics', ...how], {
  cwd: home,
  stdio: ['ignore', 'pipe', 'inherit'],
  maxBuffer: 1 << 28
})
if (cargo.status !== 0) {
  console.error(cargo.error ? `cargo cannot be run: ${cargo.error.message}` : 'cargo failed; what it said is above')
  process.exit(1)
}
const messages = String(cargo.stdout).trim().split('\n').map((line) => JSON.parse(line))
const built = messages.findLast((it) => it.reason === 'compiler-artifact' && it.target.name === 'oneflight_node')
const library = built.filenames.find((name) => /\.(so|dylib|dll)$/.test(name))
const name = `oneflight.${process.platform}-${process.arch}.node`
const fresh = join(home, `${name}.new`)
copyFileSync(library, fresh)
// Lines and symbols are four fifths of it. A linker comes with a `strip`; without one the package is larger.
if (process.platform !== 'win32') spawnSync('strip', process.platform === 'darwin' ? ['-x', fresh] : [fresh], { stdio: 'inherit' })
// A process may have the old one loaded, so it is replaced and not written over.
renameSync(fresh, join(home, name))
// It is no package to be given to others: scripts/built.mjs.
const mark = join(home, `${name}.test`)
if (process.env.ONEFLIGHT_CARGO === undefined) rmSync(mark, { force: true })
else writeFileSync(mark, '')
console.log(`built ${name}`)
