import { correlation } from 'oneflight'

/** Writes one line of JSON to standard output, with the correlation id of the request that this is run for. */
export function log(message: string, fields: Record<string, unknown> = {}) {
  console.log(JSON.stringify({ time: new Date().toISOString(), message, correlationId: correlation.current(), ...fields }))
}

/** What an error says, with what it was caused by. A log is read by those who run the app, and by nobody else. */
export function told(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause === undefined ? error.message : `${error.message}: ${told(error.cause)}`
}
