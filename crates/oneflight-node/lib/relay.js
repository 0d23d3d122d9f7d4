'use strict'
// `Relay`: delivers messages of the outbox to closures.
//
// All that the native half tells comes through one function, in its order: a delivery to be made, a delivery for which nobody
// waits any more, a dead letter. That function keeps the process alive until the relay has ended.

const { AsyncLocalStorage, AsyncResource } = require('node:async_hooks')
const args = require('./arguments.js')
const circle = require('./circle.js')
const correlation = require('./correlation.js')
const { classes, codeOf, fromFailure, told } = require('./errors.js')
const native = require('./native.js')
const nesting = require('./nesting.js')

/** The delivery, or the dead letter, that is under way here. One for the thread, however many copies of this module it has loaded. */
const under = (globalThis[Symbol.for('oneflight.delivering')] ??= new AsyncLocalStorage())

/** Where nothing is under way. What a relay was begun in is none of a message's, whatever the user keeps there. */
const outside = new AsyncResource('oneflight')

const OF_DELIVERY = 'it closes what waits for this very delivery; close it outside of the delivery'

const COUNTS = ['maxAttempts', 'maxInFlight', 'circuitBreaker']
const PAUSES = ['firstPauseMs', 'longestPauseMs']
const TARGET = ['deliver', 'timeoutMs', 'onDead', ...COUNTS, ...PAUSES]
const OPTIONS = ['group', 'leaseMs', 'graceMs', 'onDeadLetter']

class Relay {
  #native
  #targets
  /** What is being delivered, by number. */
  #running = new Map()
  /** The dead letters that are being told of. */
  #burying = new Map()
  #onDeadLetter
  #hasEnded
  #end = new Promise((resolve) => (this.#hasEnded = resolve))
  #ended
  #closed

  /** Begins one of an open store. `ended` is called once it has been closed. */
  constructor(handle, targets, options, ended) {
    const its = Object.entries(args.object(targets, '`targets`')).map(([pattern, value]) => target(pattern, value))
    if (its.length === 0) throw args.invalid('the relay has no targets; give { topic: async (message, { signal }) => { … } }')
    const { onDeadLetter = warn, ...settings } = relayOptions(options)
    const tell = (event) => outside.runInAsyncScope(() => nesting.outside(() => this.#tell(event)))
    const { relay, failure } = native.relay(handle, settings, its.map((it) => it.settings), tell)
    if (failure) throw fromFailure(failure)
    this.#native = relay
    this.#targets = its.map((it) => it.deliver)
    this.#onDeadLetter = onDeadLetter
    this.#ended = ended
  }

  health() {
    return this.#native.health()
  }

  close() {
    const closing = circle.node()
    for (const node of this.nodes()) closing.waitsFor.set(node, 1)
    let leave
    try {
      leave = circle.wait(closing, OF_DELIVERY)
    } catch (error) {
      return Promise.reject(error)
    }
    this.#closed ??= this.#close()
    if (leave !== undefined) this.#closed.then(leave, leave)
    return this.#closed
  }

  async #close() {
    try {
      await this.#native.close()
      // What it has told before that, dead letters too, has come by then.
      await this.#end
      await Promise.all(this.#burying.values())
    } finally {
      this.#ended(this)
    }
  }

  /** Returns the nodes of what a close waits for. */
  *nodes() {
    for (const { node } of this.#running.values()) yield node
    yield* this.#burying.keys()
  }

  /** Returns whether a delivery of this relay, or a dead letter, is under way here. */
  isUnderWay() {
    const it = under.getStore()
    return it !== undefined && it.relay === this && !it.node.isOver
  }

  [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    return this.close()
  }

  /** Never throws: nobody would catch it. */
  #tell({ delivery, aborted, dead, hasEnded }) {
    if (delivery) void this.#deliver(delivery)
    else if (dead) this.#bury(dead)
    else if (hasEnded) this.#hasEnded()
    else this.#abort(aborted)
  }

  /** Runs a function of the user's under a node. */
  async #run(node, run) {
    try {
      return await under.run({ relay: this, node }, () => circle.within(node, run))
    } finally {
      node.isOver = true
    }
  }

  async #deliver(ours) {
    // The event loop was busy for so long that it is not this relay's any more.
    if (ours.isOver) return
    const { number } = ours
    const controller = new AbortController()
    const node = circle.node()
    this.#running.set(number, { controller, node })
    try {
      const delivery = new Delivery(ours.begin())
      const deliver = this.#targets[ours.target]
      const run = () => this.#run(node, () => deliver(delivery, { signal: controller.signal }))
      await correlation.within(delivery.correlationId, run)
      ours.settle('delivered', '')
    } catch (thrown) {
      ours.settle(...verdict(thrown))
    } finally {
      this.#running.delete(number)
    }
  }

