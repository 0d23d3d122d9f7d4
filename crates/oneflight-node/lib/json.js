'use strict'
// Values and errors as JSON, and back.
//
// A value is written in one pass that lets nothing vanish or change: what JSON cannot keep is an error that names its place.
// There are two spellings of our own, and both are JSON, so a service of Rust reads them:
//
//   `undefined`, and only as the whole value    null and a space behind it
//   an error that a closure threw               {"$oneflight.error": {"name": …, "message": …, "cause": …}}

const { OneflightError, codeOf, typeOf } = require('./errors.js')

/** What the JSON reader of Rust services follows. */
const MAX_DEPTH = 127
const MAX_CAUSES = 16
/** How much of an error is kept, its causes included: the whole has to be recorded. */
const MAX_DESCRIPTION = 32 * 1024
const MAX_NAME = 100
const MIN_MESSAGE = 200
const UNDEFINED = 'null '
const ERROR = '$oneflight.error'

class NotJson extends Error {
  constructor(place, what, advice) {
    const path = spelled(place)
    super(`${path} is ${what}, which JSON cannot keep; ${advice}`)
    this.path = path
  }
}

/** Whether it is a `NotJson`. Never throws: what a getter has thrown may be a proxy that cannot be asked. */
function isNotJson(error) {
  try {
    return error instanceof NotJson
  } catch {
    return false
  }
}

/** Returns the JSON of a value. Throws a `NotJson` that says where something cannot be kept. */
function write(value, { sorted = false, skipUndefined = false } = {}) {
  /** What is being written, from the outside to the inside: it is never deep. */
  const open = []
  return any(value, undefined, 0)

  function any(value, place, depth) {
    switch (typeof value) {
      case 'string':
      case 'boolean':
        return JSON.stringify(value)
      case 'number':
        if (Number.isFinite(value)) return JSON.stringify(value)
        throw new NotJson(place, String(value), 'give a finite number or null')
      case 'bigint':
        throw new NotJson(place, 'a BigInt', 'give its `toString()`')
      case 'undefined':
        throw new NotJson(place, 'undefined', 'leave it out or give null')
      case 'symbol':
        throw new NotJson(place, 'a symbol', 'give a string')
      case 'function':
        throw new NotJson(place, 'a function', 'leave it out')
    }
    if (value === null) return 'null'
    if (depth >= MAX_DEPTH) throw new NotJson(place, `nested more than ${MAX_DEPTH} deep`, 'make it flatter')
    if (open.includes(value)) throw new NotJson(place, 'part of itself (a cycle)', 'give an id in its place')
    open.push(value)
    const text = Array.isArray(value) ? list(value, place, depth) : record(value, place, depth)
    open.pop()
    return text
  }

  function list(value, place, depth) {
    if (Object.keys(value).length !== value.length) {
      throw new NotJson(place, 'an array with holes or with names', 'fill it, or make it an object')
    }
    const items = []
    for (let at = 0; at < value.length; at++) items.push(any(value[at], { above: place, at }, depth + 1))
    return `[${items.join(',')}]`
  }

  function record(value, place, depth) {
    if (!isPlain(value)) throw new NotJson(place, `a ${kind(value)}`, advice(value))
    const symbols = Object.getOwnPropertySymbols(value)
    if (symbols.length > 0 && symbols.some((it) => Object.prototype.propertyIsEnumerable.call(value, it))) {
      throw new NotJson(place, 'an object with a symbol for a name', 'name it by a string')
    }
    const names = Object.keys(value)
    if (sorted) names.sort()
    const members = []
    for (const name of names) {
      const member = value[name]
      if (member === undefined && skipUndefined) continue
      members.push(`${JSON.stringify(name)}:${any(member, { above: place, at: name }, depth + 1)}`)
    }
    return `{${members.join(',')}}`
  }
}

/** Writes where something stands: by what it stands in, and its name or place there. */
function spelled(place) {
  if (place === undefined) return '$'
  const { above, at } = place
  return typeof at === 'string' && /^[A-Za-z_$][\w$]*$/.test(at) ? `${spelled(above)}.${at}` : `${spelled(above)}[${JSON.stringify(at)}]`
}

