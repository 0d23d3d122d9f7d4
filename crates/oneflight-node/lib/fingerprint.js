'use strict'
// What the fingerprint of a request is taken of: what it means, not how it came.
//
//   a string                    its UTF-8
//   bytes                       as they are
//   an object or an array       its JSON with the members of each object in order of their names (RFC 8785)
//   FormData, URLSearchParams   for each field, in order of the names: "field", name, and then "text", value,
//                               or "file", file name, "type", media type, "bytes", bytes of the file
//
// The parts of a form stand with their lengths before them, as `Fingerprint::builder` of the crate has them: a service of Rust
// gets the same digest by `.part("field", name).part("text", value)`.

const { classes } = require('./errors.js')
const { isNotJson, write } = require('./json.js')
const native = require('./native.js')

/** The names of the fields that React adds to a form for itself begin so. */
const REACT = '$ACTION_'

/** Returns the digest of a payload in hexadecimal, or a promise of it if files have to be read. */
function fingerprintOf(payload) {
  if (typeof payload === 'string') {
    if (payload.isWellFormed()) return native.fingerprintOfText(payload)
    // In UTF-8 all of them are one character.
    throw new classes.InvalidArgument('`fingerprint` has half a character in it (a lone surrogate); leave it out, or give the bytes')
  }
  if (payload instanceof Uint8Array || isView(payload)) return native.fingerprint(bytesOf(payload))
  if (payload instanceof ArrayBuffer) return native.fingerprint(new Uint8Array(payload))
  if (isForm(payload)) return ofForm(payload)
  if (typeof payload === 'object' && payload !== null) return native.fingerprintOfText(canonical(payload))
  throw new classes.InvalidArgument(
    `\`fingerprint\` is ${payload === null ? 'null' : `a ${typeof payload}`}; ` +
      'give the payload of the request: a string, bytes, an object, or FormData'
  )
}

function isView(payload) {
  return ArrayBuffer.isView(payload)
}

function bytesOf(view) {
  return Buffer.from(view.buffer, view.byteOffset, view.byteLength)
}

function isForm(payload) {
  const tag = Object.prototype.toString.call(payload)
  return (tag === '[object FormData]' || tag === '[object URLSearchParams]') && typeof payload.entries === 'function'
}

function canonical(payload) {
  try {
    return write(payload, { sorted: true, skipUndefined: true })
  } catch (error) {
    if (!isNotJson(error)) throw error
    throw new classes.InvalidArgument(`\`fingerprint\`: ${error.message}`, { path: error.path })
  }
}

function ofForm(form) {
  const fields = [...form.entries()].filter(([name]) => !name.startsWith(REACT))
  // Fields of one name keep their order.
  fields.sort(([one], [other]) => (one < other ? -1 : one > other ? 1 : 0))
  const files = fields.filter(([, value]) => typeof value !== 'string')
  if (files.length === 0) return digest(fields, [])
  return Promise.all(files.map(([, file]) => file.arrayBuffer())).then((contents) => digest(fields, contents))
}

function digest(fields, contents) {
  const parts = []
  let file = 0
  for (const [name, value] of fields) {
    parts.push('field', name)
    if (typeof value === 'string') parts.push('text', value)
    else parts.push('file', value.name ?? '', 'type', value.type, 'bytes', Buffer.from(contents[file++]))
  }
  const pieces = []
  for (const part of parts) {
    const bytes = typeof part === 'string' ? Buffer.from(part) : part
    const length = Buffer.alloc(8)
    length.writeBigUInt64BE(BigInt(bytes.length))
    pieces.push(length, bytes)
  }
  return native.fingerprint(Buffer.concat(pieces))
}

module.exports = { fingerprintOf }
