// The package around the transaction that the app has anyway: the row, the messages that have it paid and mailed, and the record
// of the request are one commit. Whatever breaks off, there is all of it or nothing of it.

import { and, eq, sql } from 'drizzle-orm'
import { adapters, correlation, Group, Idempotency, InProgress, type Reply, type TransactionContext } from 'oneflight'
import { setTimeout as sleep } from 'node:timers/promises'
import { database, notes, notesOf, orders, SHOWN } from '../database'
import { address, workMs } from '../env'
import { once } from '../once'
import { chargeOf, receiptOf } from '../outward'
import { type Answer, type Asked, type NewNote, type NewOrder, Problem, type Shop } from '../order'

/** How long a duplicate waits for the one that is at work elsewhere. */
const PATIENCE_MS = 15_000

export const idempotency = once('idempotency', () => Idempotency.open(address('DATABASE_URL'), { purgeEveryMs: 60_000 }))

const flights = once('flights', () => new Group<string>())

type Tx = Parameters<Parameters<ReturnType<typeof database>['transaction']>[0]>[0]
type Work<T> = (tx: Tx, context: TransactionContext) => Promise<T>

/** Does the work once for this user, route and key, however often and wherever it is asked for. */
async function execute<T>({ user, key }: Asked, route: string, payload: object, work: Work<T>): Promise<Answer<T>> {
  const request = { scope: { namespace: 'shop', route, user }, key, fingerprint: payload }
  // Duplicates in this process share one transaction, and hold no connection while they wait for it.
  const { value: reply, role } = await flights().run(JSON.stringify(request), () => attempt(request, work))
  const isShared = role === 'follower' && reply.origin === 'executed'
  return { value: reply.value, origin: isShared ? 'collapsed' : reply.origin }
}

async function attempt<T>(request: Parameters<Idempotency['runInTransaction']>[0], work: Work<T>): Promise<Reply<T>> {
  const idem = await idempotency()
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    try {
      return await database().transaction((tx) =>
        idem.runInTransaction(request, adapters.drizzle(tx, sql), (context) => work(tx, context))
      )
    } catch (error) {
      // In another process. This transaction is over, and its connection is free.
      if (!(error instanceof InProgress) || Date.now() > deadline) throw error
      await sleep(Math.min(error.retryAfterMs ?? 50, 50))
    }
  }
}

export const inTransaction: Shop = {
  placeOrder(asked: Asked, wanted: NewOrder) {
    return execute(asked, 'placeOrder', wanted, async (tx, context) => {
      await sleep(workMs())
      const row = { ...wanted, ...asked, correlationId: correlation.current() ?? '' }
      const order = (await tx.insert(orders).values(row).returning(SHOWN))[0]!
      // The mail goes out when the charge is made.
      const orderingKey = `order-${order.id}`
      await context.send({ topic: 'payment.charge', payload: chargeOf(order, asked.key), orderingKey })
      await context.send({ topic: 'mail.receipt', payload: receiptOf(order, asked.key, asked.user), orderingKey })
      return order
    })
  },

  addNote(asked: Asked, { order, text }: NewNote) {
    return execute(asked, 'addNote', { order, text }, async (tx) => {
      await sleep(workMs())
      const own = and(eq(orders.id, order), eq(orders.user, asked.user))
      const found = await tx.select({ id: orders.id }).from(orders).where(own)
      if (found.length === 0) throw new Problem('NotFound', 'There is no such order of yours.')
      const row = { order, text, ...asked, correlationId: correlation.current() ?? '' }
      return (await tx.insert(notes).values(row).returning({ id: notes.id }))[0]!.id
    })
  },

  async find(user: string, order: number) {
    const own = and(eq(orders.id, order), eq(orders.user, user))
    return (await database().select({ ...SHOWN, isCancelled: orders.isCancelled }).from(orders).where(own))[0]
  },

  notes: notesOf
}
