'use strict'
// Finds work that would wait for itself: a call for a key from inside the work of that key, or of one that waits for it.
//
// Each flight of this thread is a node; a call inside of work is an edge from that work's node to the node that it calls. An
// edge that would close a circle is an error before anything is asked. What passes through another process or thread is not
// seen.

const { AsyncLocalStorage } = require('node:async_hooks')
const { classes } = require('./errors.js')

// One for the thread, however many copies of this module it has loaded.
const inside = (globalThis[Symbol.for('oneflight.inside')] ??= new AsyncLocalStorage())

/** The requests that this thread has asked for and not been told of, by name: a node of the circle, and how many calls. */
const asked = (globalThis[Symbol.for('oneflight.asked')] ??= new Map())

/** Returns the request of this name, which others may have asked for. It is known to others between `begin` and `end`. */
function request(name) {
  let known = asked.get(name)
  if (known === undefined) {
    known = { node: node(), calls: 0, begin: () => void known.calls++, end }
    asked.set(name, known)
  }
  return known

  function end() {
    if (--known.calls > 0) return
    known.node.isOver = true
    if (asked.get(name) === known) asked.delete(name)
  }
}

/** Makes the node of a flight. */
function node() {
  return { isOver: false, waitsFor: new Map() }
}

/** Runs a function as the work of a flight. */
function within(own, work, ...args) {
  return inside.run(own, work, ...args)
}

const OF_KEY = 'it called for a key whose work waits, directly or through others, for this very work; give the inner call another key'

/** Notes that the work that runs here waits for this flight. Returns the function that ends it. */
function wait(target, why = OF_KEY) {
  const own = inside.getStore()
  if (own === undefined || own.isOver) return undefined
  if (reaches(target, own, new Set())) {
    throw new classes.Reentrant(`the work waits for itself: ${why}`)
  }
  own.waitsFor.set(target, (own.waitsFor.get(target) ?? 0) + 1)
  return () => {
    const calls = own.waitsFor.get(target) - 1
    if (calls === 0) own.waitsFor.delete(target)
    else own.waitsFor.set(target, calls)
  }
}

function reaches(from, to, seen) {
  if (from === to) return true
  if (seen.has(from)) return false
  seen.add(from)
  for (const next of from.waitsFor.keys()) if (reaches(next, to, seen)) return true
  return false
}

module.exports = { node, request, within, wait }
