// Node processes that a test starts: programs beside this file, which tell by lines of JSON.

import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export function folder(t) {
  const name = mkdtempSync(join(tmpdir(), 'oneflight-node-'))
  t.after(() => rmSync(name, { recursive: true, force: true }))
  return name
}

/** Starts a program. `lines` is what it tells, `ended` its exit code or signal. */
export function start(t, program, ...args) {
  const file = fileURLToPath(new URL(program, import.meta.url))
  const child = spawn(process.execPath, [file, ...args.map(String)], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.after(() => child.kill('SIGKILL'))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(signal ?? code)))
  return {
    child,
    ended,
    async next() {
      const { value, done } = await lines.next()
      if (done) throw new Error(`${program} ended without telling`)
      return JSON.parse(value)
    },
    async rest() {
      const told = []
      for (let it = await lines.next(); !it.done; it = await lines.next()) told.push(JSON.parse(it.value))
      return told
    }
  }
}
