// The correlation id as it stands in the headers of a request. It joins what browser, app, database and services log of it, and
// decides nothing. A header that is not valid counts as missing.

export const CORRELATION_ID = 'x-correlation-id'

/** Returns the id that a request carries, or a new one. */
export function correlationIdOf(headers: Headers): string {
  const named = headers.get(CORRELATION_ID)
  // Visible ASCII, which any log and any header can have.
  if (named !== null && /^[!-~]{1,128}$/.test(named)) return named
  return traceOf(headers.get('traceparent')) ?? crypto.randomUUID()
}

/** Returns the trace id of a W3C `traceparent`. */
function traceOf(traceparent: string | null): string | undefined {
  const [, trace, parent] = /^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$/.exec(traceparent ?? '') ?? []
  const isZero = (hex: string | undefined) => /^0*$/.test(hex ?? '')
  return isZero(trace) || isZero(parent) ? undefined : trace
}