/** Whether this is an object literal, of whichever realm. */
function isPlain(value) {
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

function kind(value) {
  const name = value.constructor?.name
  return typeof name === 'string' && name !== '' ? name : 'class instance'
}

function advice(value) {
  if (value instanceof Date) return 'give its `toISOString()`'
  if (value instanceof Map) return 'give `Object.fromEntries` or an array of it'
  if (value instanceof Set) return 'give `[...set]`'
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return 'give it as base64'
  if (typeof value.then === 'function') return 'await it'
  return 'give an object literal of what matters'
}

/** Returns what is recorded of a value. */
function encode(value) {
  if (value === undefined) return UNDEFINED
  const text = write(value)
  if (typeof value === 'object' && value !== null && Object.hasOwn(value, ERROR)) {
    throw new NotJson({ at: ERROR }, 'the name under which errors are kept', 'give it another name')
  }
  return text
}

/** Returns `{ value }` or `{ error }`: what was recorded. */
function decode(text) {
  if (text === UNDEFINED) return { value: undefined }
  const value = JSON.parse(text)
  if (typeof value === 'object' && value !== null && Object.hasOwn(value, ERROR)) {
    return { error: revive(value[ERROR]) }
  }
  return { value }
}

/** Returns what is recorded of something that was thrown. Never throws. */
function encodeThrown(thrown) {
  return JSON.stringify({ [ERROR]: describe(thrown, 0, { left: MAX_DESCRIPTION }) })
}

function describe(thrown, depth, room) {
  try {
    if (!(thrown instanceof Error) && !isErrorLike(thrown)) {
      const value = typeof thrown === 'string' ? cut(thrown, room) : kept(() => thrown, room)
      return { thrown: value === undefined ? cut(String(thrown), room) : value }
    }
    const told = { name: shortened(String(thrown.name), MAX_NAME), message: cut(String(thrown.message), room) }
    if (codeOf(thrown) !== undefined) told.oneflight = codeOf(thrown)
    const details = {}
    for (const name of Object.keys(thrown)) {
      if (['name', 'message', 'stack', 'cause', 'errors'].includes(name)) continue
      const value = kept(() => thrown[name], room)
      if (value !== undefined) details[name] = value
    }
    if (Object.keys(details).length > 0) told.details = details
    if (depth < MAX_CAUSES && thrown.cause !== undefined) told.cause = describe(thrown.cause, depth + 1, room)
    if (depth < MAX_CAUSES && Array.isArray(thrown.errors)) {
      told.errors = thrown.errors.slice(0, MAX_CAUSES).map((it) => describe(it, MAX_CAUSES, room))
    }
    return told
  } catch {
    return { name: 'Error', message: 'what was thrown cannot be described' }
  }
}

/** An error of another realm, as of a sandbox. */
function isErrorLike(value) {
  return Object.prototype.toString.call(value) === '[object Error]'
}

/** Returns the value as JSON keeps it, or undefined if it cannot be read, or JSON cannot keep it, or there is no room. */
function kept(read, room) {
  try {
    const text = write(read())
    if (text.length > room.left) return undefined
    room.left -= text.length
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Returns what of a text there is room for. The beginning of a message is always kept. */
function cut(text, room) {
  const short = shortened(text, Math.max(room.left, MIN_MESSAGE))
  room.left -= short.length
  return short
}

function shortened(text, length) {
  return text.length <= length ? text : `${text.slice(0, length - 1).toWellFormed()}…`
}

const BUILT_IN = new Map([EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError].map((type) => [type.name, type]))

/** Makes the error again that was described. */
function revive(told) {
  if (typeof told !== 'object' || told === null) return new Error('an error that cannot be read')
  if (Object.hasOwn(told, 'thrown')) return told.thrown
  const { name, message, details } = told
  const cause = told.cause === undefined ? undefined : { cause: revive(told.cause) }
  let error
  if (told.oneflight !== undefined) {
    const Type = typeOf(told.oneflight) ?? OneflightError
    error = new Type(message, cause)
  } else if (Array.isArray(told.errors)) {
    error = new AggregateError(told.errors.map(revive), message, cause)
  } else {
    error = new (BUILT_IN.get(name) ?? Error)(message, cause)
  }
  if (error.name !== name) {
    Object.defineProperty(error, 'name', { value: name, configurable: true, writable: true, enumerable: false })
  }
  for (const [name, value] of Object.entries(details ?? {})) {
    if (name !== '__proto__') error[name] = value
  }
  return error
}

/** Returns the error of JSON that `encodeThrown` has written. */
function reviveThrown(text) {
  return decode(text).error
}

module.exports = { isNotJson, write, encode, decode, encodeThrown, reviveThrown }
