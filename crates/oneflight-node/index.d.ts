declare global {
  interface SymbolConstructor {
    /** As the library and the types of Node declare it, where these are older. */
    readonly asyncDispose: unique symbol
  }
}

/** What `form.get(…)` returns of a `FormData`, or `request.headers['idempotency-key']` of Node's server: also that there is none. */
export type FormValue = string | { readonly name: string; readonly size: number } | null | readonly string[] | undefined

/** Where the key of a request is valid: a namespace (most often the tenant), and optionally a route and a user. */
export type Scope = string | { namespace: string; route?: string; user?: string }

/** What a fingerprint is taken of: the meaning of a request. Member order and React's own fields do not matter. */
export type Payload = string | ArrayBuffer | ArrayBufferView | object

/** Which request a call is about. */
export interface Request {
  scope: Scope
  /**
   * The idempotency key of the client: 1 to 255 printable ASCII characters. Give `form.get('key')` as it is: a field that is missing
   * is {@link InvalidArgument} then. A `String(…)` around it would make one key of all of them, which is refused as well.
   */
  key: FormValue
  /** The payload. The same key with another payload is a {@link KeyReused}. */
  fingerprint?: Payload
  /** The id that joins its logs: 1 to 128 visible ASCII characters. The current one of {@link correlation} unless set. */
  correlationId?: string
}

/** How a reply came to be. */
export type Origin = 'executed' | 'collapsed' | 'replayed'

/** What is known of the mutation when a call has no reply. */
export type Effect = 'nothing' | 'done' | 'unknown'

export interface Reply<T> {
  /** The value as JSON keeps it. Each caller has a copy of its own. */
  value: T
  /** Whether the work of another call answered, an earlier one or one at the same time. */
  cached: boolean
  /** Whether the work, of a service in Rust, refused for good: its rows were rolled back, and this is its answer. */
  declined: boolean
  origin: Origin
  /** The number of the attempt whose result this is: 1 unless an earlier attempt ended in doubt, and was not resolved by `rerun`. */
  attempt: number
}

/** What a closure knows of its execution. */
export interface Context {
  readonly scope: { namespace: string; route?: string; user?: string }
  readonly key: string
  /** The number of this attempt, from 1. */
  readonly attempt: number
  /** The correlation id of the call. It is the current one while the work runs. */
  readonly correlationId?: string
  /** Whether another holder may have taken over: the result is not recorded then. */
  readonly isLeaseLost: boolean
  /** Returns the idempotency key to send downstream for a step: the same for every attempt. */
  downstreamKey(step: string): string
}

/** A side effect that is to happen if the transaction commits: a mail, a charge, a webhook. A {@link Relay} delivers it. */
export interface Message {
  /** What kind of side effect it is, such as `mail.receipt`. */
  topic: string
  /** A string is text, bytes are bytes, and all else is JSON. */
  payload: unknown
  contentType?: string
  /**
   * Names the step of the work that sends this, from which its key is derived: the topic unless set. The second message of a step has
   * another key than the first, by its number. So name the step of a message that is not sent in every run of the work.
   */
  step?: string
  /** The key under which targets recognise it, if not the one that is derived from the request and the step. */
  key?: string
  /** Messages of one ordering key are delivered in the order in which they were sent. */
  orderingKey?: string
  headers?: Record<string, string>
  /** That of the request unless set. */
  correlationId?: string
  /** A W3C `traceparent`. */
  traceParent?: string
  /** Delivers it no earlier. */
  delayMs?: number
  /** Drops it if it was not delivered by then. */
  expiresAfterMs?: number
}

/** The number of a message, and whether one of its topic and key was there already. */
export interface Sent {
  id: string
  isDuplicate: boolean
}

/** What a closure in a transaction knows of its execution. */
export interface TransactionContext extends Context {
  /** Sends a message with the commit of the transaction. If that fails and nobody waits for it, the work fails by it. */
  send(message: Message): Promise<Sent>
}

