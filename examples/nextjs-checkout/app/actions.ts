'use server'

// The actions, each small and with a key and a route of its own.
//
// What went well ends in a redirect to a page that is fetched: to reload it sends nothing again, to go back shows a form that has the
// same key, and without scripts Next makes a 303 of it, so that all of this is the same there. What went wrong is the action's
// state, and no address: a reload forgets it and shows what is.

import { redirect } from 'next/navigation'
import { log, told } from '../lib/log'
import { type Answer, type Asked, type NewOrder, Problem } from '../lib/order'
import { inRequest } from '../lib/request'
import { shop } from '../lib/shop'
import { tell, type Told } from '../lib/trouble'

/** What is shown above a form that was not carried out. `fields` is what was typed into it. */
export interface Failed extends Told {
  fields: Record<string, string>
}

export async function placeOrder(_: Failed | undefined, form: FormData): Promise<Failed> {
  const done = await act('placeOrder', form, (asked) => shop().placeOrder(asked, orderOf(form)))
  if ('code' in done) return { ...done, fields: { item: field(form, 'item'), quantity: field(form, 'quantity') } }
  redirect(viewOf(field(form, 'key'), String(done.value.id), done.origin))
}

export async function addNote(_: Failed | undefined, form: FormData): Promise<Failed> {
  const done = await act('addNote', form, (asked) => shop().addNote(asked, noteOf(form)))
  if ('code' in done) return { ...done, fields: { text: field(form, 'text') } }
  redirect(viewOf(field(form, 'intent'), field(form, 'order'), done.origin))
}

/** Does this for the user who asks. What goes wrong is logged, and told without saying more than a user needs. */
async function act<T>(name: string, form: FormData, work: (asked: Asked) => Promise<Answer<T>>): Promise<Answer<T> | Told> {
  return inRequest(async ({ user }) => {
    try {
      const answer = await work({ user, key: field(form, 'key') })
      log(name, { user, ...answer })
      return answer
    } catch (error) {
      const problem = tell(error)
      log(`${name} was not done`, { user, code: problem.code, error: told(error) })
      return problem
    }
  })
}

function viewOf(intent: string, order: string, origin: string) {
  return `/?${new URLSearchParams({ intent, order, origin })}`
}

function field(form: FormData, name: string): string {
  const value = form.get(name)
  return typeof value === 'string' ? value : ''
}

function orderOf(form: FormData): NewOrder {
  const quantity = Number(field(form, 'quantity'))
  if (!Number.isInteger(quantity) || quantity < 1 || quantity > 1000) {
    throw new Problem('Invalid', 'The quantity is to be a whole number from 1 to 1000.')
  }
  return { item: line(form, 'item'), quantity }
}

function noteOf(form: FormData) {
  return { order: Number(field(form, 'order')), text: line(form, 'text') }
}

function line(form: FormData, name: string): string {
  const text = field(form, name).trim()
  if (text === '' || text.length > 100 || /\p{Cc}/u.test(text)) {
    throw new Problem('Invalid', `The ${name} is to be one line of 1 to 100 characters.`)
  }
  return text
}
