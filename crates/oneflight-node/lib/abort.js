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

/** What is to stop with a signal, and its one listener: an `EventTarget` with more than ten of them warns of a leak. */
const waiting = new WeakMap()

/** Returns the function after which it is no longer stopped. */
function onAbort(signal, stop) {
  let known = waiting.get(signal)
  if (known === undefined) {
    const stops = new Set()
    known = { stops, listener: () => stops.forEach((it) => it()) }
    waiting.set(signal, known)
    signal.addEventListener('abort', known.listener, { once: true })
  }
  known.stops.add(stop)
  return () => {
    known.stops.delete(stop)
    if (known.stops.size > 0 || waiting.get(signal) !== known) return
    waiting.delete(signal)
    signal.removeEventListener('abort', known.listener)
  }
}

/** Returns a promise of the same value, which is rejected when the signal is given. */
function abortable(promise, signal) {
  if (signal === undefined) return promise
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason)
    // It may have been given while the promise was made.
    if (signal.aborted) {
      promise.then(undefined, () => {})
      return stop()
    }
    const forget = onAbort(signal, stop)
    const over = (settle) => (it) => {
      forget()
      settle(it)
    }
    promise.then(over(resolve), over(reject))
  })
}

module.exports = { check, abortable }