/** The same where the driver answers at once. */
export interface TransactionContextSync extends Context {
  send(message: Message): Sent
}

/** A request whose holder ended without telling what it did. */
export interface Doubt {
  request: { scope: { namespace: string; route?: string; user?: string }; key: string }
  attempt: number
  downstreamKey(step: string): string
}

/** What became of a request in doubt. */
export type Resolution = { completed: unknown } | 'rerun' | 'hold'

export interface OpenOptions {
  /** How long a completed request is replayed. After it the key is new. 24 hours unless set. */
  retentionMs?: number
  /** How long a holder counts as alive after its last renewal. 10 s unless set. It does not limit the work. */
  leaseMs?: number
  /** How long a call waits for a request that is in progress elsewhere. 15 s unless set. */
  waitMs?: number
  /** How long the recovery policy waits after work that did not know what it did. One lease unless set. */
  settleMs?: number
  /** Deletes records that are past their retention, with this pause between rounds. Never unless set. */
  purgeEveryMs?: number
  /** What becomes of a request whose holder died. 'hold' unless set: nothing, until it is resolved. */
  recovery?: 'hold' | 'rerun' | ((doubt: Doubt) => Resolution | Promise<Resolution>)
  /** What it means that only one of two calls has a fingerprint. 'conflict' unless set. */
  missingFingerprint?: 'conflict' | 'accept'
  /** The largest size of a value as JSON, in bytes. 256 KiB unless set. */
  maxResultBytes?: number
  /** The largest number of requests in flight in this process. No limit unless set. */
  maxFlights?: number
  /** The largest number of callers that share a flight. */
  maxCallers?: number
  /** PostgreSQL and SQLite: the largest number of connections, 10 to PostgreSQL and 8 readers of SQLite unless set. */
  connections?: number
  /** PostgreSQL: the schema of the tables. */
  schema?: string
  /** PostgreSQL and Redis: what the names of tables or keys begin with. */
  prefix?: string
  /** PostgreSQL: whether tables are created and upgraded. True unless set. */
  migrate?: boolean
  /** PostgreSQL: false for a pooler that does not keep track of prepared statements. */
  preparedStatements?: boolean
}

export interface RunOptions {
  /** Ends the wait of this caller. The work goes on, and its result is recorded. */
  signal?: AbortSignal
  /** How long this result is replayed, if not for as long as others. */
  retentionMs?: number
}

export type Status =
  | { state: 'absent' }
  | { state: 'inProgress' | 'inDoubt'; attempt: number; held: boolean; leaseMs: number }
  | { state: 'completed'; attempt: number; completedAt: Date; expiresAt: Date }

export interface Doubtful {
  request: { scope: { namespace: string; route?: string; user?: string }; key: string }
  attempt: number
  /** What `after` of the next page takes. */
  token: string
  /** How long the lease has been over. */
  sinceMs: number
}

/**
 * Runs a statement on the connection of a transaction, and returns its rows as objects, if it has any. All parameters are strings.
 * In a transaction one call at a time is made.
 */
export type Transaction = (sql: string, parameters: string[]) => unknown

/** Makes a {@link Transaction} of what a driver or a library calls one. */
export const adapters: {
  /** A client of `pg` that has said `BEGIN`. */
  pg(client: object): Transaction
  /** A database of better-sqlite3, inside of `db.transaction(…).immediate()`. */
  betterSqlite3(db: object): Transaction
  /** A transaction of Drizzle, and the `sql` of `drizzle-orm`. */
  drizzle(tx: object, sql: unknown): Transaction
  /** A transaction of Kysely, and the `CompiledQuery` of `kysely`. */
  kysely(trx: object, CompiledQuery: unknown): Transaction
  /** The client of Prisma's `$transaction(async (tx) => …)`. */
  prisma(tx: object): Transaction
}

