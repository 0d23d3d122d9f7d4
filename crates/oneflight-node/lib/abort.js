'use strict'
// A caller that stops waiting. What it waited for goes on.

const { classes } = require('./errors.js')

/** Throws the reason of a signal that has been given already, and checks that it is a signal. */
function check(signal) {
  if (signal === undefined) return
  if (typeof signal !== 'object' || signal === null || typeof signal.addEventListener !== 'function') {
    throw new classes.InvalidArgument('`signal` is no AbortSignal; give the `signal` of an AbortController, or leave it out')
  }
  if (signal.aborted) throw signal.reason
}

/** Returns a promise of the same value, which is rejected when the signal is given. */
function abortable(promise, signal) {
  if (signal === undefined) return promise
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason)
    // It may have been given while the promise was made.
    if (signal.aborted) stop()
    else signal.addEventListener('abort', stop, { once: true })
    const over = (settle) => (it) => {
      signal.removeEventListener('abort', stop)
      settle(it)
    }
    promise.then(over(resolve), over(reject))
  })
}

module.exports = { check, abortable }
