// Opens a store in a process that has a library loaded before all others, and tells what it may do.
//
// Usage: without-locks.mjs library file

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const [library, file] = process.argv.slice(2)
if (process.env.LD_PRELOAD !== library) {
  const env = { ...process.env, LD_PRELOAD: library }
  const { stdout } = spawnSync(process.execPath, [fileURLToPath(import.meta.url), library, file], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  process.stdout.write(stdout)
} else {
  const { Idempotency } = await import('../../index.mjs')
  const told = { warned: 0 }
  process.on('warning', (warning) => (told.warned += /exclude each other/.test(warning.message)))
  try {
    const idem = await Idempotency.open(`sqlite:${file}`)
    told.opened = 'opened'
    await (await Idempotency.open(`sqlite:${file}`)).close()
    told.ran = (await idem.run({ scope: 's', key: 'k' }, () => 1)).value
    try {
      await idem.runInTransaction({ scope: 's', key: 'l' }, () => [], () => 1)
    } catch (error) {
      told.transaction = error.message
    }
    await idem.close()
  } catch (error) {
    told.opened ??= error.message
  }
  console.log(JSON.stringify(told))
}
