// Several processes over one store, a holder that is killed, an event loop that is blocked, and the end of a process.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Idempotency, InDoubt } from '../index.mjs'
import { startPostgres } from './support/postgres.mjs'
import { folder, start, startRust } from './support/processes.mjs'
import { startRedis } from './support/redis.mjs'

let postgres
let redis
before(async () => {
  ;[postgres, redis] = await Promise.all([startPostgres(), startRedis()])
})
after(() => {
  postgres.stop()
  redis.stop()
})

const KEYS = 40
const DUPLICATES = 10

/** What the storm is on, and how many processes of Node and of Rust it has. */
const STORMS = [
  ['SQLite', 3, 1],
  ['PostgreSQL', 3, 1],
  ['Redis', 4, 0]
]

for (const [store, ofNode, ofRust] of STORMS) {
  test(`a storm on ${store} of ${ofNode} processes of Node and ${ofRust} of Rust executes each key once`, async (t) => {
    const home = folder()
    const url = { SQLite: `sqlite:${home}/storm.db`, PostgreSQL: postgres.url, Redis: redis.url }[store]
    const args = [url, `${home}/executed`, KEYS, DUPLICATES]
    const storm = Array.from({ length: ofRust }, () => startRust(t, ...args))
    storm.push(...Array.from({ length: ofNode }, () => start(t, 'stormer.mjs', ...args)))
    for (const it of storm) assert.deepEqual(await it.next(), { ready: true })
    for (const it of storm) it.child.stdin.write('go\n')
    const told = await Promise.all(storm.map((it) => it.next()))
    assert.deepEqual(await Promise.all(storm.map((it) => it.ended)), storm.map(() => 0))

    const executed = readFileSync(`${home}/executed`, 'utf8').trim().split('\n').map(Number).sort((one, other) => one - other)
    assert.deepEqual(executed, Array.from({ length: KEYS }, (_, key) => key))
    const sum = (origin) => told.reduce((sum, it) => sum + it.origins[origin], 0)
    const each = told.map((it) => it.origins.executed).join(', ')
    t.diagnostic(`executed ${sum('executed')} (${each}), collapsed ${sum('collapsed')}, replayed ${sum('replayed')}`)
    assert.equal(sum('executed'), KEYS)
    assert.equal(sum('executed') + sum('collapsed') + sum('replayed'), storm.length * KEYS * DUPLICATES)
    assert.deepEqual(told.map((it) => it.wrong), told.map(() => 0))
  })
}

for (const store of ['SQLite', 'PostgreSQL', 'Redis']) {
  describe(`on ${store}`, () => {
    const at = () => ({ SQLite: `sqlite:${folder()}/held.db`, PostgreSQL: postgres.url, Redis: redis.url })[store]

    test('a holder that is killed leaves its request in doubt once its lease is over', async (t) => {
      const url = at()
      const holder = start(t, 'holder.mjs', url, 'killed', 1000)
      await holder.next()
      holder.child.kill('SIGKILL')
      assert.equal(await holder.ended, 'SIGKILL')
      const idem = await Idempotency.open(url)
      const request = { scope: 'held', key: 'killed' }
      await assert.rejects(idem.run(request, () => assert.fail('it was run again')), InDoubt)
      assert.equal(await idem.resolve(request, 'rerun'), 'freed')
      assert.equal((await idem.run(request, () => 'again')).value, 'again')
      await idem.close()
    })

    test('the recovery policy runs it again, as the next attempt', async (t) => {
      const url = at()
      const holder = start(t, 'holder.mjs', url, 'rerun', 1000)
      await holder.next()
      holder.child.kill('SIGKILL')
      const idem = await Idempotency.open(url, { recovery: 'rerun' })
      const reply = await idem.run({ scope: 'held', key: 'rerun' }, (context) => context.attempt)
      assert.deepEqual([reply.value, reply.attempt], [2, 2])
      await idem.close()
    })

    test('a lease is renewed while the event loop is blocked for three times as long', async (t) => {
      const url = at()
      const blocker = start(t, 'blocker.mjs', url, 'blocked', 1000, 3000)
      await blocker.next()
      const idem = await Idempotency.open(url, { recovery: 'rerun' })
      const request = { scope: 'held', key: 'blocked' }
      let seen = 0
      for (let state = await idem.status(request); state.state === 'inProgress'; state = await idem.status(request)) {
        seen++
        await sleep(50)
      }
      assert.ok(seen > 20, `it was seen in progress ${seen} times`)
      const reply = await idem.run(request, () => assert.fail('it was taken over'))
      assert.deepEqual([reply.value, reply.origin, reply.attempt], ['blocked', 'replayed', 1])
      assert.equal((await blocker.next()).origin, 'executed')
      assert.equal(await blocker.ended, 0)
      await idem.close()
    })

    test('a process with an open store ends by itself', async (t) => {
      const idle = start(t, 'idle.mjs', at())
      assert.equal((await idle.next()).value, 1)
      const begun = Date.now()
      assert.equal(await idle.ended, 0)
      t.diagnostic(`it ended ${Date.now() - begun} ms after its last line`)
    })

    test('a process lives until work that its callers have left is over', async (t) => {
      const url = at()
      const leaver = start(t, 'leaver.mjs', url)
      assert.deepEqual(await leaver.next(), { name: 'AbortError' })
      assert.equal(await leaver.ended, 0)
      const idem = await Idempotency.open(url)
      const reply = await idem.run({ scope: 'left', key: 'one' }, () => assert.fail('it was done'))
      assert.equal(reply.value, 'done')
      await idem.close()
    })
  })
}

test('the workers of a cluster meet in the store', async (t) => {
  const primary = start(t, 'clustered.mjs', `sqlite:${folder()}/cluster.db`)
  assert.deepEqual(await primary.next(), { origins: ['executed', 'replayed', 'replayed'] })
  assert.equal(await primary.ended, 0)
})

test('a database that cannot be reached is StoreFailed, without its password', async () => {
  const url = 'postgres://shop:pa55word@127.0.0.1:1/shop'
  await assert.rejects(Idempotency.open(url), (error) => {
    assert.deepEqual([error.code, error.effect], ['StoreFailed', 'nothing'])
    assert.doesNotMatch(error.message, /pa55word/)
    return true
  })
})

test('a server that goes away is StoreFailed, and one that comes back is used again', async () => {
  const own = await startPostgres()
  const idem = await Idempotency.open(own.url, { waitMs: 500 })
  assert.equal((await idem.run({ scope: 's', key: 'k' }, () => 1)).value, 1)
  own.stop()
  await sleep(500)
  await assert.rejects(idem.run({ scope: 's', key: 'other' }, () => 1), { code: 'StoreFailed' })
  await idem.close()
})