/** A message on its way to a target. It may come more than once, always under the same key. */
export interface Delivery {
  readonly id: string
  readonly topic: string
  /** The bytes, in a `Buffer`. */
  readonly payload: Uint8Array
  readonly contentType: string
  /** The idempotency key: a target that has seen it has done its part. */
  readonly key: string
  readonly orderingKey?: string
  readonly headers: Record<string, string>
  /** It is the current one while the message is delivered. */
  readonly correlationId?: string
  /** A W3C `traceparent`. */
  readonly traceParent?: string
  /** The number of this attempt, from 1. */
  readonly attempt: number
  /** Returns the payload as text. */
  text(): string
  /** Reads the payload as JSON. One that is none is {@link Rejected}. */
  json<T = any>(): T
}

/**
 * Delivers a message: it is delivered once this resolves. What is thrown has it tried again after a pause, up to the limit of
 * attempts, but for {@link Rejected}. The signal is given when nobody waits any more: the time is over, the relay is closing,
 * or another relay has taken over.
 */
export type Deliver = (message: Delivery, options: { signal: AbortSignal }) => unknown

export interface TargetOptions {
  deliver: Deliver
  /** After the last one a message is a dead letter. 20 unless set. */
  maxAttempts?: number
  /** The pause after the first attempt. It doubles with each one. 1 s unless set. */
  firstPauseMs?: number
  /** An hour unless set. */
  longestPauseMs?: number
  /** The time limit of an attempt. 30 s unless set. */
  timeoutMs?: number
  /** The largest number of messages that are being delivered at once. 64 unless set. */
  maxInFlight?: number
  /** After so many failures in a row nothing is delivered for a while. 10 unless set. */
  circuitBreaker?: number
  /** What becomes of the later messages of an ordering key when one is dead: they wait for it, or are delivered. 'block' unless set. */
  onDead?: 'block' | 'skip'
}

export interface RelayOptions {
  /** All relays of a group divide the messages among themselves, and have targets for the same topics. `default` unless set. */
  group?: string
  /** After which time without a sign of life the others take this relay for dead. 15 s unless set. */
  leaseMs?: number
  /** How long `close` waits for deliveries. 20 s unless set. */
  graceMs?: number
  /** Is told of each message that becomes a dead letter, at most once: the letter stays in the store. `close` waits for it. A warning of the process unless set. */
  onDeadLetter?: (letter: DeadLetter) => unknown
}

/** A message that is not tried again, unless it is redriven. */
export interface DeadLetter {
  readonly id: string
  readonly topic: string
  /** The bytes, in a `Buffer`. */
  readonly payload: Uint8Array
  readonly key: string
  readonly orderingKey?: string
  readonly attempts: number
  /** What the last attempt said. */
  readonly error: string
  /** Whether later messages of its ordering key wait for a decision. */
  readonly blocks: boolean
}

/** How a relay is. What is counted is counted since it began. */
export interface Health {
  /** Whether the store answered the last question. */
  isConnected: boolean
  /** How many of the 64 parts of the outbox it has. */
  shards: number
  /** How many messages it has read that have not ended. */
  backlog: number
  inFlight: number
  /** How long ago the oldest message of the backlog was sent, by topic. */
  oldestMs: Record<string, number>
  /** How many messages of topics without a target were left alone. */
  leftAlone: number
  attempts: number
  delivered: number
  dead: number
  expired: number
  polls: number
  emptyPolls: number
  /** How often shards were lost to another relay. */
  lost: number
  /** The targets that get nothing for a while, since they failed. */
  openCircuits: string[]
  /** The topics of its targets that an operator has paused. */
  paused: string[]
}

/** Delivers messages of the outbox. The process lives until it is closed. */
export interface Relay {
  /** Returns how it is. Once it is closed, how it was then. */
  health(): Health
  /**
   * Takes nothing more, and waits for deliveries up to `graceMs`, and for `onDeadLetter`. What is not delivered by then is given
   * back, and counts as no attempt. In what it would wait for, a delivery of its own above all, it is {@link Reentrant}.
   */
  close(): Promise<void>

