// Opens a store twice when the first three descriptors but that of its answers are closed.
//
// Usage: without-descriptors.mjs file

import { closeSync, readdirSync, readlinkSync } from 'node:fs'
import { Idempotency } from '../../index.mjs'

const url = `sqlite:${process.argv[2]}`
const first = await Idempotency.open(url)
const values = [(await first.run({ scope: 's', key: '1' }, () => 1)).value]
const before = fillers()
closeSync(0)
const second = await Idempotency.open(url, { connections: 2 })
values.push((await second.run({ scope: 's', key: '2' }, () => 2)).value)
await second.close()
await first.close()
const leaked = fillers() - before
console.log(JSON.stringify({ values, leaked }))

/** Returns how often the process has open what fills a gap. */
function fillers() {
  const isOne = (descriptor) => {
    try {
      return readlinkSync(`/proc/self/fd/${descriptor}`) === '/dev/null'
    } catch {
      // It was that of the folder, which is closed by now.
      return false
    }
  }
  return readdirSync('/proc/self/fd').filter((descriptor) => Number(descriptor) > 2 && isOne(descriptor)).length
}
