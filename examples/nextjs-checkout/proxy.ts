// Stands before all pages and actions (in Next 15 it is `middleware.ts`): each request gets its correlation id here, and the
// browser is told it.

import { type NextRequest, NextResponse } from 'next/server'
import { CORRELATION_ID, correlationIdOf } from './lib/correlation-id'

export function proxy(request: NextRequest) {
  const id = correlationIdOf(request.headers)
  const headers = new Headers(request.headers)
  headers.set(CORRELATION_ID, id)
  const response = NextResponse.next({ request: { headers } })
  response.headers.set(CORRELATION_ID, id)
  return response
}

export const config = { matcher: '/((?!_next/).*)' }
