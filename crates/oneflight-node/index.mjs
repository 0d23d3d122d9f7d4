// The same as `index.js`, by name. There is one copy of each module, whichever way it is loaded.

import oneflight from './index.js'

export const {
  Idempotency,
  Group,
  adapters,
  correlation,
  OneflightError,
  Closed,
  Defect,
  InDoubt,
  InProgress,
  InvalidArgument,
  KeyReused,
  LeaseLost,
  NotDone,
  Overloaded,
  Reentrant,
  Rejected,
  RetryLater,
  Stopped,
  StoreFailed,
  TransactionEnded,
  Unknown,
  Unrecorded,
  ValueNotJson,
  ValueNotKept,
  ValueTooLarge,
  ValueUnreadable
} = oneflight
