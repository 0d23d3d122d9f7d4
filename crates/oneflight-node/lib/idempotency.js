'use strict'
// `Idempotency`: the calls, between the user's closures and the native half.

const { AsyncResource } = require('node:async_hooks')
const { abortable, check } = require('./abort.js')
const args = require('./arguments.js')
const circle = require('./circle.js')
const { Context, TransactionContext } = require('./context.js')
const correlation = require('./correlation.js')
const { classes, codeOf, deliver, fromFailure, isOfAnother, told } = require('./errors.js')
const json = require('./json.js')
const native = require('./native.js')
const { outbox } = require('./outbox.js')
const { Relay } = require('./relay.js')
const transaction = require('./transaction.js')

/** What an error of a closure is: an answer, or a sign that nobody knows what was done. */
const ANSWER = 'answer'
const DOUBT = 'doubt'

/** How long a call waits unless set, in milliseconds, as the crate has it; and what is not worth asking for. */
const WAIT = 15_000
const SHORTEST_WAIT = 50

const PRIVATE = Symbol('made by Idempotency.open')

class Idempotency {
  #handle
  #store
  #isClosing = false
  #isClosed = false
  /** What is under way, with the node of its request if it has one. */
  #calls = new Map()
  #relays = new Set()
  #outbox
  #closed

  constructor(secret, handle, store) {
    if (secret !== PRIVATE) throw args.invalid('it cannot be made by `new`; call `await Idempotency.open(url)`')
    this.#handle = handle
    this.#store = store
    this.#outbox = outbox(handle, () => this.#open(), (promise) => this.#track(promise))
  }

  static async open(url, options) {
    const place = args.url(url)
    const { native: settings, asker } = args.openOptions(options, place)
    const opened = await native.open(place, settings, asker && policy(asker))
    if (opened.failure) throw fromFailure(opened.failure)
    if (place.startsWith('sqlite:')) warnOfDrivers()
    const { schema, prefix } = settings
    const records = JSON.stringify([place, schema, prefix])
    return new Idempotency(PRIVATE, opened.handle, { place, records, settings, pool: JSON.stringify([place, settings]) })
  }

  run(request, work, options) {
    return this.#execute(request, work, options, ANSWER)
  }

  tryRun(request, work, options) {
    return this.#execute(request, work, options, DOUBT)
  }

