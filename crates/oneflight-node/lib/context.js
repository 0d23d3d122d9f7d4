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

/** What a closure in a transaction knows of it, and by which it sends. */
class TransactionContext extends Context {
  #send
  #last = Promise.resolve()
  #isOver = false

  constructor(foreign, send) {
    super(foreign)
    this.#send = send
  }

  /** Runs the work, and waits for what it sends. */
  run(work) {
    const over = () => (this.#isOver = true)
    let value
    try {
      value = work(this)
    } catch (error) {
      over()
      throw error
    }
    if (typeof value?.then !== 'function') {
      over()
      return value
    }
    return Promise.resolve(value).finally(() => {
      over()
      return this.#last
    })
  }

  send(message) {
    if (this.#isOver) throw args.invalid('the work is over; await what it sends before it returns')
    // One after the other: a message is several statements.
    const sent = this.#send(this.#last, message)
    if (typeof sent.then === 'function') this.#last = sent.catch(() => {})
    return sent
  }
}

module.exports = { Context, TransactionContext }
