// Stand-ins of a payment API and of a mail server. Both keep what came under an `Idempotency-Key`, as Stripe's API does:
//
//   for the first time                    200, and it is done
//   again, with the same body             the first answer, and `Idempotent-Replayed: true`
//   again, with another body              400
//   while the first is being handled      409
//   without a key                         done each time

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'

/** In place of a status: it is done, and the connection ends without an answer. */
export const CUT = 'cut'

/** Starts both. They end with this process. */
export async function startStandIns() {
  const kept = { '/v1/charges': new Map(), '/mails': new Map() }
  const busy = new Set()
  let failing = () => undefined

  async function answer(request) {
    const path = request.url
    const done = kept[path]
    if (done === undefined || request.method !== 'POST') return [404, { error: 'POST /v1/charges, or /mails' }]
    const body = await text(request)
    const correlationId = request.headers['x-correlation-id']
    const key = request.headers['idempotency-key'] ?? `none-${randomUUID()}`
    const turn = `${path} ${key}`
    if (busy.has(turn)) return [409, { error: 'a request with this key is being handled' }]
    busy.add(turn)
    try {
      const parsed = JSON.parse(body)
      const status = await failing({ path, key, body: parsed })
      if (status !== undefined && status !== CUT) return [status, { error: 'it fails, as it was told to' }]
      const known = done.get(key)
      if (known === undefined) {
        const answered = { id: `${path === '/mails' ? 'mail' : 'ch'}_${randomUUID()}` }
        done.set(key, { key, correlationId, body: parsed, times: 1, text: body, answered })
        return status === CUT ? [CUT] : [200, answered]
      }
      known.times++
      if (known.text !== body) return [400, { error: 'the key was used with other parameters' }]
      return [200, known.answered, { 'idempotent-replayed': 'true' }]
    } catch (error) {
      return [error instanceof SyntaxError ? 400 : 500, { error: error.message }]
    } finally {
      busy.delete(turn)
    }
  }

  const server = createServer(async (request, response) => {
    const [status, body, headers] = await answer(request)
    if (status === CUT) return void request.socket.destroy()
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
  })
  server.listen(0, '127.0.0.1').unref()
  await once(server, 'listening')
  const base = `http://127.0.0.1:${server.address().port}`
  const list = (path) => [...kept[path].values()].map(({ key, correlationId, body, times }) => ({ key, correlationId, body, times }))
  return {
    paymentUrl: `${base}/v1/charges`,
    mailUrl: `${base}/mails`,
    /** What was charged: `{ key, correlationId, body, times }`, where `times` is how often it was asked for. */
    charges: () => list('/v1/charges'),
    mails: () => list('/mails'),
    /** Has `failed({ path, key, body })` say the status of an answer instead, and nothing is done; or `CUT`, or nothing. It may wait. */
    fail: (failed) => (failing = failed ?? (() => undefined)),
    stop() {
      server.close()
      server.closeAllConnections()
    }
  }
}