  async #execute(request, work, options, meaning) {
    args.work(work)
    const { signal, retentionMs } = args.known(args.object(options, 'the options'), ['signal', 'retentionMs'], 'the options')
    if (retentionMs !== undefined) args.duration(retentionMs, 'retentionMs')
    check(signal)
    this.#open()
    let identity = args.identity(request)
    if (typeof identity.then === 'function') {
      identity = await abortable(identity, signal)
      check(signal)
      this.#open()
    }
    const call = new Call(this.#store, identity, work, meaning)
    const leave = call.enter()
    try {
      const settled = await abortable(this.#track(call.settled(this.#handle, retentionMs), call.node), signal)
      const again = call.again(settled, this.#handle, retentionMs, (asked) => this.#track(asked, call.node))
      return call.reply(again === undefined ? settled : await abortable(again, signal))
    } finally {
      leave()
    }
  }

  async runInTransaction(request, tx, work, options) {
    try {
      const begin = this.#transaction(tx, work, options, (before, sending) => before.then(() => transaction.drive(sending)))
      const { execution, node } = begin(await args.identity(request))
      return answered(await this.#track(transaction.drive(execution), node))
    } catch (error) {
      throw deliver(error)
    }
  }

  runInTransactionSync(request, tx, work, options) {
    try {
      const begin = this.#transaction(tx, work, options, (_, sending) => transaction.driveAtOnce(sending))
      // What it does after its first wait could not be undone.
      if (work[Symbol.toStringTag] === 'AsyncFunction') throw args.invalid('the work is async; call `runInTransaction`, and await it')
      const identity = args.identity(request)
      if (typeof identity.then === 'function') {
        throw args.invalid('the fingerprint has files in it, which take time to read; call `runInTransaction`, and await it')
      }
      return answered(transaction.driveAtOnce(begin(identity).execution, (promise) => void this.#track(promise)))
    } catch (error) {
      throw deliver(error)
    }
  }

  /** Checks all but the identity. Returns what begins with one. */
  #transaction(tx, work, options, send) {
    args.work(work)
    if (typeof tx !== 'function') {
      throw args.invalid(`the transaction is ${args.what(tx)}; give a function (sql, parameters) => rows on its connection, from \`adapters\``)
    }
    const { retentionMs } = args.known(args.object(options, 'the options'), ['retentionMs'], 'the options')
    if (retentionMs !== undefined) args.duration(retentionMs, 'retentionMs')
    this.#open()
    return (identity) => {
      this.#open()
      const { foreign, failure } = this.#handle.foreign(identity, retentionMs)
      if (failure) throw fromFailure(failure)
      const asked = circle.request(nameOf(this.#store, identity))
      const execution = transaction.execute(foreign, asked, this.#store.place, tx, () => {
        const context = new TransactionContext(foreign, (before, it) => send(before, transaction.send(foreign, tx, it)))
        return correlation.within(context.correlationId, () => context.run(work))
      })
      return { execution, node: asked.node }
    }
  }

  async status(request) {
    this.#open()
    const status = await this.#track(this.#handle.status(await args.identity(request)))
    if (status.failure) throw fromFailure(status.failure)
    const { state, attempt, held, leaseMs, completedAt, expiresAt } = status
    if (state === 'absent') return { state }
    if (state === 'completed') return { state, attempt, completedAt: new Date(completedAt), expiresAt: new Date(expiresAt) }
    return { state, attempt, held, leaseMs }
  }

  async inDoubt(options) {
    const given = args.known(args.object(options, 'the options'), ['limit', 'after'], 'the options')
    const { limit = 100, after } = given
    if (after !== undefined && typeof after !== 'string') throw args.invalid('`after` is no token; give the `token` of a request')
    this.#open()
    const listed = await this.#track(this.#handle.inDoubt(args.count(limit, 'limit'), after))
    if (listed.failure) throw fromFailure(listed.failure)
    return listed.requests.map(({ scope, key, attempt, token, sinceMs }) => {
      return { request: { scope: args.parsedScope(scope), key }, attempt, token, sinceMs }
    })
  }

  async resolve(request, resolution) {
    const { how, text } = resolutionOf(resolution)
    this.#open()
    const done = await this.#track(this.#handle.resolve(await args.identity(request), how, text))
    if (done.failure) throw fromFailure(done.failure)
    return done.word
  }

  async purge(options) {
    const { limit = 1000 } = args.known(args.object(options, 'the options'), ['limit'], 'the options')
    this.#open()
    const done = await this.#track(this.#handle.purge(args.count(limit, 'limit')))
    if (done.failure) throw fromFailure(done.failure)
    return done.count
  }

  relay(targets, options) {
    if (this.#isClosing) throw closed()
    const relay = new Relay(this.#handle, targets, options, (it) => this.#relays.delete(it))
    this.#relays.add(relay)
    return relay
  }

  get outbox() {
    return this.#outbox
  }

  async close() {
    const closing = circle.node()
    for (const node of this.#calls.values()) if (node !== undefined) closing.waitsFor.set(node, 1)
    for (const relay of this.#relays) for (const node of relay.nodes()) closing.waitsFor.set(node, 1)
    const leave = circle.wait(closing, 'it closes the store, which waits for this very work; close it outside of the work')
    try {
      this.#isClosing = true
      await (this.#closed ??= this.#close())
    } finally {
      leave?.()
    }
  }

  /** Whatever goes wrong, the rest is closed. */
  async #close() {
    const relays = await Promise.allSettled([...this.#relays].map((relay) => relay.close()))
    this.#isClosed = true
    while (this.#calls.size > 0) await Promise.allSettled([...this.#calls.keys()])
    await this.#handle.close()
    const failed = relays.find((it) => it.status === 'rejected')
    if (failed) throw failed.reason
  }

  [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    return this.close()
  }

  #open() {
    if (!this.#isClosing) return
    // What a relay is delivering has its grace, and may need the store for it.
    if (this.#isClosed || ![...this.#relays].some((relay) => relay.isUnderWay())) throw closed()
  }

  #track(promise, node) {
    // Calls that join one in flight are told by one promise.
    if (this.#calls.has(promise)) return promise
    this.#calls.set(promise, node)
    const over = () => this.#calls.delete(promise)
    promise.then(over, over)
    return promise
  }
}

/** The calls of this thread that the native half has been asked for, by pool and name. Others join them. */
const flights = (globalThis[Symbol.for('oneflight.flights')] ??= new Map())

/** What a call is told that has joined another one. */
const collapsed = (settled) => (settled.origin === 'executed' ? { ...settled, origin: 'collapsed' } : settled)

/** One call, whose closure runs if it leads. */
class Call {
  #identity
  #meaning
  #work
  #name
  #pool
  #mayJoin
  #waitMs
  #joined
  #request
  #thrown

  constructor(store, identity, work, meaning) {
    this.#identity = identity
    this.#meaning = meaning
    this.#work = work
    this.#name = nameOf(store, identity)
    this.#pool = store.pool
    // Callers are counted where all of them are known.
    this.#mayJoin = store.settings.maxCallers === undefined
    this.#waitMs = store.settings.waitMs ?? WAIT
  }

  get node() {
    return this.#request.node
  }

  /** Notes that the caller waits. Returns the function that ends that. */
  enter() {
    this.#request = circle.request(this.#name)
    const leave = circle.wait(this.#request.node)
    this.#request.begin()
    return () => {
      leave?.()
      this.#request.end()
    }
  }

  /**
   * Returns what the call is told. If it joins another call of this thread, that is what the native half would say, without the way
   * there.
   */
  settled(handle, retentionMs) {
    const leader = this.#mayJoin ? flights.get(this.#pool)?.get(this.#name) : undefined
    if (leader === undefined) return this.#known(() => this.#lead(handle, retentionMs))
    // The native half says what it means that they differ.
    if (leader.fingerprint !== this.#identity.fingerprint) return this.#known(() => this.#ask(handle, retentionMs))
    this.#joined = performance.now()
    // One promise for all that join.
    return (leader.joined ??= leader.settled.then(collapsed))
  }

  /**
   * Each caller has a wait of its own. Where that of the call which this one has joined has ended, this one asks by itself for what is left
   * of its own; returns what it is told then. What is asked goes on after that wait, and is given to `track`.
   */
  again(settled, handle, retentionMs, track) {
    if (this.#joined === undefined || settled.failure?.code !== 'InProgress') return undefined
    const left = this.#waitMs - (performance.now() - this.#joined)
    if (left < SHORTEST_WAIT) return undefined
    return within(left, track(this.#known(() => this.#ask(handle, retentionMs))), settled)
  }

  /** Asks for the request, which others know of until it is over, also when the caller has left. */
  async #known(ask) {
    this.#request.begin()
    try {
      return await ask()
    } finally {
      this.#request.end()
    }
  }

  #lead(handle, retentionMs) {
    // Before any caller is told, the flight is over: a call that comes after one is asked for anew.
    const settled = this.#ask(handle, retentionMs).finally(() => {
      own.delete(this.#name)
      if (own.size === 0 && flights.get(this.#pool) === own) flights.delete(this.#pool)
    })
    const own = flights.get(this.#pool) ?? new Map()
    flights.set(this.#pool, own)
    own.set(this.#name, { settled, fingerprint: this.#identity.fingerprint, joined: undefined })
    return settled
  }

  /** Asks the native half, which calls the closure if it is to run. */
  #ask(handle, retentionMs) {
    const run = (context) => circle.within(this.#request.node, this.#work, context)
    // With the caller's `AsyncLocalStorage`, but for the correlation id that the request has.
    const work = AsyncResource.bind((context) => correlation.within(context.correlationId, () => run(context)), 'oneflight')
    // It is given nothing back, and nothing is thrown.
    return handle.run(this.#identity, retentionMs, (ticket) => void this.#run(work, ticket))
  }

  async #run(work, ticket) {
    let value
    ticket.begin()
    try {
      value = await work(new Context(ticket))
    } catch (error) {
      const thrown = isOfAnother(error) ? cutShort(error) : error
      this.#thrown = { is: thrown }
      ticket.settle(this.#outcome(thrown), json.encodeThrown(thrown))
      return
    }
    try {
      ticket.settle('value', json.encode(value))
    } catch (error) {
      if (json.isNotJson(error)) ticket.settle('notJson', error.message)
      else ticket.settle('notJson', 'its value cannot be read: a getter or a proxy of it threw')
    }
  }

  #outcome(thrown) {
    const code = codeOf(thrown)
    if (code === 'NotDone') return 'notDone'
    if (code === 'Unknown') return 'unknown'
    return this.#meaning === ANSWER ? 'value' : 'unknown'
  }

  reply({ value: text, origin, attempt, declined, failure }) {
    if (failure) throw deliver(this.#failed(failure))
    const it = decoded(text)
    if (Object.hasOwn(it, 'error')) throw deliver(origin === 'executed' && this.#thrown ? this.#thrown.is : it.error)
    return { value: it.value, cached: origin !== 'executed', declined, origin, attempt }
  }

  #failed(failure) {
    // What this call's work threw, if that is not what became of it: it was too large to be recorded, for example.
    if (failure.thrown === undefined || failure.thrown === null) return fromFailure(failure, this.#thrown?.is)
    // This call's own error, as it was thrown, or what another call's closure threw.
    const thrown = this.#thrown ? this.#thrown.is : json.reviveThrown(failure.thrown)
    if (codeOf(thrown) === failure.code) {
      if (failure.retryAfterMs !== undefined) thrown.retryAfterMs = failure.retryAfterMs
      return thrown
    }
    return fromFailure(failure, thrown)
  }
}

function closed() {
  return new classes.Closed('it is closed; open the store again')
}

let isWarned = false
/** Warns once where the SQLite of a driver in this process and ours do not exclude each other. */
function warnOfDrivers() {
  if (isWarned || native.locksHold()) return
  isWarned = true
  const why = 'on this system the SQLite of a driver in this process and ours do not exclude each other, and may damage the file'
  process.emitWarning(`${why}; open it by no driver here`, { type: 'OneflightWarning', code: 'ONEFLIGHT_SQLITE_LOCKS' })
}

/** Returns the name of a request, in whichever way it is asked for. By the lengths, no two requests have the same. */
function nameOf(store, { namespace, route, user, key }) {
  return `${store.records}${namespace.length},${route?.length},${user?.length}:${namespace}${route ?? ''}${user ?? ''}${key}`
}

/** What work that let an error of another call pass says of itself: a part of it may be done. */
function cutShort(error) {
  const what = `the work ended with an error of a call that it made (${codeOf(error)}), which says nothing of what the work itself did`
  return new classes.Unknown(`${what}; have the work catch it, and throw NotDone or an error of its own`, { cause: error })
}

function decoded(text) {
  try {
    return json.decode(text)
  } catch {
    throw new classes.ValueUnreadable('what is recorded is no JSON; was it recorded by another service?')
  }
}

/** Returns the reply of an execution in a transaction. */
function answered({ settled, value, attempt }) {
  if (settled === undefined) return { value, cached: false, declined: false, origin: 'executed', attempt }
  if (settled.failure) throw fromFailure(settled.failure)
  const { value: text, origin } = settled
  const it = decoded(text)
  // An error that work outside of a transaction has thrown.
  if (Object.hasOwn(it, 'error')) throw it.error
  return { value: it.value, cached: true, declined: settled.declined, origin, attempt: settled.attempt }
}

/** Returns what the promise resolves to, or something else after so many milliseconds. */
function within(millis, promise, otherwise) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, millis, otherwise)
    promise.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}

function resolutionOf(resolution) {
  if (resolution === 'rerun' || resolution === 'hold') return { how: resolution, text: '' }
  if (typeof resolution === 'object' && resolution !== null && Object.hasOwn(resolution, 'completed')) {
    try {
      return { how: 'completed', text: json.encode(resolution.completed) }
    } catch (error) {
      if (!json.isNotJson(error)) throw error
      throw new classes.InvalidArgument(`\`completed\`: ${error.message}`, { path: error.path })
    }
  }
  throw args.invalid("the resolution is none; give { completed: value }, 'rerun' or 'hold'")
}

/** Makes what the native half asks of the user's function. Whatever goes wrong, the request is held. */
function policy(asker) {
  const ask = async (ticket) => {
    ticket.begin()
    try {
      const { scope, key, attempt } = new Context(ticket)
      const doubt = { request: { scope, key }, attempt, downstreamKey: (step) => ticket.downstreamKey(step) }
      const { how, text } = resolutionOf(await asker(doubt))
      ticket.settle(how === 'completed' ? 'value' : how, text)
    } catch (error) {
      ticket.settle('hold', '')
      process.emitWarning(`a recovery function failed, and its request is held: ${told(error)}`, 'OneflightWarning')
    }
  }
  return (ticket) => {
    void ask(ticket)
  }
}

module.exports = { Idempotency }
