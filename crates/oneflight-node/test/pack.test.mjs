// The package installs and runs in an empty folder, by `import` and by `require`, and its types are right.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import * as byImport from '../index.mjs'
import { folder } from './support/processes.mjs'

const home = fileURLToPath(new URL('..', import.meta.url))

test('import and require offer the same', () => {
  const required = createRequire(import.meta.url)('../index.js')
  assert.deepEqual(Object.keys(byImport).sort(), Object.keys(required).sort())
  for (const [name, it] of Object.entries(byImport)) assert.equal(it, required[name])
})

test('no package is made without the native half, nor with an old one', () => {
  const root = folder()
  const check = () => spawnSync('node', [join(home, 'scripts/built.mjs'), root], { encoding: 'utf8' })
  const package_ = join(root, 'crates/oneflight-node')
  mkdirSync(join(package_, 'src'), { recursive: true })
  writeFileSync(join(package_, 'src/lib.rs'), '')
  const missing = check()
  assert.equal(missing.status, 1)
  assert.match(missing.stderr, /is not there.*npm run build/)
  const built = join(package_, `oneflight.${process.platform}-${process.arch}.node`)
  writeFileSync(built, '')
  assert.deepEqual([check().status, check().stderr], [0, ''])
  writeFileSync(`${built}.test`, '')
  const { ONEFLIGHT_CARGO, ...env } = process.env
  const given = spawnSync('node', [join(home, 'scripts/built.mjs'), root], { encoding: 'utf8', env })
  assert.match(given.stderr, /was built for the tests, without optimizations; run `npm run build`/)
  rmSync(`${built}.test`)
  utimesSync(built, 1, 1)
  const old = check()
  assert.equal(old.status, 1)
  assert.match(old.stderr, /is older than .*lib\.rs; run `npm run build`/)
})

test("the native half offers nothing of the SQLite in it, which a driver's could take for its own", { skip: process.platform !== 'linux' && 'asks nm' }, () => {
  const offered = execFileSync('nm', ['--dynamic', '--defined-only', join(home, `oneflight.${process.platform}-${process.arch}.node`)], { encoding: 'utf8' })
  assert.match(offered, /napi_register_module/)
  assert.doesNotMatch(offered, /sqlite3/)
})

