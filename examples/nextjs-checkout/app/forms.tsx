'use client'

import { useActionState } from 'react'
import { addNote, type Failed, placeOrder } from './actions'
import { SubmitButton } from './submit-button'

/** The form of one intent. `intent` is its key, and stands in the address of the page as well. */
export function OrderForm({ intent }: { intent: string }) {
  const [failed, action] = useActionState(placeOrder, undefined)
  return (
    <form id="order" action={action}>
      <Trouble failed={failed} anew="/" />
      <input type="hidden" name="key" value={intent} />
      <label>
        Item
        <input name="item" required maxLength={100} autoComplete="off" defaultValue={failed?.fields.item} />
      </label>
      <label>
        Quantity
        <input name="quantity" type="number" required min={1} max={1000} defaultValue={failed?.fields.quantity ?? '1'} />
      </label>
      <SubmitButton>Place the order</SubmitButton>
    </form>
  )
}

/** The form of the next note. Its key says so: that of the order, and how many notes there are. */
export function NoteForm({ intent, order, next }: { intent: string; order: number; next: number }) {
  const [failed, action] = useActionState(addNote, undefined)
  return (
    <form id="note" action={action}>
      <Trouble failed={failed} anew={`/?intent=${encodeURIComponent(intent)}&order=${order}`} />
      <input type="hidden" name="key" value={`${intent}.note-${next}`} />
      <input type="hidden" name="intent" value={intent} />
      <input type="hidden" name="order" value={order} />
      <label>
        Note to the shop
        <input name="text" required maxLength={100} autoComplete="off" defaultValue={failed?.fields.text} />
      </label>
      <SubmitButton>Add the note</SubmitButton>
    </form>
  )
}

/** What went wrong. At `anew` the form has another key. */
function Trouble({ failed, anew }: { failed: Failed | undefined; anew: string }) {
  if (failed === undefined) return null
  return (
    <p role="alert" data-error={failed.code}>
      {failed.message} {failed.code === 'KeyReused' && <a href={anew}>Start anew</a>}
    </p>
  )
}