  /** The same, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>
}

/** What an operator decides about messages. */
export interface Outbox {
  /** Lists dead letters by their ids, after this one. */
  deadLetters(options?: { limit?: number; after?: string }): Promise<DeadLetter[]>
  /** Has a dead letter tried again, in its old place. Returns whether it was one. */
  redrive(id: string): Promise<boolean>
  /** Cancels a message. If this returns true, it is never delivered; else it is too late. */
  cancel(id: string): Promise<boolean>
}

/** The id that joins the logs of one request. It decides nothing. */
export const correlation: {
  /** Makes this the current id while the function runs, and in all that it begins. */
  run<R>(id: string, run: () => R): R
  /** Returns the current id. */
  current(): string | undefined
}

/** Executes each request once, and answers its duplicates with the result. */
export class Idempotency {
  private constructor()

  /**
   * Opens a store: `memory:`, `sqlite:orders.db` or a path, `postgres://…`, `redis://…`. One that this process has open under
   * the same URL and options is shared.
   */
  static open(url: string | URL, options?: OpenOptions): Promise<Idempotency>

  /**
   * Executes the work unless the request was executed before. An error of the work is an answer: recorded and replayed. But one of
   * another call, which the work lets pass, says nothing of the work: the request is in doubt ({@link Unknown}).
   */
  run<T>(request: Request, work: (context: Context) => T | PromiseLike<T>, options?: RunOptions): Promise<Reply<T>>

  /**
   * Executes the work as `run` does. An error of the work is no answer: {@link NotDone} frees the key, and any other leaves
   * the request in doubt ({@link Unknown}).
   */
  tryRun<T>(request: Request, work: (context: Context) => T | PromiseLike<T>, options?: RunOptions): Promise<Reply<T>>

  /**
   * Executes the work in a transaction that you have begun, in the database of the store: the record is in your commit. Work that
   * throws is undone, and its error is that of the call. An error of the driver is thrown as it is. Nothing is waited for:
   * a request in progress elsewhere is {@link InProgress} at once. In a transaction one call at a time is made: after the one before it, or in
   * its work. One that overlaps is {@link InvalidArgument}.
   */
  runInTransaction<T>(
    request: Request,
    tx: Transaction,
    work: (context: TransactionContext) => T | PromiseLike<T>,
    options?: { retentionMs?: number }
  ): Promise<Reply<T>>

  /** The same at once, where driver and work answer at once, as better-sqlite3 does. Work that is async is not begun. */
  runInTransactionSync<T>(
    request: Request,
    tx: Transaction,
    work: (context: TransactionContextSync) => T extends PromiseLike<unknown> ? never : T,
    options?: { retentionMs?: number }
  ): Reply<T>

  /** Returns what the store knows of a request. */
  status(request: Request): Promise<Status>

  /** Lists requests in doubt, in the order of their tokens. */
  inDoubt(options?: { limit?: number; after?: string }): Promise<Doubtful[]>

  /** Settles a request in doubt, once its outcome has been found out. */
  resolve(request: Request, resolution: Resolution): Promise<'recorded' | 'freed' | 'held' | 'absent' | 'alreadyCompleted'>

  /** Deletes up to `limit` (1000) records that are past their retention. Returns how many. */
  purge(options?: { limit?: number }): Promise<number>

  /**
   * Begins to deliver messages of the outbox, in PostgreSQL or SQLite, to a target for each topic, or for all topics that begin
   * like a pattern (`mail.*`).
   */
  relay(targets: Record<string, Deliver | TargetOptions>, options?: RelayOptions): Relay

  readonly outbox: Outbox

  /**
   * Closes its relays, whose deliveries may call it as long as they have their grace, begins nothing else, and waits for what this
   * object has begun. The last one of a store closes its connections: what was written to a file of SQLite's is in it then, unless others have it open. In work for which it would wait it is {@link Reentrant}.
   */
  close(): Promise<void>