test('the package runs in an empty folder, and its first program does', () => {
  const empty = folder()
  const run = (program, ...args) => execFileSync(program, args, { cwd: empty, encoding: 'utf8' })
  const packed = execFileSync('npm', ['pack', '--silent', '--pack-destination', empty], { cwd: home, encoding: 'utf8' })
  writeFileSync(join(empty, 'package.json'), '{ "private": true }')
  run('npm', 'install', '--silent', '--offline', '--no-audit', '--no-fund', join(empty, packed.trim().split('\n').pop()))

  const readme = readFileSync(join(home, 'README.md'), 'utf8')
  const first = /```js\n([\s\S]*?)```/.exec(readme)[1]
  assert.ok(first.trim().split('\n').length <= 12, 'the first program is short')
  writeFileSync(join(empty, 'first.mjs'), first)
  assert.deepEqual(run('node', 'first.mjs').trim().split('\n'), ['executed { order: 4711 }', 'replayed { order: 4711 }'])

  writeFileSync(join(empty, 'first.cjs'), `
    const { Idempotency } = require('oneflight')
    Idempotency.open('sqlite:orders.db')
      .then((idem) => idem.run({ scope: 'orders', key: 'second' }, () => 1))
      .then((reply) => console.log(reply.origin))
  `)
  assert.equal(run('node', 'first.cjs'), 'executed\n')
  assert.equal(run('node', 'first.cjs'), 'replayed\n')

  for (const name of ['program.mts', 'program.cts']) {
    writeFileSync(join(empty, name), `
      import { adapters, correlation, Idempotency, Group, NotDone, OneflightError, Rejected, RetryLater, TransactionEnded } from 'oneflight'
      import type { Delivery, Relay, Reply, Transaction } from 'oneflight'
      async function place(form: FormData): Promise<number> {
        const idem = await Idempotency.open('memory:', { recovery: (doubt) => ({ completed: doubt.attempt }) })
        try {
          const request = { scope: { namespace: 't', user: 'u' }, key: form.get('key'), fingerprint: form }
          const header: string | string[] | undefined = undefined
          await idem.run({ scope: 's', key: header }, () => 1)
          const reply: Reply<{ order: number }> = await idem.run(request, async (context) => ({ order: context.attempt }))
          const nothing: Reply<void> = await idem.tryRun({ scope: 's', key: 'k' }, async () => { throw new NotDone('no', { cause: 1 }) })
          void nothing
          const tx: Transaction = adapters.pg({ query: async (sql: string) => ({ rows: [{ oneflight: sql }] }) })
          const inside: Reply<string> = await idem.runInTransaction(request, tx, async () => 'row', { retentionMs: 1000 })
          const atOnce: Reply<number> = idem.runInTransactionSync(request, (sql, parameters) => [{ oneflight: sql + parameters[0] }], () => 1)
          void [inside, atOnce, adapters.prisma({}), TransactionEnded]
          const isDeclined: boolean = reply.declined
          void isDeclined
          return reply.value.order
        } catch (error) {
          if (error instanceof OneflightError && error.effect === 'nothing') return error.retryAfterMs ?? 0
          throw error
        } finally {
          await idem.close()
        }
      }
      async function deliverAll(idem: Idempotency): Promise<number> {
        const mail = async (message: Delivery, { signal }: { signal: AbortSignal }) => {
          if (signal.aborted) throw new RetryLater('busy', { retryAfterMs: 1000 })
          await fetch('https://pay.example/', { method: 'POST', body: message.text(), signal })
          if (message.json<{ order: number }>().order === 0) throw new Rejected(message.text(), { cause: message.key })
        }
        const bill = { deliver: (message: Delivery) => void message.attempt, onDead: 'skip', maxAttempts: 5, timeoutMs: 1000 } as const
        const relay: Relay = idem.relay({ 'mail.*': mail, bill }, { group: 'g', onDeadLetter: (letter) => console.error(letter.error) })
        await relay.close()
        const [letter] = await idem.outbox.deadLetters({ limit: 1 })
        if (letter?.blocks) await idem.outbox.redrive(letter.id)
        const request = { scope: 's', key: 'k', correlationId: 'c-1' }
        await correlation.run('c-1', () => idem.run(request, (context) => context.correlationId ?? correlation.current()))
        return relay.health().delivered
      }
      const group = new Group<string>()
      const wrong = async () => {
        // @ts-expect-error a key is a string
        await group.run(7, () => 1)
        // @ts-expect-error it is made by open
        new Idempotency()
        // @ts-expect-error an id is a string
        correlation.run(7, () => 1)
        const idem = await Idempotency.open('memory:')
        // @ts-expect-error nothing waits for the work
        idem.runInTransactionSync({ scope: 's', key: 'k' }, () => [], async () => 1)
        // @ts-expect-error a key is no number
        await idem.run({ scope: 's', key: 7 }, () => 1)
      }
      void [place, wrong, deliverAll]
    `)
  }
  const compiler = createRequire(import.meta.url).resolve('typescript/bin/tsc')
  const options = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2022,dom']
  const compiled = spawnSync('node', [compiler, ...options, 'program.mts', 'program.cts'], { cwd: empty, encoding: 'utf8' })
  assert.equal(compiled.stdout, '')
  assert.equal(compiled.status, 0)

  // With the library that `await using` needs, and with the default that `import` has in neither kind of module.
  writeFileSync(join(empty, 'using.mts'), `
    import { Idempotency } from 'oneflight'
    await using idem = await Idempotency.open('memory:')
    console.log((await idem.run({ scope: 's', key: 'k' }, () => 'used')).value)
  `)
  writeFileSync(join(empty, 'default.mts'), `
    // @ts-expect-error there is none
    import oneflight from 'oneflight'
    void oneflight
  `)
  const newer = ['--strict', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2022,esnext.disposable,dom']
  const used = spawnSync('node', [compiler, ...newer, 'using.mts', 'default.mts'], { cwd: empty, encoding: 'utf8' })
  assert.equal(used.stdout, '')
  assert.equal(run('node', 'using.mjs'), 'used\n')
  assert.match(spawnSync('node', ['default.mjs'], { cwd: empty, encoding: 'utf8' }).stderr, /does not provide an export named 'default'/)
})
