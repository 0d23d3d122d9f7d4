// What the shop is asked for and what it answers, in each of its modes.

import type { Origin } from 'oneflight'

export interface NewOrder {
  item: string
  quantity: number
}

export interface Order extends NewOrder {
  id: number
  /** Of the request that placed it. */
  correlationId?: string
  /** Its charge was declined. */
  isCancelled?: boolean
}

export interface NewNote {
  order: number
  text: string
}

/** Who asks, and under which key. The same key of another user is another request. */
export interface Asked {
  user: string
  key: string
}

export interface Answer<T> {
  value: T
  origin: Origin
}

export interface Shop {
  placeOrder(asked: Asked, order: NewOrder): Promise<Answer<Order>>
  addNote(asked: Asked, note: NewNote): Promise<Answer<number>>
  find(user: string, order: number): Promise<Order | undefined>
  /** The notes of an order, or nothing where there are none to be written. */
  notes(user: string, order: number): Promise<string[] | undefined>
}

/** What an order costs. */
export const CENTS = 250

/** What is not done, and what the user can do about it. `code` is that of the package, where it is an error of the package. */
export class Problem extends Error {
  constructor(
    readonly code: string,
    message: string
  ) {
    super(message)
  }
}
