'use strict'
// Which calls are under way in a transaction, one inside the other.
//
// A savepoint is a point in time of the connection: to roll back to it undoes all that ran since, of other calls as well. So the calls
// of a transaction are made one after the other, or in the work of the one before. One that would overlap with another one is
// an error before it writes anything.

const { AsyncLocalStorage } = require('node:async_hooks')
const { classes } = require('./errors.js')

// One of each for the thread, however many copies of this module it has loaded.

/** The call whose work runs here. */
const inside = (globalThis[Symbol.for('oneflight.nesting')] ??= new AsyncLocalStorage())

/** The innermost call that is under way, by what stands for its transaction. */
const innermost = (globalThis[Symbol.for('oneflight.innermost')] ??= new Map())

// Nothing of it is private: a copy of this module has to read what another one has made.
class Call {
  constructor() {
    this.outer = inside.getStore()
    /** How many calls this one is inside of. */
    this.depth = this.outer === undefined ? 0 : this.outer.depth + 1
    this.entered = []
    this.isClosing = false
    this.onEnd = []
  }

  /** Takes its place in a transaction, which something stands for. */
  enter(transaction) {
    const before = innermost.get(transaction)
    if (before === this) return
    if (before !== undefined && (before.isClosing || !this.isInside(before))) {
      throw new classes.InvalidArgument(
        'another call is under way in this transaction, and of two that overlap one can undo the rows of the other one; await ' +
          'each call before the next one, and use no Promise.all'
      )
    }
    innermost.set(transaction, this)
    this.entered.push({ transaction, before })
  }

  isInside(other) {
    let outer = this.outer
    while (outer !== undefined && outer !== other) outer = outer.outer
    return outer === other
  }

  /** Runs a function as its work. */
  run(work) {
    return inside.run(this, work)
  }

  /** Begins no more calls inside of this one. Returns what waits for one that is under way, if there is one. */
  close() {
    this.isClosing = true
    for (const { transaction } of this.entered) {
      const last = innermost.get(transaction)
      if (last !== this) return () => new Promise((resolve) => last.onEnd.push(resolve))
    }
    return undefined
  }

  /** Leaves the transaction. */
  leave() {
    for (const { transaction, before } of this.entered) {
      if (before === undefined) innermost.delete(transaction)
      else innermost.set(transaction, before)
    }
    // Code that the work has left behind keeps this, and nothing behind it.
    this.outer = undefined
    for (const told of this.onEnd) told()
  }
}

/** Runs a function in no call's work. */
function outside(run) {
  return inside.run(undefined, run)
}

module.exports = { Call, outside }
