// Leaves everything open and ends: nothing is in flight.
//
// Usage: idle.mjs URL

import { Idempotency } from '../../index.mjs'

const idem = await Idempotency.open(process.argv[2], { recovery: () => 'hold', purgeEveryMs: 1000 })
const reply = await idem.run({ scope: 'idle', key: 'one' }, () => 1)
console.log(JSON.stringify(reply))
