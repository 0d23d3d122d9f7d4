import type { Instrumentation } from 'next'

export async function register() {
  // Next compiles this for its edge runtime as well, which has no database.
  if (process.env.NEXT_RUNTIME === 'nodejs') {
    const { start } = await import('./lib/start')
    await start()
  }
}

/** Logs what a page or an action has thrown, under the correlation id of its request. */
export const onRequestError: Instrumentation.onRequestError = async (error, request) => {
  if (process.env.NEXT_RUNTIME === 'nodejs') {
    const { log, told } = await import('./lib/log')
    log('a request failed', { correlationId: request.headers['x-correlation-id'], path: request.path, error: told(error) })
  }
}
