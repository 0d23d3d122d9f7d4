// Sees to it that the package has a native half for this platform, none of older source, and none for the tests, unless it is for these
// (ONEFLIGHT_CARGO).
//
// Usage: node scripts/built.mjs [ROOT]

import { existsSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '../../..')
const home = join(root, 'crates/oneflight-node')
const name = `oneflight.${process.platform}-${process.arch}.node`

/** Everything that is compiled. */
function* sources() {
  const crates = readdirSync(join(root, 'crates')).map((it) => join(root, 'crates', it))
  for (const crate of [root, ...crates]) {
    for (const folder of ['src', 'migrations']) {
      const at = join(crate, folder)
      if (!existsSync(at)) continue
      for (const entry of readdirSync(at, { recursive: true, withFileTypes: true })) {
        if (entry.isFile()) yield join(entry.parentPath ?? entry.path, entry.name)
      }
    }
  }
}

function fail(what) {
  console.error(`${name} ${what}; run \`npm run build\``)
  process.exit(1)
}

const built = join(home, name)
if (!existsSync(built)) fail('is not there, and the package would not load')
if (existsSync(`${built}.test`) && process.env.ONEFLIGHT_CARGO === undefined) fail('was built for the tests, without optimizations')
const since = statSync(built).mtimeMs
for (const source of sources()) if (statSync(source).mtimeMs > since) fail(`is older than ${source}`)
