// Who asks, and under which correlation id: both are current for everything that is done for a request.

import { cookies, headers } from 'next/headers'
import { correlation } from 'oneflight'
import { correlationIdOf } from './correlation-id'

export interface Asking {
  user: string
  correlationId: string
}

/** What a user may be called. */
export const USER = /^[A-Za-z0-9-]{1,32}$/

/** Does this for the request that is being handled, in the `AsyncLocalStorage` that logs, rows and messages read the id from. */
export async function inRequest<T>(work: (asking: Asking) => Promise<T>): Promise<T> {
  const said = (await cookies()).get('user')?.value ?? ''
  const user = USER.test(said) ? said : 'guest'
  const correlationId = correlationIdOf(await headers())
  return correlation.run(correlationId, () => work({ user, correlationId }))
}
