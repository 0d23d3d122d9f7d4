// Stands before all pages and actions (in Next 15 it is `middleware.ts`): here an intent begins, and each request gets its correlation id,
// which the browser is told.

import { type NextRequest, NextResponse } from 'next/server'
import { CORRELATION_ID, correlationIdOf } from './lib/correlation-id'

export function proxy(request: NextRequest) {
  const url = request.nextUrl.clone()
  if (url.pathname === '/' && !url.searchParams.has('intent')) {
    url.searchParams.set('intent', crypto.randomUUID())
    return NextResponse.redirect(url, 303)
  }
  const id = correlationIdOf(request.headers)
  const headers = new Headers(request.headers)
  headers.set(CORRELATION_ID, id)
  const response = NextResponse.next({ request: { headers } })
  response.headers.set(CORRELATION_ID, id)
  return response
}

export const config = { matcher: '/((?!_next/).*)' }
