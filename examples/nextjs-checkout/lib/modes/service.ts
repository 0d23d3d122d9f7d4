// The shop is a service in Rust (examples/checkout), behind the layer of `oneflight`: the action passes the key and the
// correlation id on, and needs neither a database nor the package for it. A service that does not know the header would need more
// than this.

import { correlation, type Origin } from 'oneflight'
import { CORRELATION_ID } from '../correlation-id'
import { address } from '../env'
import { type Asked, type NewOrder, type Order, Problem, type Shop } from '../order'

interface Placed extends NewOrder {
  order_id: number
}

async function ask(path: string, more: RequestInit = {}) {
  const headers = { Accept: 'application/json', [CORRELATION_ID]: correlation.current() ?? '', ...more.headers }
  return fetch(new URL(path, address('SERVICE_URL')), { ...more, headers, signal: AbortSignal.timeout(30_000) })
}

function orderOf({ order_id, item, quantity }: Placed): Order {
  return { id: order_id, item, quantity }
}

/** The service's own words about what went wrong (RFC 9457). The code is the last part of its type. */
async function problemOf(response: Response): Promise<Problem> {
  const { type = '', detail } = (await response.json().catch(() => ({}))) as { type?: string; detail?: string }
  const name = /constant\.(\w+)\.html$/.exec(type)?.[1] ?? 'FAILED'
  const code = name.toLowerCase().replace(/(^|_)(\w)/g, (_, __, letter: string) => letter.toUpperCase())
  return new Problem(code, detail ?? `The service answered ${response.status}.`)
}

export const service: Shop = {
  async placeOrder({ user, key }: Asked, order: NewOrder) {
    // This service has no users, so the key has to tell them apart. The header is a string as structured fields have it.
    const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': JSON.stringify(`${user}.${key}`) }
    const response = await ask('/orders', { method: 'POST', headers, body: JSON.stringify(order) })
    if (!response.ok) throw await problemOf(response)
    const origin = (response.headers.get('Idempotency-Origin') ?? 'replayed') as Origin
    return { value: orderOf((await response.json()) as Placed), origin }
  },

  async addNote() {
    throw new Problem('NotFound', 'This shop takes no notes.')
  },

  /** The service has no logins, and shows each order to anyone. */
  async find(_: string, order: number) {
    const response = await ask(`/orders/${order}`)
    if (response.status === 404) return undefined
    if (!response.ok) throw await problemOf(response)
    return orderOf((await response.json()) as Placed)
  },

  async notes() {
    return undefined
  }
}
