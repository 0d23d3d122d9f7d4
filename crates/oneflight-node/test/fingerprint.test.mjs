// A fingerprint is of meaning: member order, multipart boundaries and React's fields say nothing, each byte of a file does.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import { test } from 'node:test'

const { fingerprintOf } = createRequire(import.meta.url)('../lib/fingerprint.js')
const of = async (payload) => fingerprintOf(payload)
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex')

test('texts and bytes have the digest that a Rust service takes of the same bytes', async () => {
  assert.equal(await of('tea'), sha256('tea'))
  assert.equal(await of(''), sha256(''))
  assert.equal(await of(new TextEncoder().encode('tea')), sha256('tea'))
  assert.equal(await of(Buffer.from('xteax').subarray(1, 4)), sha256('tea'))
  assert.equal(await of(new TextEncoder().encode('tea').buffer), sha256('tea'))
})

test('an object has the digest of its JSON in order (RFC 8785)', async () => {
  assert.equal(await of({ b: [1, { d: 1, c: null }], a: 'é' }), sha256('{"a":"é","b":[1,{"c":null,"d":1}]}'))
  assert.equal(await of({ a: 1, b: undefined }), await of({ a: 1 }))
  assert.notEqual(await of({ a: 1 }), await of({ a: '1' }))
  assert.notEqual(await of([1, 2]), await of([2, 1]))
  assert.notEqual(await of(['\ud800']), await of(['\ud801']))
})

/** What `Fingerprint::builder` of the crate has its digest of. */
function parts(...texts) {
  return sha256(Buffer.concat(texts.flatMap((text) => {
    const length = Buffer.alloc(8)
    length.writeBigUInt64BE(BigInt(Buffer.byteLength(text)))
    return [length, Buffer.from(text)]
  })))
}

function form(...fields) {
  const form = new FormData()
  for (const field of fields) form.append(...field)
  return form
}

test('a form has the digest of its fields in order of their names, without those of React', async () => {
  const expected = parts('field', 'amount', 'text', '1', 'field', 'item', 'text', 'tea')
  assert.equal(await of(form(['item', 'tea'], ['amount', '1'])), expected)
  const react = form(
    ['$ACTION_ID_60b2f', ''], ['$ACTION_REF_1', ''], ['$ACTION_1:0', '{"id":"60b2f"}'], ['$ACTION_KEY', 'k1'],
    ['item', 'tea'], ['amount', '1']
  )
  assert.equal(await of(react), expected)
  assert.equal(await of(new URLSearchParams('item=tea&amount=1')), expected)
  // The order of equal names says something, and so does where a field ends.
  assert.notEqual(await of(form(['item', 'a'], ['item', 'b'])), await of(form(['item', 'b'], ['item', 'a'])))
  assert.notEqual(await of(form(['ab', 'c'])), await of(form(['a', 'bc'])))
})

test('a file is its name, its type and its bytes', async () => {
  const file = (bytes, name, type) => form(['photo', new File([bytes], name, { type })])
  const one = await of(file('png', 'a.png', 'image/png'))
  assert.equal(one, parts('field', 'photo', 'file', 'a.png', 'type', 'image/png', 'bytes', 'png'))
  assert.notEqual(one, await of(file('gif', 'a.png', 'image/png')))
  assert.notEqual(one, await of(file('png', 'b.png', 'image/png')))
  assert.notEqual(one, await of(file('png', 'a.png', 'image/gif')))
})

test('a form that was sent twice is the same, although its boundary is another', async () => {
  const sent = async () => {
    const request = new Request('http://localhost/', { method: 'POST', body: form(['item', 'tea'], ['photo', new File(['x'], 'a.png')]) })
    return { type: request.headers.get('content-type'), digest: await of(await request.formData()) }
  }
  const [first, second] = [await sent(), await sent()]
  assert.notEqual(first.type, second.type)
  assert.equal(first.digest, second.digest)
})
