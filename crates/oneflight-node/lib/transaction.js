'use strict'
// One execution in a transaction of the user's own driver.
//
//   begin      a savepoint, the lock, the record: an answer, or the work is to be run
//   claim      SQLite alone: a record in progress
//     the work
//   record     in the transaction that was begun, or nothing
//
// The native half says what to run and reads the answers. It is written as a generator that yields what takes time, so that a
// driver that answers at once is not made to wait.

const { isCommand } = require('./adapters.js')
const args = require('./arguments.js')
const circle = require('./circle.js')
const { classes, fromFailure } = require('./errors.js')
const json = require('./json.js')

/** Executes the request of `foreign`, which is known in this thread by a name. Yields functions whose results are given back. */
function* execute(foreign, name, run, work) {
  const request = circle.request(name)
  // A call for the key of the work that it is made in would be granted: the lock is that of the connection.
  const leave = circle.wait(request.node)
  request.begin()
  try {
    return yield* claimed(foreign, run, (context) => circle.within(request.node, work, context))
  } finally {
    request.end()
    leave?.()
  }
}

function* claimed(foreign, run, work) {
  try {
    const step = foreign.decide(yield* all(run, foreign.begin()))
    if (step.failure) throw fromFailure(step.failure)
    if (step.settled) {
      yield* all(run, foreign.undo())
      return { settled: step.settled }
    }
    const failure = foreign.claimed(yield* all(run, step.statements))
    if (failure) throw fromFailure(failure)
  } catch (error) {
    // The work was not run. What can't be undone is undone by the rollback that this error leads to.
    yield* undone(foreign, run)
    throw error
  }
  let text
  try {
    text = encoded(yield () => work(foreign))
  } catch (thrown) {
    throw yield* failed(foreign, run, thrown, true)
  }
  const step = foreign.record(text)
  if (step.failure) throw yield* failed(foreign, run, fromFailure(step.failure), true)
  let failure
  try {
    failure = foreign.recorded(yield* all(run, step.statements))
  } catch (error) {
    throw yield* failed(foreign, run, error, false)
  }
  if (failure?.code === 'TransactionEnded') throw yield* ended(foreign)
  if (failure) throw yield* failed(foreign, run, fromFailure(failure), false)
  return { value: json.decode(text).value, attempt: foreign.attempt }
}

function encoded(value) {
  try {
    return json.encode(value)
  } catch (error) {
    if (!(error instanceof json.NotJson)) throw error
    const message = `the transaction is to be rolled back, since the value of its work is none to keep: ${error.message}`
    throw new classes.ValueNotJson(message, { effect: 'nothing', path: error.path })
  }
}

/** Undoes everything. Returns the error, or that of work that has ended the transaction. */
function* failed(foreign, run, error, byItself) {
  if (yield* undone(foreign, run)) return error
  const told = yield later(() => foreign.isEnded(byItself))
  // Where it cannot be waited for, work that has a value is known to have ended it.
  const isEnded = told === undefined ? !byItself : told.count === 1
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
        throw args.invalid('the work or a statement answered with a promise; call `runInTransaction`, and await it')
      }
    } catch (error) {
      next = execution.throw(error)
      continue
    }
    next = execution.next(value)
  }
  return next.value
}

module.exports = { drive, driveAtOnce, execute, send }
