// Has work fail, and tells what it threw.
//
// Usage: thrower.mjs URL

import { Idempotency } from '../../index.mjs'

const idem = await Idempotency.open(process.argv[2])
const called = idem.run({ scope: 's', key: 'k' }, () => {
  const error = new Error('the card was declined', { cause: new RangeError('limit') })
  error.name = 'CardDeclined'
  throw error
})
await called.catch((error) => console.log(JSON.stringify({ threw: error.name })))
