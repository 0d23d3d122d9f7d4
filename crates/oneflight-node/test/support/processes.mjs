// Processes that a test starts: programs of Node beside this file, and one of Rust. They tell by lines of JSON.

import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const folders = []
process.once('exit', () => folders.forEach((name) => rmSync(name, { recursive: true, force: true })))

/** Makes a folder, which is there until all tests of the file are over: a process that ends may still write to it. */
export function folder() {
  const name = mkdtempSync(join(tmpdir(), 'oneflight-node-'))
  folders.push(name)
  return name
}

/** Starts a program of Node. `next` is what it tells, `ended` its exit code or signal. */
export function start(t, program, ...args) {
  return begin(t, process.execPath, fileURLToPath(new URL(program, import.meta.url)), ...args)
}

/** Starts a program of Rust in `examples`: `stormer` or `transactor`. */
export function startRust(t, name, ...args) {
  const how = process.env.ONEFLIGHT_CARGO?.split(' ') ?? ['--package', 'oneflight-node', '--release', '--features', 'tls', '--example', name]
  const cargo = spawnSync('cargo', ['build', '--locked', '--message-format', 'json-render-diagnostics', ...how], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 1 << 28
  })
  if (cargo.status !== 0) throw new Error('the program of Rust cannot be built')
  const built = String(cargo.stdout).trim().split('\n').map((line) => JSON.parse(line)).findLast((it) => it.target?.name === name)
  return begin(t, built.executable, ...args)
}

function begin(t, program, ...args) {
  const child = spawn(program, args.map(String), { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(signal ?? code)))
  t.after(async () => {
    child.kill('SIGKILL')
    await ended
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    child,
    ended,
    async next() {
      const { value, done } = await lines.next()
      if (done) throw new Error(`${program} ended without telling`)
      return JSON.parse(value)
    }
  }
}
