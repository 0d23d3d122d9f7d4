// Builds the app with Next 15.5, in a copy: the same sources, where `proxy.ts` has its older name.
//
// Usage: node scripts/with-next-15.mjs [FOLDER]     into FOLDER, which stays; else into a temporary one

import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const NEXT = '15.5.29'

const home = fileURLToPath(new URL('..', import.meta.url))
const kept = process.argv[2] && resolve(process.argv[2])
const copy = kept ?? mkdtempSync(join(tmpdir(), 'nextjs-checkout-15-'))
const run = (program, ...args) => execFileSync(program, args, { cwd: copy, stdio: 'inherit' })

try {
  for (const name of ['app', 'lib', 'instrumentation.ts', 'next.config.mjs', 'proxy.ts', 'tsconfig.json', '.npmrc']) {
    cpSync(join(home, name), join(copy, name), { recursive: true })
  }
  const manifest = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'))
  Object.assign(manifest.dependencies, { next: NEXT, oneflight: `file:${resolve(home, '../../crates/oneflight-node')}` })
  writeFileSync(join(copy, 'package.json'), JSON.stringify(manifest, null, 2))
  const proxy = readFileSync(join(copy, 'proxy.ts'), 'utf8').replace('function proxy(', 'function middleware(')
  writeFileSync(join(copy, 'proxy.ts'), proxy)
  renameSync(join(copy, 'proxy.ts'), join(copy, 'middleware.ts'))
  run('npm', 'install', '--ignore-scripts', '--silent')
  run('npm', 'run', 'build')
  console.log(`built with Next ${NEXT}${kept ? ` in ${copy}` : ''}`)
} finally {
  if (!kept) rmSync(copy, { recursive: true, force: true })
}
