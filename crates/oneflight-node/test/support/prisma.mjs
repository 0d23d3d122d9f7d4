// Generates Prisma's client for a database of the tests, once for each installation.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const home = new URL('../../', import.meta.url)

/** Returns the class of the client for `postgresql` or `sqlite`. */
export function prismaClient(provider) {
  const generated = fileURLToPath(new URL(`node_modules/.prisma-tests/${provider}`, home))
  if (!existsSync(generated)) {
    const schema = fileURLToPath(new URL(`test/support/prisma/${provider}.prisma`, home))
    const prisma = fileURLToPath(new URL('node_modules/prisma/build/index.js', home))
    // To generate asks for a schema engine by name, and does not start it.
    const env = { ...process.env, PRISMA_SCHEMA_ENGINE_BINARY: process.execPath, CHECKPOINT_DISABLE: '1' }
    const made = spawnSync(process.execPath, [prisma, 'generate', '--schema', schema], { env, encoding: 'utf8' })
    if (made.status !== 0) throw new Error(`Prisma's client cannot be generated: ${made.stderr}`)
  }
  return createRequire(import.meta.url)(generated).PrismaClient
}