  /** The same, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Collapses calls of this thread whose key is in flight. Values are shared as they are, and nothing is recorded.
 *
 * Keys are told apart as those of a `Map`: two objects are two keys, whatever is in them. All of what makes two requests different has to
 * be in the key, the user and the payload too: who joins is given the answer of the first.
 */
export class Group<K = unknown> {
  constructor(options?: { maxFlights?: number; maxCallers?: number })
  run<T>(key: K, work: () => T | PromiseLike<T>, options?: { signal?: AbortSignal }): Promise<{ value: T; role: 'leader' | 'follower' }>
  readonly inFlight: number
  readonly stats: { led: number; joined: number }
  /** Begins no new flights. */
  close(): void
  /** Waits until nothing is in flight. */
  drain(): Promise<void>
}

export interface ErrorOptions {
  cause?: unknown
}

/** Any error of this package. `code` is the name of its class. */
export class OneflightError extends Error {
  readonly code: string
  readonly effect: Effect
  /** How long to wait before asking again is worthwhile, if that is known. */
  readonly retryAfterMs?: number
  /** Of {@link InDoubt}: the attempt that ended so. */
  readonly attempt?: number
  /** Of {@link InvalidArgument}: where in the value. */
  readonly path?: string
}

/** Thrown by work that did nothing: the key is free again. Make a new one each time: one that has reached a caller is of that call. */
export class NotDone extends OneflightError {
  constructor(message?: string, options?: ErrorOptions)
}

/** Thrown by work that does not know what it did, or that let an error of another call pass: the request is in doubt. */
export class Unknown extends OneflightError {
  constructor(message?: string, options?: ErrorOptions)
}

/** Thrown by a target: the message will never be delivered. It is a dead letter at once. */
export class Rejected extends OneflightError {
  constructor(message?: string, options?: ErrorOptions)
}

/** Thrown by a target that asks for a pause: the message is tried again, but no earlier. */
export class RetryLater extends OneflightError {
  constructor(message?: string, options?: ErrorOptions & { retryAfterMs?: number })
}

/** What was passed is not valid, or a call is made where it cannot be. The message says what to do. */
export class InvalidArgument extends OneflightError {}
/** The key was used before with another payload. */
export class KeyReused extends OneflightError {}
/** The request was being executed elsewhere, and still was when the wait ended. */
export class InProgress extends OneflightError {}
/** An earlier holder ended without telling what it did. See `resolve`. */
export class InDoubt extends OneflightError {}
/** The work was done, and its value is nothing that JSON can keep. It is not done again. */
export class ValueNotJson extends OneflightError {}
/** The work was done earlier, and its value could not be kept. */
export class ValueNotKept extends OneflightError {}
/** The work was done, and its value is larger than `maxResultBytes`. It is not done again. */
export class ValueTooLarge extends OneflightError {}
/** What is recorded cannot be read here. */
export class ValueUnreadable extends OneflightError {}
/** The work was done, but outlived its lease, and another holder took over. */
export class LeaseLost extends OneflightError {}
/** The work was done, but that could not be recorded. */
export class Unrecorded extends OneflightError {}
/** The request is a mutation of several steps, which stopped in a Rust service. */
export class Stopped extends OneflightError {}
/** The work has ended the transaction of `runInTransaction`. The request is in doubt: a part of it may be committed, and has no record. */
export class TransactionEnded extends OneflightError {}
/** The store failed, or cannot be reached. */
export class StoreFailed extends OneflightError {}
/** A limit of requests or callers is reached. Nothing was run. */
export class Overloaded extends OneflightError {}
/** It is closed. Nothing was run. */
export class Closed extends OneflightError {}
/** The work waits for itself: by a call for its own key, or for the end of its store. */
export class Reentrant extends OneflightError {}
/** A mistake of this package. */
export class Defect extends OneflightError {}
