// A server in a process of its own: started, killed, started again where it was, and heard out when a test has failed.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'

const READY_MS = 60_000
const STOP_MS = 10_000

/** What a process has said last is kept, up to so many characters. */
const KEPT = 4_000_000

/**
 * Starts a program. `launch(port)` says which, as the arguments of `spawn`; it is to say where it listens, as `http://…:PORT` or as
 * `says` has it, on port 0 at first. `ready(url)` resolves with whether it answers.
 */
export async function startProcess(launch, { ready = () => true, says = /http:\/\/[\w.]+:(\d+)\D/ } = {}) {
  let [child, port, said] = [undefined, 0, '']

  async function begin() {
    let heard = ''
    child = spawn(...launch(port))
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        heard += text
        said = (said + text).slice(-KEPT)
      })
    }
    const own = child
    let failure
    own.once('error', (error) => (failure = error.message))
    own.once('exit', (code, signal) => (failure ??= `it ended with ${signal ?? code}`))
    for (const until = Date.now() + READY_MS; ; await sleep(25)) {
      if (failure !== undefined || Date.now() > until) {
        own.kill('SIGKILL')
        throw new Error(`${own.spawnargs.join(' ')} is not ready: ${failure ?? `not in ${READY_MS} ms`}\n${heard}`)
      }
      port = Number(says.exec(heard)?.[1] ?? 0)
      if (port !== 0 && (await ready(`http://127.0.0.1:${port}`))) return
    }
  }

  async function kill(signal = 'SIGKILL') {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill(signal)
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS)
    await ended
    clearTimeout(late)
  }

  process.once('exit', () => child.kill('SIGKILL'))
  await begin()
  return {
    url: `http://127.0.0.1:${port}`,
    get pid() {
      return child.pid
    },
    /** What it has said, on both of its outputs. */
    output: () => said,
    /** Sends it a signal, and waits for its end. */
    kill,
    stop: () => kill('SIGTERM'),
    /** Kills it if it runs, and starts it again on its port. */
    async restart() {
      await kill()
      await begin()
    }
  }
}

/** Whether a GET is answered with 200. */
export async function answers(url) {
  try {
    return (await fetch(url, { signal: AbortSignal.timeout(5_000) })).ok
  } catch {
    return false
  }
}
