'use strict'
// The errors of the package: one class for each thing that can happen, which has the name of its code.
//
// A class is found again by its brand and not by `instanceof`, since a bundler or a reload may have several copies of this
// module in one process.

const BRAND = Symbol.for('oneflight.error')

class OneflightError extends Error {
  constructor(message, { cause, effect = 'unknown', retryAfterMs, attempt, path } = {}) {
    super(message, cause === undefined ? undefined : { cause })
    this.code = this.constructor.code
    this.effect = effect
    if (retryAfterMs !== undefined && retryAfterMs !== null) this.retryAfterMs = retryAfterMs
    if (attempt !== undefined && attempt !== null) this.attempt = attempt
    if (path !== undefined) this.path = path
  }

  get [BRAND]() {
    return this.code
  }
}
hide(OneflightError, 'OneflightError')
OneflightError.code = 'Defect'

function hide(type, name) {
  Object.defineProperty(type.prototype, 'name', { value: name, configurable: true, writable: true })
}

const classes = {}

function define(code, effect) {
  const type = {
    [code]: class extends OneflightError {
      constructor(message, options = {}) {
        super(message ?? code, { effect, ...options })
        if (code === 'RetryLater') checkPause(this.retryAfterMs)
      }
    }
  }[code]
  type.code = code
  hide(type, code)
  classes[code] = type
}

define('Closed', 'nothing')
define('Defect', 'unknown')
define('InDoubt', 'unknown')
define('InProgress', 'unknown')
define('InvalidArgument', 'nothing')
define('KeyReused', 'nothing')
define('LeaseLost', 'done')
define('NotDone', 'nothing')
define('Overloaded', 'nothing')
define('Reentrant', 'nothing')
define('Rejected', 'nothing')
define('RetryLater', 'unknown')
define('Stopped', 'unknown')
define('StoreFailed', 'unknown')
define('TransactionEnded', 'unknown')
define('Unknown', 'unknown')
define('Unrecorded', 'done')
define('ValueNotJson', 'done')
define('ValueNotKept', 'done')
define('ValueTooLarge', 'done')
define('ValueUnreadable', 'unknown')

function checkPause(millis) {
  if (millis === undefined || (Number.isFinite(millis) && millis >= 0)) return
  throw new classes.InvalidArgument('`retryAfterMs` is no duration; give milliseconds from 0, or leave it out')
}

/** Returns the class of this name. */
function typeOf(code) {
  return Object.hasOwn(classes, code) ? classes[code] : undefined
}

/** Returns the code of an error of this package, of whichever copy of it. Never throws. */
function codeOf(error) {
  if (typeof error !== 'object' || error === null) return undefined
  try {
    const code = error[BRAND]
    return typeof code === 'string' ? code : undefined
  } catch {
    // A proxy that cannot be asked is none of ours.
    return undefined
  }
}

/** Makes the error of a failure that the native half tells. */
function fromFailure(failure, cause) {
  const Type = typeOf(failure.code) ?? classes.Defect
  const { effect, retryAfterMs, attempt } = failure
  return new Type(failure.message, { effect, retryAfterMs, attempt, cause })
}

/** What has reached a caller, of whichever copy of this module. */
const delivered = (globalThis[Symbol.for('oneflight.delivered')] ??= new WeakSet())

/** Notes that what was thrown reaches a caller. Returns it. */
function deliver(thrown) {
  if (typeof thrown === 'object' && thrown !== null) delivered.add(thrown)
  return thrown
}

/** The errors that work throws to say what became of it. All others are ours to throw. */
const SAID = new Set(['NotDone', 'Rejected', 'RetryLater', 'Unknown'])

/** Whether an error that work has thrown says what became of another call, and so nothing of that work. */
function isOfAnother(thrown) {
  const code = codeOf(thrown)
  return code !== undefined && (!SAID.has(code) || delivered.has(thrown))
}

const MOST_CAUSES = 8

/** Returns what was thrown with its causes, in one line. Never throws. */
function told(thrown) {
  try {
    const all = []
    for (let it = thrown; all.length === 0 || (it !== undefined && all.length < MOST_CAUSES); it = it?.cause) all.push(String(it))
    return all.join(': ')
  } catch {
    return 'what was thrown cannot be described'
  }
}

module.exports = { OneflightError, classes, codeOf, deliver, fromFailure, isOfAnother, told, typeOf }
