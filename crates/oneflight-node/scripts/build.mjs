// Builds the native half for this platform and puts it beside `index.js`. Cargo has to be installed.
//
// Usage: npm run build

import { spawnSync } from 'node:child_process'
import { copyFileSync, renameSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const home = dirname(dirname(fileURLToPath(import.meta.url)))
const args = ['rustc', '--locked', '--package', 'oneflight-node', '--lib', '--release', '--features', 'tls']
const told = ['--message-format', 'json-render-diagnostics', '--', '-C', 'strip=symbols']
const cargo = spawnSync('cargo', [...args, ...told], {
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
const target = join(home, `oneflight.${process.platform}-${process.arch}.node`)
// A process may have the old one loaded, so it is replaced and not written over.
copyFileSync(library, `${target}.new`)
renameSync(`${target}.new`, target)
console.log(`built ${target}`)
