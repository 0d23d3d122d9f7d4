// A proxy between browser and application that loses answers: the application is asked, and the browser's connection ends without
// a byte of what it says.

import { once } from 'node:events'
import { createServer, request } from 'node:http'

/**
 * Starts it before `target`. It ends with this process.
 *
 * Each connection carries one request, unless `keepAlive`: a browser repeats by itself what breaks off on a connection that it has
 * used before.
 */
export async function startCutter(target, { keepAlive = false } = {}) {
  const { hostname, port } = new URL(target)
  const cuts = []
  let posts = 0

  const server = createServer((asked, answered) => {
    const isPost = asked.method === 'POST'
    if (isPost) posts++
    const cut = isPost ? cuts.shift() : undefined
    const headers = { ...asked.headers, connection: 'close' }
    const forwarded = request({ hostname, port, method: asked.method, path: asked.url, headers, agent: false })
    forwarded.once('error', () => asked.socket.destroy())
    asked.pipe(forwarded)
    if (cut === undefined) {
      forwarded.once('response', (answer) => {
        const { 'transfer-encoding': _, 'keep-alive': __, ...rest } = answer.headers
        answered.writeHead(answer.statusCode, { ...rest, connection: keepAlive ? 'keep-alive' : 'close' })
        answer.pipe(answered)
        answer.once('error', () => asked.socket.destroy())
      })
      // The browser has gone.
      answered.once('close', () => forwarded.destroy())
      return
    }
    const came = once(forwarded, 'response').then(([answer]) => answer.resume())
    came.catch(() => {})
    asked.once('end', async () => {
      try {
        await (cut.when?.() ?? came)
        cut.happened()
      } catch (error) {
        cut.failed(error)
      }
      asked.socket.destroy()
    })
  })
  server.listen(0, '127.0.0.1').unref()
  await once(server, 'listening')

  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** How many POST requests have come. */
    posts: () => posts,
    /**
     * Forwards the next POST request, and closes its connection once the answer has come, or once `when()` resolves. Resolves when that
     * has happened.
     */
    cutNextAnswer(when) {
      return new Promise((happened, failed) => cuts.push({ when, happened, failed }))
    },
    /** Cuts no answer any more that was to be. */
    forget: () => cuts.splice(0),
    stop() {
      server.close()
      server.closeAllConnections()
    }
  }
}
