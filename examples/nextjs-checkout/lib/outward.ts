// What an order does outside of the shop. Both APIs take JSON under an `Idempotency-Key`, and keep keys as Stripe's does: a second
// request under a key they know is answered as the first was, and does nothing.

import { correlation } from 'oneflight'
import { address } from './env'
import { CORRELATION_ID } from './correlation-id'
import { CENTS, type Order } from './order'

/** A charge. `reference` is what the shop calls the order: the key of its request. */
export function chargeOf(order: Order, reference: string) {
  return { reference, order: order.id, item: order.item, cents: CENTS * order.quantity }
}

export function receiptOf(order: Order, reference: string, user: string) {
  return { reference, order: order.id, to: `${user}@home.example`, item: order.item, quantity: order.quantity }
}

/** The customer's bank says no. That is an answer, and the same one however often it is asked for: it is no failure of the API. */
export class Declined extends Error {}

export async function pay(key: string, charge: unknown, signal?: AbortSignal) {
  await post(address('PAYMENT_URL'), key, charge, signal)
}

export async function mail(key: string, receipt: unknown, signal?: AbortSignal) {
  await post(address('MAIL_URL'), key, receipt, signal)
}

async function post(url: string, key: string, body: unknown, signal = AbortSignal.timeout(10_000)) {
  const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': key, [CORRELATION_ID]: correlation.current() ?? '' }
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body), signal })
  await response.arrayBuffer()
  const Failure = response.status === 402 ? Declined : Error
  if (!response.ok) throw new Failure(`${new URL(url).pathname} answered ${response.status}`)
}
