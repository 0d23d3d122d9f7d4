// All that an order takes: stand-ins of those outside, Restate's server, the service that carries orders out, and the front. Each but the
// stand-ins is a process of its own, on a free loopback port, over files in a temporary directory.

import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { json } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { answers, startProcess } from '../nextjs-checkout/support/process.mjs'

// Each part ends with this process, by a listener of its own.
process.setMaxListeners(0)

/** What bin/restate has built. */
const PROGRAM = process.env.RESTATE_CHECKOUT

/** Restate's server, as its package for this machine has it: what the package itself starts does not die with its starter. */
const SERVER = createRequire(import.meta.url).resolve(
  `@restatedev/restate-server-${process.platform}-${process.arch}/bin/restate-server`
)

/**
 * Starts the warehouse, the payment provider and the mail server. Each does once what it is asked for under one key, as Stripe's API does.
 * `hold(what)` may wait, before it is done.
 */
export async function startOutside(hold = () => sleep(5 + Math.random() * 20)) {
  const done = { reserve: new Map(), charge: new Map(), mail: new Map() }
  let [asked, held] = [0, hold]
  const server = createServer(async (request, response) => {
    const what = request.url.slice(1)
    const key = request.headers['idempotency-key']
    const { item } = await json(request)
    asked++
    await held(what, item)
    if (!done[what].has(key)) done[what].set(key, item)
    response.end(`${what} of ${item}`)
  })
  server.listen(0, '127.0.0.1').unref()
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** The items for which this was done, as often as it was done. */
    done: (what) => [...done[what].values()],
    /** How often anything was asked for. */
    asked: () => asked,
    hold: (hold) => (held = hold),
    stop() {
      server.close()
      server.closeAllConnections()
    }
  }
}

/** Ports that are free now. */
async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'))
  await Promise.all(servers.map((server) => once(server, 'listening')))
  const ports = servers.map((server) => server.address().port)
  await Promise.all(servers.map((server) => once(server.close(), 'close')))
  return ports
}

/** Starts Restate's server, whose data is in this directory. */
export async function startRestate(directory, settings = {}) {
  const [ingress, admin, node] = await freePorts(3)
  const listen = (port) => `127.0.0.1:${port}`
  const env = {
    ...process.env,
    RESTATE_DISABLE_TELEMETRY: 'true',
    RESTATE_ADMIN__DISABLE_WEB_UI: 'true',
    RESTATE_INGRESS__BIND_ADDRESS: listen(ingress),
    RESTATE_ADMIN__BIND_ADDRESS: listen(admin),
    RESTATE_BIND_ADDRESS: listen(node),
    RESTATE_ADVERTISED_ADDRESS: `http://${listen(node)}`,
    RESTATE_LISTEN_MODE: 'tcp',
    RESTATE_DEFAULT_NUM_PARTITIONS: '4',
    RESTATE_ROCKSDB_TOTAL_MEMORY_SIZE: '512MiB',
    ...settings
  }
  const options = ['--base-dir', join(directory, 'restate'), '--node-name', 'one', '--no-logo', '--log-disable-ansi-codes', 'true']
  const ready = async () => (await answers(`http://${listen(admin)}/health`)) && answers(`http://${listen(ingress)}/restate/health`)
  const server = await startProcess(() => [SERVER, options, { env }], ready)
  const admit = async (path, body, method = 'POST') => {
    const headers = { 'content-type': 'application/json', accept: 'application/json' }
    const answer = await fetch(`http://${listen(admin)}${path}`, { method, headers, body: JSON.stringify(body) })
    if (!answer.ok) throw new Error(`Restate's server answered ${answer.status} to ${path}: ${await answer.text()}`)
    return answer.status === 204 ? undefined : answer.json()
  }
  return {
    ...server,
    ingress: `http://${listen(ingress)}`,
    admit,
    /** Asks its tables, by SQL. */
    query: async (query) => (await admit('/query', { query })).rows,
    /** Tells it where the service is. */
    register: (url, more = {}) => admit('/deployments', { uri: url, ...more })
  }
}

/** Starts all of it. `front` are further options of the front. */
export async function start({ front = [], settings = {} } = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'oneflight-restate-'))
  const started = []
  const stop = async () => {
    for (const part of started.reverse()) await part.stop()
    rmSync(directory, { recursive: true, force: true, maxRetries: 3 })
  }
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }))
  try {
    const outside = await startOutside()
    started.push(outside)
    const restate = await startRestate(directory, settings)
    started.push(restate)
    const options = ['--db', join(directory, 'orders.db'), '--outside', outside.url]
    const run = async (part, more) => {
      const launch = (port) => [PROGRAM, [part, ...options, '--port', String(port), ...more], {}]
      const process = await startProcess(launch)
      started.push(process)
      return process
    }
    const service = await run('service', [])
    await restate.register(service.url)
    const startFront = (more) => run('front', ['--restate', restate.ingress, ...more])
    return { directory, outside, restate, service, front: await startFront(front), startFront, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Sends an order, once. Returns the status, and what was answered. */
export async function order(url, key, item = key) {
  const headers = { 'content-type': 'application/json', 'idempotency-key': `"${key}"` }
  const answer = await fetch(`${url}/orders`, { method: 'POST', headers, body: JSON.stringify({ item }), signal: AbortSignal.timeout(60_000) })
  return { status: answer.status, body: await answer.json() }
}

/** Sends an order until it is answered: what is not known, or not now, is asked again under the same key. */
export async function place(url, key, tries) {
  for (const until = Date.now() + 60_000; ; await sleep(100)) {
    tries?.()
    const answer = await order(url, key).catch((error) => ({ status: 0, body: error.message }))
    if (answer.status === 200) return answer.body.order
    // Nobody there; not now; in doubt, or in progress.
    if (![0, 503, 409].includes(answer.status) || Date.now() > until) throw new Error(`${answer.status} ${JSON.stringify(answer.body)}`)
  }
}
