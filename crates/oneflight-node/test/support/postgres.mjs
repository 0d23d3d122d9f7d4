// A private PostgreSQL for one test file, on a free port of the loopback and in a temporary directory. A missing server is a
// failure, never a skip. A small shell stops it when this process ends, in whichever way.

import { execFileSync, spawn } from 'node:child_process'
import { chownSync, mkdtempSync, readFileSync, readdirSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

function programs() {
  const home = '/usr/lib/postgresql'
  const versions = readdirSync(home).map(Number).filter(Number.isInteger).sort((one, other) => other - one)
  if (versions.length === 0) throw new Error('there is no PostgreSQL; install the package `postgresql`')
  return join(home, String(versions[0]), 'bin')
}

/** User and group to run as: PostgreSQL refuses to run as root. */
function account() {
  if (process.getuid() !== 0) return {}
  const line = readFileSync('/etc/passwd', 'utf8').split('\n').find((it) => it.startsWith('postgres:'))
  const [, , uid, gid] = line.split(':').map(Number)
  return { uid, gid }
}

export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

/** Starts a server, with further settings if they are given. Returns the URL of its database, and what ends it. */
export async function startPostgres(further = '') {
  const [bin, who] = [programs(), account()]
  const cwd = mkdtempSync(join(tmpdir(), 'oneflight-node-'))
  if (who.uid !== undefined) chownSync(cwd, who.uid, who.gid)
  const options = { cwd, ...who, env: { ...process.env, LC_ALL: 'C' }, stdio: 'ignore' }
  const init = ['-D', 'data', '-U', 'oneflight', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync', '--no-instructions']
  execFileSync(join(bin, 'initdb'), init, options)
  for (let tries = 1; ; tries++) {
    const port = await freePort()
    const settings = `-p ${port} -h 127.0.0.1 -k ${cwd} -c max_connections=200 -c shared_buffers=32MB -c fsync=off ${further}`
    try {
      execFileSync(join(bin, 'pg_ctl'), ['-D', 'data', '-w', '-t', '60', '-l', 'log', '-o', settings, 'start'], options)
    } catch (error) {
      // Another process may take the port before the server does.
      if (tries === 5) throw error
      continue
    }
    const script = 'cat >/dev/null; "$0" -D data -m immediate stop; cd /; rm -rf "$1"'
    const keeper = spawn('sh', ['-c', script, join(bin, 'pg_ctl'), cwd], {
      ...options,
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true
    })
    keeper.unref()
    keeper.stdin.unref()
    const control = (...args) => execFileSync(join(bin, 'pg_ctl'), ['-D', 'data', '-w', '-t', '60', ...args], options)
    return {
      /** Ends the server as a crash does. */
      crash: () => control('-m', 'immediate', 'stop'),
      /** Starts it once more, where it was. */
      restart: () => control('-l', 'log', '-o', settings, 'start'),
      url: `postgres://oneflight@127.0.0.1:${port}/postgres?sslmode=disable`,
      stop: () => keeper.stdin.end()
    }
  }
}
