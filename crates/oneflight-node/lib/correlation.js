'use strict'
// The correlation id of what runs: the id that joins the logs of one request. It decides nothing.

const { AsyncLocalStorage } = require('node:async_hooks')
const { classes } = require('./errors.js')
const native = require('./native.js')

// One for the thread, however many copies of this module it has loaded.
const ids = (globalThis[Symbol.for('oneflight.correlation')] ??= new AsyncLocalStorage())

/** Returns the id, if it is one. */
function valid(id) {
  if (typeof id !== 'string') {
    throw new classes.InvalidArgument(`the correlation id is a ${typeof id}; give a string of 1 to 128 visible ASCII characters`)
  }
  const wrong = native.checkCorrelationId(id)
  if (wrong) throw new classes.InvalidArgument(wrong)
  return id
}

/** Runs a function under this id, or under none. */
function within(id, run) {
  return ids.run(id, run)
}

const correlation = {
  run(id, run) {
    if (typeof run !== 'function') throw new classes.InvalidArgument(`what is to run is a ${typeof run}; give a function`)
    return within(valid(id), run)
  },

  current() {
    return ids.getStore()
  }
}

module.exports = { correlation, valid, within }
