// A proxy before PostgreSQL that keeps back what the server says to the commit of an order or a note: it is there, and the application
// does not know. What it does next, or who kills it, is up to the test.

import { once } from 'node:events'
import { connect, createServer } from 'node:net'

const ROW = /insert into (?:"?public"?\.)?"?(?:(?:shop_)?orders|shop_notes)\b/i

/** `ReadyForQuery`: inside of a transaction, and outside of any. */
const READY = { written: Buffer.from('Z\0\0\0\x05T', 'latin1'), committed: Buffer.from('Z\0\0\0\x05I', 'latin1') }

/** Starts it. It ends with this process. */
export async function startStaller(url) {
  const { hostname, port } = new URL(url)
  const sockets = new Set()
  let armed
  let stalled

  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname)
    let waited
    let tail = Buffer.alloc(0)
    for (const [socket, other] of [[client, upstream], [upstream, client]]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.once('error', () => other.destroy())
      socket.once('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
    client.on('data', (bytes) => {
      if (armed !== undefined && ROW.test(bytes.toString('latin1'))) {
        waited = armed
        armed = undefined
      }
      upstream.write(bytes)
    })
    upstream.on('data', (bytes) => {
      // Enough to find what came in two parts, and too little to find the last one again.
      tail = Buffer.concat([tail.subarray(Math.max(0, tail.length - READY.committed.length + 1)), bytes])
      if (waited === undefined || !tail.includes(READY[waited.what])) return void client.write(bytes)
      // The server has nothing to add until it is asked, and it is not asked before this is known.
      stalled = () => client.write(bytes)
      waited.happened()
      waited = undefined
    })
  })
  server.listen(0, '127.0.0.1').unref()
  await once(server, 'listening')
  const proxied = new URL(url)
  proxied.port = server.address().port
  return {
    url: proxied.href,
    /**
     * Keeps back the answer to the commit of the next order or note; or, with `written`, that to its row, whose transaction is open
     * then. Resolves when the server has given it.
     */
    stallNext: (what = 'committed') => new Promise((happened) => (armed = { what, happened })),
    /** Passes on what was kept back, if its connection is still there. */
    goOn() {
      stalled?.()
      stalled = armed = undefined
    },
    stop() {
      server.close()
      for (const socket of sockets) socket.destroy()
    }
  }
}
