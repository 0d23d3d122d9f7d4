// Sends each order many times, kills the front, the service and Restate's server one after the other meanwhile, each as `kill -9` does, starts
// them again, and counts what came of it.
//
// Usage: node storm.mjs [--keys 40] [--duplicates 20] [--clients 16] [--kills 12] [--keys-are derived] [--seed NUMBER] [--json]
//
//   --keys         how many different orders are sent
//   --duplicates   how often each of them is sent
//   --clients      how many are sent at the same time
//   --kills        how often something is killed
//   --keys-are     which keys the front hands on: derived, or random, by which is seen what the derived ones are for
//   --seed         makes the same storm again, as far as processes can
//
// The exit status is 1 if there is not exactly one order, one reservation, one charge and one mail a key, or if a request was not answered.

import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { place, start } from './support.mjs'

const SETTLE_MS = 60_000

/** Numbers from 0 to below 1, the same for the same seed (xorshift32). */
function randomOf(seed) {
  let state = seed | 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

function shuffled(random, list) {
  return list.map((it) => [random(), it]).sort(([one], [other]) => one - other).map(([, it]) => it)
}

/** Runs the storm, and resolves with what came of it. */
export async function storm({ keys, duplicates, clients, kills, keysAre, seed }) {
  const random = randomOf(seed)
  const all = await start({ front: ['--keys', keysAre] })
  try {
    // Duplicates of a key are near to each other, and not in a row.
    const sends = Array.from({ length: keys * duplicates }, (_, at) => [at / duplicates + random() * 3, Math.floor(at / duplicates)])
    const queue = sends.sort(([one], [other]) => one - other).map(([, at]) => `storm-${seed}-${at}`)
    const [total, orders, errors, times] = [queue.length, new Map(), {}, []]
    let tries = 0
    async function client() {
      for (let key = queue.shift(); key !== undefined; key = queue.shift()) {
        const began = performance.now()
        try {
          const answer = await place(all.front.url, key, () => tries++)
          times.push(performance.now() - began)
          orders.set(key, (orders.get(key) ?? new Set()).add(answer))
        } catch (error) {
          errors[error.message] = (errors[error.message] ?? 0) + 1
        }
      }
    }
    const killed = { front: 0, service: 0, restate: 0 }
    async function killer() {
      let next = []
      for (let kill = 0; kill < kills; kill++) {
        // Each within its share of the storm.
        const until = ((kill + random()) / kills) * total
        while (total - queue.length <= until && queue.length > 0) await sleep(2)
        if (next.length === 0) next = shuffled(random, Object.keys(killed))
        const name = next.pop()
        killed[name]++
        await all[name].restart()
      }
    }
    const began = performance.now()
    await Promise.all([killer(), ...Array.from({ length: clients }, client)])
    const seconds = (performance.now() - began) / 1000

    // What clients have given up, and what was handed over twice, is still being carried out.
    const unfinished = "SELECT id FROM sys_invocation WHERE status <> 'completed'"
    for (const end = Date.now() + SETTLE_MS; (await all.restate.query(unfinished)).length > 0; await sleep(100)) {
      if (Date.now() > end) throw new Error('Restate still carries orders out after a minute')
    }
    const rows = await (await fetch(`${all.front.url}/orders`)).json()
    const counted = (items) => ({ count: items.length, doubles: items.length - new Set(items).size })
    times.sort((one, other) => one - other)
    const at = (part) => Math.round(times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? 0)
    return {
      keys,
      orders: counted(rows),
      reservations: counted(all.outside.done('reserve')),
      charges: counted(all.outside.done('charge')),
      mails: counted(all.outside.done('mail')),
      asked: all.outside.asked(),
      differing: [...orders.values()].filter((it) => it.size > 1).length,
      requests: total,
      answers: times.length,
      tries,
      errors,
      killed,
      p50: at(0.5),
      p99: at(0.99),
      seconds: Math.round(seconds * 10) / 10
    }
  } finally {
    await all.stop()
  }
}

export function isRight({ keys, orders, reservations, charges, mails, requests, answers, differing }) {
  const once = [orders, reservations, charges, mails].every(({ count, doubles }) => count === keys && doubles === 0)
  return once && differing === 0 && answers === requests
}

function print(outcome) {
  const row = (name, value) => console.log(name.padEnd(34) + String(value).padStart(8))
  row('keys', outcome.keys)
  const effects = ['orders', 'reservations', 'charges', 'mails']
  for (const what of effects) row(what, outcome[what].count)
  for (const what of effects) row(`doubled ${what}`, outcome[what].doubles)
  row('keys with two different answers', outcome.differing)
  row('asked of those outside', outcome.asked)
  row('requests', outcome.requests)
  row('  answered', outcome.answers)
  row('  tries that it took', outcome.tries)
  for (const [name, count] of Object.entries(outcome.killed)) row(`killed: ${name}`, count)
  row('p50, ms', outcome.p50)
  row('p99, ms', outcome.p99)
  row('seconds', outcome.seconds)
  for (const [message, count] of Object.entries(outcome.errors)) console.log(`error, ${count} times: ${message}`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const number = (fallback) => ({ type: 'string', default: String(fallback) })
  const { values } = parseArgs({
    options: {
      keys: number(40),
      duplicates: number(20),
      clients: number(16),
      kills: number(12),
      seed: number(Math.floor(Math.random() * 2 ** 31)),
      'keys-are': { type: 'string', default: 'derived' },
      json: { type: 'boolean', default: false }
    }
  })
  const settings = { keysAre: values['keys-are'] }
  for (const name of ['keys', 'duplicates', 'clients', 'kills', 'seed']) {
    settings[name] = Number(values[name])
    if (!Number.isInteger(settings[name]) || settings[name] < 0) throw new Error(`--${name} is ${values[name]}; give a whole number`)
  }
  const outcome = await storm(settings)
  if (values.json) {
    console.log(JSON.stringify({ settings, outcome }))
  } else {
    const { keys, duplicates, clients, keysAre, seed } = settings
    console.log(`${keys} orders, each sent ${duplicates} times by ${clients} clients, keys ${keysAre}, seed ${seed}\n`)
    print(outcome)
  }
  process.exitCode = isRight(outcome) ? 0 : 1
}
