// Opens a store whose file, which is there, cannot be written to, and again when it can.
//
// Usage: read-only.mjs file

import { chmodSync, chownSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Idempotency } from '../../index.mjs'

const file = process.argv[2]
if (process.getuid() === 0) {
  // For the superuser all files can be written to.
  const NOBODY = 65534
  for (const path of [dirname(file), file]) chownSync(path, NOBODY, NOBODY)
  process.setgid(NOBODY)
  process.setuid(NOBODY)
}
const open = () => Idempotency.open(`sqlite:${file}`)
const told = []
chmodSync(file, 0o444)
let idem
try {
  idem = await open()
  await idem.run({ scope: 's', key: 'k' }, () => 1)
  told.push('was run')
} catch (error) {
  told.push(error.code)
}
await idem?.close()
// Its log too, which got the file's mode.
for (const name of readdirSync(dirname(file))) chmodSync(join(dirname(file), name), 0o644)
idem = await open()
told.push((await idem.run({ scope: 's', key: 'k' }, () => 1)).value)
await idem.close()
told.push(readdirSync(dirname(file)))
console.log(JSON.stringify(told))
