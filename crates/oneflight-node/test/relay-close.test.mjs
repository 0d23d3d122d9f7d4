// What a relay is delivering while it is closed, and what it was begun in.

import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { readdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { adapters, Closed, Idempotency, Reentrant } from '../index.mjs'
import { eventually } from './support/outbox.mjs'
import { folder } from './support/processes.mjs'

const SOON = { leaseMs: 1000 }

/** Runs a test with a store and a connection of a driver to its file. */
const it = (name, body) =>
  test(name, async (t) => {
    const file = `${folder()}/outbox.db`
    const idem = await Idempotency.open(`sqlite:${file}`)
    const db = new Database(file)
    t.after(async () => {
      db.close()
      await idem.close()
    })
    let sent = 0
    const begin = (key, work) => {
      db.exec('BEGIN')
      try {
        const reply = idem.runInTransactionSync({ scope: 's', key }, adapters.betterSqlite3(db), work)
        db.exec('COMMIT')
        return reply
      } catch (error) {
        db.exec('ROLLBACK')
        throw error
      }
    }
    const send = (payload) => begin(`${sent++}`, (context) => void context.send({ topic: 'mail', payload }))
    await body({ file, idem, db, begin, send })
  })

it('what a store is delivering as it is closed may still use it', async ({ file, idem, begin, send }) => {
  const seen = []
  let go
  const going = new Promise((resolve) => (go = resolve))
  const dead = []
  const deliver = async (message) => {
    seen.push(message.text())
    await going
    seen.push((await idem.status({ scope: 's', key: message.key })).state)
    seen.push((await idem.run({ scope: 's', key: message.key }, async () => (await idem.status({ scope: 's', key: 'x' })).state)).value)
    seen.push(begin(`in ${message.key}`, () => 'in a transaction').value)
  }
  idem.relay({ mail: { deliver, maxAttempts: 1 } }, { ...SOON, onDeadLetter: (letter) => dead.push(letter.error) })
  send('one')
  await eventually(() => seen.length === 1, 'it is being delivered')
  const closed = idem.close()
  assert.throws(() => idem.relay({ mail: deliver }), Closed)
  await assert.rejects(idem.run({ scope: 's', key: 'other' }, () => assert.fail('it was run')), Closed)
  await sleep(100)
  go()
  await closed
  assert.deepEqual([seen, dead], [['one', 'absent', 'absent', 'in a transaction'], []])
  await assert.rejects(idem.status({ scope: 's', key: 'other' }), Closed)
  const again = await Idempotency.open(`sqlite:${file}`)
  const next = again.relay({ mail: () => assert.fail('it came again') }, SOON)
  await eventually(() => next.health().emptyPolls > 0 && next.health().shards === 64, 'it has read all')
  assert.equal(next.health().attempts, 0)
  await again.close()
})

for (const what of ['relay', 'store']) {
  it(`a ${what} that is closed in a delivery that it would wait for is an error, and not a hang`, async ({ idem, send }) => {
    const errors = []
    const deliver = async () => {
      try {
        await (what === 'relay' ? relay : idem).close()
      } catch (error) {
        errors.push(error)
      }
    }
    const relay = idem.relay({ mail: deliver }, SOON)
    send('one')
    await eventually(() => relay.health().delivered === 1, 'it is delivered')
    assert.equal(errors.length, 1)
    assert.ok(errors[0] instanceof Reentrant)
    assert.match(errors[0].message, /close it outside of/)
    await relay.close()
  })
}

it('a dead letter is told before the close is over, which waits for that', async ({ idem, send }) => {
  const told = []
  const onDeadLetter = async (letter) => {
    await sleep(100)
    await assert.rejects(idem.close(), Reentrant)
    told.push(letter.error)
  }
  let begun = false
  const deliver = async () => {
    begun = true
    await sleep(200)
    throw new Error('away')
  }
  idem.relay({ mail: { deliver, maxAttempts: 1 } }, { ...SOON, onDeadLetter })
  send('one')
  await eventually(() => begun, 'it is being delivered')
  await idem.close()
  assert.deepEqual(told, ['Error: away'])
})

it('what a relay was begun in is none of its deliveries', async ({ idem, begin, send }) => {
  const own = new AsyncLocalStorage()
  const seen = []
  let relay
  const deliver = () => void seen.push(own.getStore())
  own.run('a request', () => begin('begins', () => void (relay = idem.relay({ mail: deliver }, SOON))))
  send('one')
  await eventually(() => relay.health().delivered === 1, 'it is delivered')
  assert.deepEqual(seen, [undefined])
  await relay.close()
})

test('whatever goes wrong with a relay, the store is closed', async () => {
  const file = `${folder()}/outbox.db`
  const idem = await Idempotency.open(`sqlite:${file}`)
  const relay = idem.relay({ mail: () => {} }, SOON)
  const close = () => Object.getPrototypeOf(relay).close.call(relay)
  relay.close = () => Promise.reject(new Error('a defect of the test'))
  await assert.rejects(idem.close(), /a defect of the test/)
  await assert.rejects(idem.status({ scope: 's', key: 'k' }), Closed)
  // The last share in the store is the relay's.
  await close()
  assert.deepEqual(readdirSync(dirname(file)), ['outbox.db'])
})
