'use strict'
// Collapses calls of one thread: of all whose key is in flight, one runs its work.
//
// It is JavaScript alone. A thread has nobody to share a promise with, and a call that crosses into native code and back costs
// ten times what this does.

const { abortable, check } = require('./abort.js')
const { node, within, wait } = require('./circle.js')
const { classes } = require('./errors.js')

const asLeader = (value) => ({ value, role: 'leader' })
const asFollower = (value) => ({ value, role: 'follower' })

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

  run(key, work, { signal } = {}) {
    try {
      if (typeof work !== 'function') {
        throw new classes.InvalidArgument('the work is no function; give a function, which may be async')
      }
      check(signal)
      const joined = this.#flights.get(key)
      return joined === undefined ? this.#lead(key, work, signal) : this.#join(joined, signal)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  #lead(key, work, signal) {
    if (this.#isClosed) throw new classes.Closed('the group is closed and begins no new flights')
    if (this.#flights.size >= this.#maxFlights) {
      throw new classes.Overloaded(`the group has ${this.#maxFlights} flights, its limit; try again later`)
    }
    const flight = { node: node(), callers: 1, promise: undefined, followers: undefined }
    const leave = wait(flight.node)
    this.#led++
    this.#flights.set(key, flight)
    flight.promise = this.#fly(key, flight, work)
    return this.#outcome(flight, flight.promise.then(asLeader), leave, signal)
  }

  #join(flight, signal) {
    if (flight.callers >= this.#maxCallers) {
      throw new classes.Overloaded(`the flight has ${this.#maxCallers} callers, its limit; try again later`)
    }
    const leave = wait(flight.node)
    this.#joined++
    flight.callers++
    // One promise for all that join: to join allocates nothing.
    flight.followers ??= flight.promise.then(asFollower)
    return this.#outcome(flight, flight.followers, leave, signal)
  }

  #outcome(flight, outcome, leave, signal) {
    if (signal === undefined && leave === undefined) return outcome
    // A caller that has left is none any more.
    const over = () => {
      flight.callers--
      leave?.()
    }
    const own = abortable(outcome, signal)
    own.then(over, over)
    return own
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
