import { and, asc, eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { boolean, integer, pgTable, text, timestamp } from 'drizzle-orm/pg-core'
import { Pool } from 'pg'
import { address } from './env'
import { log, told } from './log'
import { once } from './once'

// No unique key: it would stop the second row, and neither the second charge nor the second mail.
export const orders = pgTable('shop_orders', {
  id: integer('id').generatedAlwaysAsIdentity().primaryKey(),
  user: text('user').notNull(),
  item: text('item').notNull(),
  quantity: integer('quantity').notNull(),
  key: text('key').notNull(),
  correlationId: text('correlation_id').notNull(),
  isCancelled: boolean('is_cancelled').notNull().default(false),
  placedAt: timestamp('placed_at', { withTimezone: true }).notNull().defaultNow()
})

export const notes = pgTable('shop_notes', {
  id: integer('id').generatedAlwaysAsIdentity().primaryKey(),
  order: integer('order_id').notNull(),
  user: text('user').notNull(),
  text: text('text').notNull(),
  key: text('key').notNull(),
  correlationId: text('correlation_id').notNull(),
  writtenAt: timestamp('written_at', { withTimezone: true }).notNull().defaultNow()
})

/** What the shop shows of an order. */
export const SHOWN = { id: orders.id, item: orders.item, quantity: orders.quantity, correlationId: orders.correlationId }

export const database = once('database', () => {
  const pool = new Pool({ connectionString: address('DATABASE_URL'), max: 10 })
  // A connection that is lost while nobody uses it. Without a listener it would end the process.
  pool.on('error', (error) => log('an idle connection was lost', { error: told(error) }))
  return drizzle(pool)
})

export async function notesOf(user: string, order: number): Promise<string[]> {
  const own = and(eq(notes.order, order), eq(notes.user, user))
  const rows = await database().select({ text: notes.text }).from(notes).where(own).orderBy(asc(notes.id))
  return rows.map((row) => row.text)
}

/** Cancels an order, however often it is asked to. */
export async function cancel(order: number) {
  await database().update(orders).set({ isCancelled: true }).where(eq(orders.id, order))
}

export async function isCancelled(order: number): Promise<boolean> {
  const [row] = await database().select({ isCancelled: orders.isCancelled }).from(orders).where(eq(orders.id, order))
  return row?.isCancelled ?? false
}

/** Creates the tables where they are not there. */
export async function createTables() {
  await database().transaction(async (tx) => {
    // One process at a time: of two that create the same table, PostgreSQL fails one.
    await tx.execute(sql`SELECT pg_advisory_xact_lock(hashtext('shop_orders'))`)
    await tx.execute(sql`
      CREATE TABLE IF NOT EXISTS shop_orders (
        id             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        "user"         text NOT NULL,
        item           text NOT NULL,
        quantity       integer NOT NULL,
        key            text NOT NULL,
        correlation_id text NOT NULL,
        is_cancelled   boolean NOT NULL DEFAULT false,
        placed_at      timestamptz NOT NULL DEFAULT now()
      )`)
    await tx.execute(sql`ALTER TABLE shop_orders ADD COLUMN IF NOT EXISTS is_cancelled boolean NOT NULL DEFAULT false`)
    await tx.execute(sql`CREATE INDEX IF NOT EXISTS shop_orders_by_key ON shop_orders ("user", key)`)
    await tx.execute(sql`
      CREATE TABLE IF NOT EXISTS shop_notes (
        id             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        order_id       integer NOT NULL REFERENCES shop_orders,
        "user"         text NOT NULL,
        text           text NOT NULL,
        key            text NOT NULL,
        correlation_id text NOT NULL,
        written_at     timestamptz NOT NULL DEFAULT now()
      )`)
    await tx.execute(sql`CREATE INDEX IF NOT EXISTS shop_notes_by_order ON shop_notes (order_id)`)
  })
}
