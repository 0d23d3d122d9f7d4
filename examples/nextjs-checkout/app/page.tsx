import { redirect } from 'next/navigation'
import { mode } from '../lib/env'
import type { Order } from '../lib/order'
import { inRequest } from '../lib/request'
import { shop } from '../lib/shop'
import { NoteForm, OrderForm } from './forms'

type Params = Record<string, string | string[] | undefined>

/**
 * The page of one intent: its form at `/?intent=…`, and with `&order=…` what came of it.
 *
 * The intent is minted by `proxy.ts` and stands in the address. So it is the same after a reload, on the way back, in a second tab and
 * without scripts, and another one only for a user who starts anew. The form does not ask what came of its intent: to send it again is
 * the way to find out, whatever was lost.
 */
export default async function Page({ searchParams }: { searchParams: Promise<Params> }) {
  const { intent, order, origin } = await searchParams
  if (typeof intent !== 'string') redirect('/')

  return inRequest(async ({ user, correlationId }) => {
    const id = numberOf(order)
    const placed = id === undefined ? undefined : await shop().find(user, id)
    const notes = placed && (await shop().notes(user, placed.id))
    return (
      <>
        <meta name="correlation-id" content={correlationId} />
        {placed ? <Placed order={placed} origin={originOf(origin)} /> : <OrderForm key={intent} intent={intent} />}
        {placed && notes && (
          <section>
            {notes.map((text, at) => (
              <p key={at} data-note={at + 1}>
                {text}
              </p>
            ))}
            <NoteForm key={notes.length} intent={intent} order={placed.id} next={notes.length + 1} />
          </section>
        )}
        <footer>
          {user}, mode {mode()}
        </footer>
      </>
    )
  })
}

function Placed({ order, origin }: { order: Order; origin: string }) {
  return (
    <section>
      <p>
        Order <strong data-order={order.id}>{order.id}</strong>: {order.quantity} × {order.item}
      </p>
      {order.isCancelled && (
        <p role="alert" data-cancelled>
          The charge was declined, so this order is cancelled.
        </p>
      )}
      <p>
        This answer was <em data-origin={origin}>{origin}</em>.
      </p>
      {order.correlationId && (
        <p>
          Placed under the correlation id <code data-correlation={order.correlationId}>{order.correlationId}</code>.
        </p>
      )}
      <a data-again href="/">
        Another order
      </a>
    </section>
  )
}

function numberOf(order: Params[string]): number | undefined {
  return typeof order === 'string' && /^\d{1,9}$/.test(order) ? Number(order) : undefined
}

/** What the address says of the answer. Anyone can write it there; it is shown, and decides nothing. */
function originOf(origin: Params[string]): string {
  return origin === 'executed' || origin === 'collapsed' ? origin : 'replayed'
}
