'use strict'
// What a closure knows of its execution.

const args = require('./arguments.js')

class Context {
  #ticket

  constructor(ticket) {
    this.#ticket = ticket
  }

  get scope() {
    return args.parsedScope(this.#ticket.scope)
  }

  get key() {
    return this.#ticket.key
  }

  get attempt() {
    return this.#ticket.attempt
  }

  get correlationId() {
    return this.#ticket.correlationId ?? undefined
  }

  get isLeaseLost() {
    return this.#ticket.isLeaseLost
  }

  downstreamKey(step) {
    if (typeof step !== 'string') throw args.invalid(`the step is ${args.what(step)}; give its name`)
    return this.#ticket.downstreamKey(step)
  }
}

/** What becomes of a message. It knows whether anybody waits for it. */
class Sending extends Promise {
  isAwaited = false

  static get [Symbol.species]() {
    return Promise
  }

  then(...reactions) {
    this.isAwaited = true
    return super.then(...reactions)
  }
}

/** What a closure in a transaction knows of it, and by which it sends. */
class TransactionContext extends Context {
  #send
  #last
  #lost = []
  #isOver = false

  constructor(foreign, send) {
    super(foreign)
    this.#send = send
  }

  /** Runs the work, and waits for what it sends: statements of a message must not come between ours. */
  run(work) {
    let value
    try {
      value = work(this)
    } catch (error) {
      value = this.#last && Promise.reject(error)
      if (value === undefined) {
        this.#isOver = true
        throw error
      }
    }
    if (typeof value?.then === 'function' || this.#last !== undefined) return this.#finished(value)
    this.#isOver = true
    return value
  }

  async #finished(value) {
    try {
      value = await value
    } finally {
      this.#isOver = true
      await this.#last
    }
    // Else the work would be recorded without its message, and nobody be told.
    const lost = this.#lost.find(({ sending }) => !sending.isAwaited)
    if (lost !== undefined) throw lost.error
    return value
  }

  send(message) {
    if (this.#isOver) throw args.invalid('the work is over; await what it sends before it returns')
    // One after the other: a message is several statements.
    const sent = this.#send(this.#last ?? Promise.resolve(), message)
    if (typeof sent.then !== 'function') return sent
    const sending = new Sending((resolve) => resolve(sent))
    this.#last = sent.then(
      () => {},
      (error) => void this.#lost.push({ sending, error })
    )
    // If nobody waits for it, its error is that of the work, and not one that was not handled.
    Promise.prototype.then.call(sending, undefined, () => {})
    return sending
  }
}

module.exports = { Context, TransactionContext }
