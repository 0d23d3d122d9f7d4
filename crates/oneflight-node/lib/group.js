'use strict'
// Collapses calls of one thread: of all whose key is in flight, one runs its work.
//
// It is JavaScript alone. A thread has nobody to share a promise with, and a call that crosses into native code and back costs
// ten times what this does.

const { abortable, check } = require('./abort.js')
const { node, within, wait } = require('./circle.js')
const { classes } = require('./errors.js')

class Group {
  #flights = new Map()
  #isClosed = false
  #maxFlights
  #maxCallers
  #led = 0
  #joined = 0

  constructor({ maxFlights = Infinity, maxCallers = Infinity } = {}) {
    this.#maxFlights = limit('maxFlights', maxFlights)
    this.#maxCallers = limit('maxCallers', maxCallers)
  }

  get inFlight() {
    return this.#flights.size
  }

  get stats() {
    return { led: this.#led, joined: this.#joined }
  }

  async run(key, work, { signal } = {}) {
    if (typeof work !== 'function') {
      throw new classes.InvalidArgument('the work is no function; give a function, which may be async')
    }
    check(signal)
    let flight = this.#flights.get(key)
    const role = flight === undefined ? 'leader' : 'follower'
    if (flight === undefined) {
      if (this.#isClosed) throw new classes.Closed('the group is closed and begins no new flights')
      if (this.#flights.size >= this.#maxFlights) {
        throw new classes.Overloaded(`the group has ${this.#maxFlights} flights, its limit; try again later`)
      }
      flight = { node: node(), callers: 0, promise: undefined }
    } else if (flight.callers >= this.#maxCallers) {
      throw new classes.Overloaded(`the flight has ${this.#maxCallers} callers, its limit; try again later`)
    }
    const leave = wait(flight.node)
    flight.callers++
    if (role === 'leader') {
      this.#led++
      this.#flights.set(key, flight)
      flight.promise = this.#fly(key, flight, work)
      // Each caller is told; none may be there any more.
      flight.promise.catch(() => {})
    } else {
      this.#joined++
    }
    try {
      return { value: await abortable(flight.promise, signal), role }
    } finally {
      flight.callers--
      leave?.()
    }
  }

  async #fly(key, flight, work) {
    try {
      return await within(flight.node, work)
    } finally {
      // Before any caller is told: a call that comes after one gets a flight of its own.
      this.#flights.delete(key)
      flight.node.isOver = true
    }
  }

  close() {
    this.#isClosed = true
  }

  async drain() {
    while (this.#flights.size > 0) {
      await Promise.allSettled([...this.#flights.values()].map((flight) => flight.promise))
    }
  }
}

function limit(name, value) {
  if (value === Infinity || (Number.isSafeInteger(value) && value >= 1)) return value
  throw new classes.InvalidArgument(`\`${name}\` is no limit; give a whole number from 1, or leave it out`)
}

module.exports = { Group }
