// A private Redis for one test file, on a free port of the loopback. A missing server is a failure, never a skip.

import { spawn } from 'node:child_process'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from './postgres.mjs'

function answers(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => socket.end())
    socket.once('close', (failed) => resolve(!failed))
    socket.once('error', () => {})
  })
}

/** Starts a server that keeps nothing on the disk. Returns its URL. It ends with this process. */
export async function startRedis() {
  const port = await freePort()
  const settings = ['--port', port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', '/']
  const server = spawn('redis-server', settings.map(String), { stdio: 'ignore' })
  let failure
  server.once('error', (error) => (failure = error))
  server.once('exit', (code) => (failure = new Error(`redis-server ended with ${code}`)))
  const stop = () => server.kill('SIGKILL')
  process.once('exit', stop)
  server.unref()
  while (!(await answers(port))) {
    if (failure) throw failure
    await sleep(20)
  }
  return { url: `redis://127.0.0.1:${port}/`, stop }
}
