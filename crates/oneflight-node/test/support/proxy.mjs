// A proxy before PostgreSQL that loses the answer to a commit.

import { connect, createServer } from 'node:net'

/**
 * Starts it. Once `lose` is called, the next message that says COMMIT ends its connection: after it was answered, or before
 * it came to the server.
 */
export async function startProxy(url) {
  const { hostname, port } = new URL(url)
  let armed
  const sockets = new Set()
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname)
    const cut = () => {
      client.destroy()
      upstream.destroy()
    }
    let isLost = false
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.once('error', cut)
      socket.once('close', () => {
        sockets.delete(socket)
        cut()
      })
    }
    client.on('data', (bytes) => {
      const saysCommit = armed !== undefined && /COMMIT(?!TED)/i.test(bytes.toString('latin1'))
      if (!saysCommit) return void upstream.write(bytes)
      const { when, happened } = armed
      armed = undefined
      happened()
      if (when === 'before') return cut()
      isLost = true
      upstream.write(bytes)
    })
    upstream.on('data', (bytes) => {
      // The answer came: the server is done.
      if (isLost) cut()
      else client.write(bytes)
    })
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  server.unref()
  const proxied = new URL(url)
  proxied.port = server.address().port
  return {
    url: proxied.href,
    /** Loses the next commit, `before` or `after` it was done. Resolves when that happened. */
    lose: (when) => new Promise((happened) => (armed = { when, happened })),
    stop() {
      server.close()
      for (const socket of sockets) socket.destroy()
    }
  }
}
