// What a user is told when something was not done, or is not known to be: what it is, and what to do.

import { OneflightError } from 'oneflight'
import { Problem } from './order'

export interface Told {
  code: string
  message: string
}

const ADVICE: Record<string, string> = {
  KeyReused: 'The key of this form was used before, with something else in it. Send that again to see what came of it, or start anew.',
  InProgress: 'It is still being done. Wait a little and press the button again: it is not done twice.',
  InDoubt: 'It is not known whether this was done. Do not start anew: keep this page, and ask the shop.',
  InvalidArgument: 'This form has no valid key. Start anew.'
}

const FAILED = 'Something went wrong, and it is not known whether this was done. Press the button again.'

export function tell(error: unknown): Told {
  if (error instanceof Problem) return { code: error.code, message: ADVICE[error.code] ?? error.message }
  const code = error instanceof OneflightError ? error.code : 'Failed'
  return { code, message: ADVICE[code] ?? FAILED }
}
