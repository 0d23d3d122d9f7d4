// The article's code: a key, and a KV store that is asked before and told after. It is what people write, and it is wrong:
//
// * Between `get` and `set` lies the whole mutation. A duplicate that comes in it finds nothing, and does everything again.
// * A process that dies, or a client that hangs up on one, leaves the order without its entry. The retry does everything again.
// * `pay` has a key, as the payment API's manual says. But it is made of the row's id, and two rows are two charges.
// * An error after the insert leaves an order that nobody pays.
// * The key is not compared with what was sent, nor with who sent it: another order under it, or another user, is answered with the
//   first order.

import { eq } from 'drizzle-orm'
import { correlation } from 'oneflight'
import { createClient } from 'redis'
import { setTimeout as sleep } from 'node:timers/promises'
import { database, notes, notesOf, orders, SHOWN } from '../database'
import { address, workMs } from '../env'
import { log, told } from '../log'
import { once } from '../once'
import { chargeOf, mail, pay, receiptOf } from '../outward'
import type { Asked, NewNote, NewOrder, Order, Shop } from '../order'

const DAY = { expiration: { type: 'EX', value: 24 * 3600 } } as const

export const kv = once('kv', () => {
  const client = createClient({ url: address('REDIS_URL') })
  client.on('error', (error) => log('the KV store failed', { error: told(error) }))
  return client.connect()
})

export const article: Shop = {
  async placeOrder({ user, key }: Asked, asked: NewOrder) {
    const cached = await (await kv()).get(`order:${key}`)
    if (cached) return { value: JSON.parse(cached) as Order, origin: 'replayed' }

    await sleep(workMs())
    const correlationId = correlation.current() ?? ''
    const [order] = await database().insert(orders).values({ ...asked, user, key, correlationId }).returning(SHOWN)
    await pay(`charge-${order!.id}`, chargeOf(order!, key))
    await mail(`receipt-${order!.id}`, receiptOf(order!, key, user))

    await (await kv()).set(`order:${key}`, JSON.stringify(order), DAY)
    return { value: order!, origin: 'executed' }
  },

  async addNote({ user, key }: Asked, { order, text }: NewNote) {
    const cached = await (await kv()).get(`note:${key}`)
    if (cached) return { value: Number(cached), origin: 'replayed' }

    await sleep(workMs())
    const correlationId = correlation.current() ?? ''
    const [note] = await database().insert(notes).values({ order, text, user, key, correlationId }).returning({ id: notes.id })

    await (await kv()).set(`note:${key}`, String(note!.id), DAY)
    return { value: note!.id, origin: 'executed' }
  },

  /** The user is not asked for: what was answered is shown. */
  async find(_: string, order: number) {
    return (await database().select(SHOWN).from(orders).where(eq(orders.id, order)))[0]
  },

  notes: notesOf
}