  #abort(number) {
    const running = this.#running.get(number)
    this.#running.delete(number)
    const why = 'nobody waits for this delivery any more: its time is over, its relay is closing, or another relay has its message'
    running?.controller.abort(new DOMException(why, 'AbortError'))
  }

  #bury(letter) {
    const node = circle.node()
    const buried = this.#run(node, () => this.#onDeadLetter(letter))
      .catch((error) => process.emitWarning(`onDeadLetter failed: ${told(error)}`, 'OneflightWarning'))
      .finally(() => this.#burying.delete(node))
    this.#burying.set(node, buried)
  }
}

/** A message on its way to a target. */
class Delivery {
  constructor({ headers, ...parts }) {
    const pairs = []
    for (let at = 0; at < headers.length; at += 2) pairs.push([headers[at], headers[at + 1]])
    Object.assign(this, parts, { headers: Object.fromEntries(pairs) })
  }

  text() {
    return this.payload.toString()
  }

  json() {
    try {
      return JSON.parse(this.text())
    } catch {
      // What the parser says has a part of the payload in it.
      throw new classes.Rejected('the payload is no JSON')
    }
  }
}

function target(pattern, value) {
  const name = `the target of ${JSON.stringify(pattern)}`
  const given = args.known(typeof value === 'function' ? { deliver: value } : args.object(value, name), TARGET, name)
  const { deliver, timeoutMs, onDead = 'block' } = given
  if (typeof deliver !== 'function') {
    throw args.invalid(`${name} has no \`deliver\`; give a function, or { deliver: async (message, { signal }) => { … } }`)
  }
  if (onDead !== 'block' && onDead !== 'skip') throw args.invalid("`onDead` is none; give 'block' or 'skip'")
  const settings = { pattern, skipsDead: onDead === 'skip' }
  if (timeoutMs !== undefined) settings.timeoutMs = positive(timeoutMs, 'timeoutMs')
  for (const name of COUNTS) if (given[name] !== undefined) settings[name] = args.count(given[name], name)
  for (const name of PAUSES) if (given[name] !== undefined) settings[name] = args.duration(given[name], name)
  return { deliver, settings }
}

function relayOptions(value) {
  const { group, leaseMs, graceMs, onDeadLetter } = args.known(args.object(value, 'the options'), OPTIONS, 'the options')
  const native = {}
  if (group !== undefined) native.group = args.text(group, 'group')
  if (leaseMs !== undefined) native.leaseMs = args.duration(leaseMs, 'leaseMs')
  if (graceMs !== undefined) native.graceMs = args.duration(graceMs, 'graceMs')
  if (onDeadLetter !== undefined) {
    if (typeof onDeadLetter !== 'function') throw args.invalid(`\`onDeadLetter\` is ${args.what(onDeadLetter)}; give a function`)
    native.onDeadLetter = onDeadLetter
  }
  return native
}

function positive(value, name) {
  if (args.duration(value, name) > 0) return value
  throw args.invalid(`\`${name}\` is 0; give 1 or more`)
}

/** Returns what is settled for an error. Never throws. */
function verdict(thrown) {
  let code
  let retryAfterMs
  try {
    code = codeOf(thrown)
    if (code !== undefined && thrown.retryAfterMs > 0) retryAfterMs = Number(thrown.retryAfterMs)
  } catch {
    // An error that cannot be read is one that is tried again.
  }
  return [code === 'Rejected' ? 'rejected' : 'retry', told(thrown), retryAfterMs]
}

function warn({ id, topic, attempts, error }) {
  process.emitWarning(`message ${id} of ${topic} is a dead letter after ${attempts} attempts: ${error}`, 'OneflightWarning')
}

module.exports = { Relay }
