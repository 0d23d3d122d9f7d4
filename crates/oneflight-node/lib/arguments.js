'use strict'
// Checks what users pass, and brings it into the form that the native half takes. An error says what was wrong and what to do,
// and never repeats a key or a payload.

const path = require('node:path')
const correlation = require('./correlation.js')
const { classes } = require('./errors.js')
const { fingerprintOf } = require('./fingerprint.js')
const { isNotJson, write } = require('./json.js')

function invalid(message) {
  return new classes.InvalidArgument(message)
}

/** Says what a value is, without saying the value. */
function what(value) {
  if (value === null) return 'null'
  if (value === undefined) return 'undefined'
  if (typeof value === 'object') return `a ${value.constructor?.name || 'object'}`
  return `a ${typeof value}`
}

function object(value, name) {
  if (value === undefined) return {}
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  throw invalid(`${name} is ${what(value)}; give an object, or leave it out`)
}

function known(value, names, name) {
  for (const own of Object.keys(value)) {
    if (!names.includes(own)) throw invalid(`${name} has no \`${own}\`; there are ${names.join(', ')}`)
  }
  return value
}

const SUPPORTED = 'give memory:, sqlite:orders.db, postgres://user@host/database or redis://host/'

/** Returns the URL in the form that the native half takes. */
function url(value) {
  if (value instanceof URL) value = value.href
  if (typeof value !== 'string' || value === '') {
    throw invalid(`the URL of the store is ${value === '' ? 'empty' : what(value)}; is the variable set? ${SUPPORTED}`)
  }
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(value)?.[1].toLowerCase()
  switch (scheme) {
    case 'memory':
      return `memory:${value.slice('memory:'.length).replace(/^\/\//, '')}`
    case 'postgres':
    case 'postgresql':
    case 'redis':
    case 'rediss':
      return scheme + value.slice(scheme.length)
    case 'sqlite':
      return file(value.slice('sqlite:'.length).replace(/^\/\//, ''))
    case 'file':
      return file(decoded(value.slice('file:'.length).replace(/^\/\//, '')))
    case undefined:
      if (/^\.{0,2}[\\/]|\.(db|sqlite3?)$/i.test(value)) return file(value)
      throw invalid(`this is neither a URL nor a path of a database file; ${SUPPORTED}`)
    default:
      throw invalid(`there is no store for ${scheme}: URLs; ${SUPPORTED}`)
  }
}

function file(name) {
  if (name === '' || name === ':memory:') throw invalid('SQLite keeps records in a file; give its path, or memory:')
  if (name.includes('?')) throw invalid('the path of the database file has a query; give the path alone, and options beside it')
  // The same file is the same store, wherever a process stands.
  return `sqlite:${path.resolve(name)}`
}

function decoded(name) {
  try {
    return decodeURIComponent(name)
  } catch {
    throw invalid('the path of the database file has a % that is none of a URL; write it as %25')
  }
}

const DURATIONS = ['retentionMs', 'leaseMs', 'waitMs', 'settleMs', 'purgeEveryMs']
const COUNTS = ['maxResultBytes', 'maxFlights', 'maxCallers', 'connections']
const TEXTS = ['schema', 'prefix']
const SWITCHES = ['migrate', 'preparedStatements']
const OPTIONS = [...DURATIONS, ...COUNTS, ...TEXTS, ...SWITCHES, 'recovery', 'missingFingerprint']

/** The stores that an option is for, if not for all of them. */
const STORES = {
  connections: ['postgres', 'postgresql', 'sqlite'],
  schema: ['postgres', 'postgresql'],
  prefix: ['postgres', 'postgresql', 'redis', 'rediss'],
  migrate: ['postgres', 'postgresql'],
  preparedStatements: ['postgres', 'postgresql']
}

/** Returns the options for the native half, and the function that a recovery policy asks. */
function openOptions(value, place) {
  const given = known(object(value, 'the options'), OPTIONS, 'the options')
  const scheme = place.slice(0, place.indexOf(':'))
  for (const [name, schemes] of Object.entries(STORES)) {
    // Two services that meant to be apart would be given each other's answers.
    if (given[name] !== undefined && !schemes.includes(scheme)) throw invalid(`\`${name}\` does nothing in ${scheme}: stores; leave it out`)
  }
  const native = {}
  let asker
  for (const name of DURATIONS) if (given[name] !== undefined) native[name] = duration(given[name], name)
  for (const name of COUNTS) if (given[name] !== undefined) native[name] = count(given[name], name)
  for (const name of TEXTS) if (given[name] !== undefined) native[name] = text(given[name], name)
  for (const name of SWITCHES) if (given[name] !== undefined) native[name] = flag(given[name], name)
  if (native.leaseMs === 0) throw invalid('`leaseMs` is 0; give 1 or more: a lease that is over protects nothing')
  const { recovery, missingFingerprint } = given
  if (typeof recovery === 'function') {
    native.recovery = 'ask'
    asker = recovery
  } else if (recovery === 'hold' || recovery === 'rerun') {
    native.recovery = recovery
  } else if (recovery !== undefined) {
    throw invalid("`recovery` is none; give 'hold', 'rerun' or a function")
  }
  if (missingFingerprint === 'accept') native.acceptMissingFingerprint = true
  else if (missingFingerprint !== undefined && missingFingerprint !== 'conflict') {
    throw invalid("`missingFingerprint` is none; give 'conflict' or 'accept'")
  }
  return { native, asker }
}

/** The longest time: some 30 years. */
const LONGEST = 1e12

function duration(value, name) {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= LONGEST) return value
  throw invalid(`\`${name}\` is no duration; give whole milliseconds from 0`)
}

function count(value, name) {
  if (Number.isInteger(value) && value >= 1 && value <= 0xffffffff) return value
  throw invalid(`\`${name}\` is no count; give a whole number from 1 to 4294967295`)
}

function text(value, name) {
  if (typeof value === 'string' && value !== '') return value
  throw invalid(`\`${name}\` is ${value === '' ? 'empty' : what(value)}; give a text`)
}

function flag(value, name) {
  if (typeof value === 'boolean') return value
  throw invalid(`\`${name}\` is ${what(value)}; give true or false`)
}

/** Returns the identity for the native half, or a promise of it if the fingerprint has to be read. */
function identity(value) {
  if (typeof value !== 'object' || value === null) {
    throw invalid(`the request is ${what(value)}; give { scope, key } and, if you can, its fingerprint`)
  }
  known(value, ['scope', 'key', 'fingerprint', 'correlationId'], 'the request')
  const { key, fingerprint, correlationId = correlation.correlation.current() } = value
  if (typeof key !== 'string') {
    throw invalid(`\`key\` is ${what(key)}; give the idempotency key of the client as a string, from a hidden field for example`)
  }
  if (isOfString(key)) throw invalid(`\`key\` is the text '${key}', which ${BY_STRING}`)
  const native = scope(value.scope)
  native.key = wellFormed(key, 'key')
  if (correlationId !== undefined) native.correlationId = correlation.valid(correlationId)
  if (fingerprint === undefined) {
    if ('fingerprint' in value) throw invalid('`fingerprint` is undefined; give the payload, or leave it out')
    return native
  }
  const digest = fingerprintOf(fingerprint)
  if (typeof digest !== 'string') return digest.then((digest) => ({ ...native, fingerprint: digest }))
  native.fingerprint = digest
  return native
}

/** Whether this is what `String(…)` makes of a value that is missing, or that is none. */
function isOfString(text) {
  return typeof text === 'string' && /^(null|undefined|NaN|\[object \w+\])$/.test(text)
}

const BY_STRING = 'another value becomes by `String(…)`, most often a missing one; give the value itself'

/** Returns an identity that has its scope. It has all members from the beginning: so the engine knows all of them by one shape. */
function scope(value) {
  const parts = { namespace: undefined, route: undefined, user: undefined, key: undefined, correlationId: undefined, fingerprint: undefined }
  if (isOfString(value)) throw invalid(`\`scope\` is the text '${value}', which ${BY_STRING}`)
  if (typeof value === 'string') {
    parts.namespace = wellFormed(value, 'scope')
    return parts
  }
  if (typeof value !== 'object' || value === null) {
    throw invalid(`\`scope\` is ${what(value)}; give a string, or { namespace, route, user }: where the key is valid`)
  }
  known(value, ['namespace', 'route', 'user'], 'the scope')
  for (const name of ['namespace', 'route', 'user']) {
    const part = value[name]
    if (!(name in value) && name !== 'namespace') continue
    // A user who is missing is not everybody.
    if (typeof part !== 'string') throw invalid(`\`scope.${name}\` is ${what(part)}; give a string, or leave it out`)
    if (isOfString(part)) throw invalid(`\`scope.${name}\` is the text '${part}', which ${BY_STRING}`)
    parts[name] = wellFormed(part, `scope.${name}`)
  }
  return parts
}

/** On its way to UTF-8 half a character would become another one. */
function wellFormed(value, name) {
  if (value.isWellFormed()) return value
  throw invalid(`\`${name}\` has half a character in it (a lone surrogate); leave it out`)
}

/** Returns the scope that is written in its canonical form. */
function parsedScope(canonical) {
  const plain = (part) => part.replaceAll('%7C', '|').replaceAll('%3D', '=').replaceAll('%25', '%')
  const [namespace, ...others] = canonical.split('|')
  const scope = { namespace: plain(namespace) }
  for (const part of others) {
    const at = part.indexOf('=')
    scope[part.slice(0, at)] = plain(part.slice(at + 1))
  }
  return scope
}

const MESSAGE = [
  'topic', 'payload', 'contentType', 'step', 'key', 'orderingKey', 'headers', 'correlationId', 'traceParent', 'delayMs', 'expiresAfterMs'
]

/** Returns a message of the outbox for the native half. */
function message(value) {
  if (typeof value !== 'object' || value === null) throw invalid(`the message is ${what(value)}; give { topic, payload }`)
  known(value, MESSAGE, 'the message')
  const native = { ...body(value.payload), headers: [] }
  native.topic = wellFormed(text(value.topic, 'topic'), 'topic')
  for (const name of ['contentType', 'step', 'key', 'orderingKey', 'correlationId', 'traceParent']) {
    if (value[name] !== undefined) native[name] = wellFormed(text(value[name], name), name)
  }
  for (const name of ['delayMs', 'expiresAfterMs']) if (value[name] !== undefined) native[name] = duration(value[name], name)
  for (const [name, header] of Object.entries(object(value.headers, '`headers`'))) {
    if (typeof header !== 'string') throw invalid(`a header is ${what(header)}; give a string`)
    native.headers.push(wellFormed(name, 'headers'), wellFormed(header, 'headers'))
  }
  return native
}

/** A string is text, bytes are bytes, and all else is JSON. */
function body(payload) {
  if (typeof payload === 'string') {
    return { payload: Buffer.from(wellFormed(payload, 'payload')), contentType: 'text/plain; charset=utf-8' }
  }
  if (payload instanceof Uint8Array) return { payload: Buffer.from(payload), contentType: 'application/octet-stream' }
  try {
    return { payload: Buffer.from(write(payload)), contentType: 'application/json' }
  } catch (error) {
    if (!isNotJson(error)) throw error
    throw new classes.InvalidArgument(`\`payload\`: ${error.message}`, { path: error.path })
  }
}

function work(value) {
  if (typeof value === 'function') return value
  throw invalid(`the work is ${what(value)}; give a function, which may be async`)
}

module.exports = { count, duration, identity, invalid, known, message, object, openOptions, parsedScope, text, url, what, work }
