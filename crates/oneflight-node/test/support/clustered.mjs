// A cluster whose workers ask for one key at the same time. Tells how often it was executed.
//
// Usage: clustered.mjs URL

import cluster from 'node:cluster'
import { once } from 'node:events'
import { Idempotency } from '../../index.mjs'

const WORKERS = 3

if (cluster.isPrimary) {
  const workers = Array.from({ length: WORKERS }, () => cluster.fork())
  await Promise.all(workers.map((it) => once(it, 'message')))
  for (const it of workers) it.send('go')
  const origins = (await Promise.all(workers.map((it) => once(it, 'message')))).map(([told]) => told.origin)
  for (const it of workers) it.disconnect()
  console.log(JSON.stringify({ origins: origins.sort() }))
} else {
  const idem = await Idempotency.open(process.argv[2])
  process.send('ready')
  await once(process, 'message')
  const reply = await idem.run({ scope: 'cluster', key: 'one' }, () => new Promise((resolve) => setTimeout(resolve, 100)))
  process.send({ origin: reply.origin })
}
