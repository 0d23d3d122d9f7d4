'use strict'
// One execution in a transaction of the user's own driver.
//
//   begin      the lock, the record: an answer, or the work is to be run
//   claim      a savepoint; on SQLite a record in progress
//     the work
//   record     in the transaction that was begun, or nothing
//   release    of the savepoint
//
// The native half says what to run and reads the answers. It is written as a generator that yields what takes time, so that a
// driver that answers at once is not made to wait.

const { about, isCommand } = require('./adapters.js')
const args = require('./arguments.js')
const circle = require('./circle.js')
const { classes, fromFailure } = require('./errors.js')
const json = require('./json.js')
const nesting = require('./nesting.js')

/** Executes the request of `foreign` at a place. Yields functions whose results are given back. */
function* execute(foreign, request, place, run, work) {
  const { connection, check } = about(run)
  const call = new nesting.Call()
  let leave
  request.begin()
  try {
    check?.()
    // A call for the key of the work that it is made in would be granted: the lock is that of the connection.
    leave = circle.wait(request.node)
    // A function of the user's may run on whichever connection. PostgreSQL tells its transactions apart, and SQLite does not.
    const known = connection ?? (place.startsWith('sqlite:') ? run : undefined)
    if (known !== undefined) call.enter(known)
    const enter = () => foreign.transaction && call.enter(place + foreign.transaction)
    return yield* claimed(foreign, call, enter, run, (context) => call.run(() => circle.within(request.node, work, context)))
  } finally {
    call.leave()
    leave?.()
    request.end()
    foreign.over()
  }
}

function* claimed(foreign, call, enter, run, work) {
  const begun = foreign.decide(yield* all(run, foreign.begin(call.depth)))
  if (begun.failure) throw fromFailure(begun.failure)
  if (begun.settled) return { settled: begun.settled }
  // Before there is anything to undo.
  enter()
  try {
    const failure = foreign.claimed(yield* all(run, begun.statements))
    if (failure) throw fromFailure(failure)
  } catch (error) {
    // The work was not run. What can't be undone is undone by the rollback that this error leads to.
    yield* undone(foreign, run)
    throw error
  }
  let text
  try {
    text = encoded(yield* alone(call, () => work(foreign)))
  } catch (thrown) {
    throw yield* failed(foreign, run, thrown)
  }
  const step = foreign.record(text)
  if (step.failure) throw yield* failed(foreign, run, fromFailure(step.failure))
  let recorded
  try {
    recorded = foreign.recorded(yield* all(run, step.statements))
    if (recorded.statements) yield* all(run, recorded.statements)
  } catch (error) {
    throw yield* failed(foreign, run, error, isWithoutSavepoint(error))
  }
  if (recorded.failure?.code === 'TransactionEnded') throw yield* ended(foreign)
  if (recorded.failure) throw yield* failed(foreign, run, fromFailure(recorded.failure))
  return { value: json.decode(text).value, attempt: foreign.attempt }
}

/** Runs the work, and waits for a call inside of it that is still under way: its statements must not come between ours. */
function* alone(call, work) {
  let open
  let value
  try {
    value = yield Object.assign(work, { isWork: true })
  } finally {
    open = call.close()
    if (open !== undefined) yield later(open)
  }
  if (open === undefined) return value
  throw args.invalid('the work ended before a call that it had made in the transaction; await each call')
}

function encoded(value) {
  try {
    return json.encode(value)
  } catch (error) {
    if (!json.isNotJson(error)) throw error
    const message = `the transaction is to be rolled back, since the value of its work is none to keep: ${error.message}`
    throw new classes.ValueNotJson(message, { effect: 'nothing', path: error.path })
  }
}

/** Undoes everything. Returns the error, or that of work that has ended the transaction, which a savepoint that is missing shows. */
function* failed(foreign, run, error, isWithoutSavepoint = false) {
  if (yield* undone(foreign, run)) return error
  const told = yield later(() => foreign.isEnded(!isWithoutSavepoint))
  // Where it cannot be waited for, that is all that is known.
  const isEnded = told === undefined ? isWithoutSavepoint : told.count === 1
  // Else it is the driver's own: a connection that is lost, most often.
  return isEnded ? yield* ended(foreign, error) : error
}

/** Returns whether everything was undone. */
function* undone(foreign, run) {
  try {
    yield* all(run, foreign.undo())
    return true
  } catch {
    return false
  }
}

/** Whether SQLite no longer knew the savepoint of the work, in the words of whichever library. */
function isWithoutSavepoint(error) {
  for (let it = error, depth = 0; typeof it === 'object' && it !== null && depth < 8; it = it.cause, depth++) {
    if (/no such savepoint: oneflight_work_/.test(it.message)) return true
  }
  return false
}

/** Makes the error of work that has ended the transaction. */
function* ended(foreign, cause) {
  yield later(() => foreign.hold())
  return fromFailure(foreign.ended(), cause)
}

/** Marks what the native half does in its own time. */
function later(ask) {
  return Object.assign(ask, { isLater: true })
}

/** Sends a message with the commit. */
function* send(foreign, run, message) {
  const step = foreign.send(args.message(message))
  if (step.failure) throw fromFailure(step.failure)
  const { id, isDuplicate, failure } = foreign.sent(yield* all(run, step.statements))
  if (failure) throw fromFailure(failure)
  return { id, isDuplicate }
}

/** Runs statements in their order. Returns the last answer. */
function* all(run, statements) {
  let answer
  for (const { text, values } of statements) {
    const rows = yield () => run(text, values)
    if (!isCommand(text) && Array.isArray(rows) && rows.length > 0) answer = answerOf(rows[0])
  }
  return answer
}

function answerOf(row) {
  if (typeof row?.oneflight === 'string') return row.oneflight
  throw args.invalid(
    `the transaction's function answered with ${args.what(row)} that has no text \`oneflight\`; have it return the rows as objects, ` +
      'with the names of the columns as they are'
  )
}

/** Runs to the end, and waits for what takes time. */
async function drive(execution) {
  let next = execution.next()
  while (!next.done) {
    let value
    try {
      value = await next.value()
    } catch (error) {
      next = execution.throw(error)
      continue
    }
    next = execution.next(value)
  }
  return next.value
}

/** Runs to the end at once. What the native half does in its own time goes on, and is given to `track`. */
function driveAtOnce(execution, track) {
  let next = execution.next()
  while (!next.done) {
    let value
    try {
      value = next.value()
      if (next.value.isLater) {
        track(value)
        value = undefined
      } else if (typeof value?.then === 'function') {
        // Nobody is told what becomes of it.
        value.then(undefined, () => {})
        throw next.value.isWork ? goesOn() : args.invalid('a statement answered with a promise; call `runInTransaction`, and await it')
      }
    } catch (error) {
      next = execution.throw(error)
      continue
    }
    next = execution.next(value)
  }
  return next.value
}

/** The error of work that answered with a promise where nothing waits for it. */
function goesOn() {
  const what = 'the work answered with a promise: it was undone, but what it goes on to do is outside of the transaction'
  return new classes.InvalidArgument(`${what}; call \`runInTransaction\`, and await it`, { effect: 'unknown' })
}

module.exports = { drive, driveAtOnce, execute, send }
