//! Keeping house: partitions rotate, and those in which nothing is left are emptied as a whole.
//!
//! Whether a partition of messages may be emptied is asked without a lock, since it takes a while. Then the partition
//! is locked, if that is possible within a moment, and what was written since is looked at, by an index: anything is a reason
//! to leave it. Every transaction that sends holds a lock on each partition until its commit, for the look for keys, and
//! those that come later wait behind this one: so it waits for those that are under way, but no longer than they can bear.
//! One transaction empties at a time. A transaction that is about to write into an old partition either holds a lock there, in which case it is left, or
//! comes later and finds an empty one: what it writes is found by its number, wherever it stands.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection};

use super::asking::BEGIN;
use super::rows::millis;
use crate::PostgresStore;
use crate::call::Message;
use crate::errors::{late, unavailable};
use crate::records::{column, only};
use oneflight::store::StoreError;
use tokio::time::{Instant, timeout};

/// How many parked messages are brought back at a time.
const BATCH: i64 = 1000;
/// For how long a partition's lock is waited for, and those who send behind it, in milliseconds.
const LOCK: u32 = 50;
/// How long a statement under that lock may take, in milliseconds.
const LOOK: u32 = 500;
/// How long partitions are left alone that somebody uses, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What is left of a partition is moved if there are no more messages than this.
const FEW: usize = 1000;
/// How long what is due is brought back at a time.
const SPELL: Duration = Duration::from_secs(2);
/// The shortest time for which a partition is written to.
const TURN: Duration = Duration::from_secs(10);

/// A partition that is not written to any more, and the snapshot by which it was looked through.
struct Finished {
    table: String,
    snapshot: String,
}

/// What came of a try to empty a partition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptied {
    Yes,
    /// Somebody has written to it since, or empties another one.
    NotYet,
    /// Somebody uses it, and most likely all others too.
    InUse,
}

/// The partitions of a table.
struct Ring {
    current: i16,
    used: Vec<bool>,
}

/// Where is written, for how long already, and what is in which partition.
struct Slots {
    messages: Ring,
    receipts: Ring,
    turn: Duration,
}

impl Slots {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        let ring = |current, used| -> Result<Ring, StoreError> {
            Ok(Ring {
                current: column(row, current)?,
                used: column(row, used)?,
            })
        };
        Ok(Self {
            messages: ring(0, 3)?,
            receipts: ring(1, 4)?,
            turn: millis(column(row, 2)?),
        })
    }
}

impl Ring {
    fn all(&self) -> impl Iterator<Item = (i16, bool)> + '_ {
        (0..).zip(self.used.iter().copied())
    }

    /// Those that are not written to, and have something.
    fn finished(&self) -> impl Iterator<Item = i16> + '_ {
        self.all()
            .filter(|(slot, used)| *used && *slot != self.current)
            .map(|(slot, _)| slot)
    }

    /// Whether the one that is written to has something.
    fn is_used(&self) -> bool {
        self.all().any(|(slot, used)| used && slot == self.current)
    }

    /// The next one that is empty.
    fn next_free(&self) -> Option<i16> {
        let free = |(slot, used): &(i16, bool)| !used && *slot != self.current;
        let after = self.all().filter(free).find(|(slot, _)| *slot > self.current);
        after.or_else(|| self.all().find(free)).map(|(slot, _)| slot)
    }
}

impl PostgresStore {
    /// Brings back what is due, empties partitions, and rotates. Returns whether there is more to do soon.
    pub(super) async fn keep_outbox(&self) -> Result<bool, StoreError> {
        let begun = Instant::now();
        let mut brought = BATCH;
        while brought == BATCH && begun.elapsed() < SPELL {
            let due = self.query(&self.outbox.statements.bring_back_due).bind(BATCH);
            brought = column(only(&self.ask_outbox(due).await?)?, 0)?;
            if brought > 0 {
                self.outbox.bell.ring();
            }
        }
        let slots = self.ask_outbox(self.query(&self.outbox.statements.slots)).await?;
        let slots = Slots::of(only(&slots)?)?;
        let mut waits = false;
        let mut is_free = self.may_lock();
        for slot in slots.messages.finished() {
            if is_free && let Some(finished) = self.finished_messages(slot).await? {
                let table = &finished.table;
                let look = format!(
                    "SELECT EXISTS (SELECT FROM {table} WHERE xid >= pg_catalog.pg_snapshot_xmax($1::pg_catalog.pg_snapshot))
                         OR EXISTS (SELECT FROM pg_catalog.pg_snapshot_xip($1::pg_catalog.pg_snapshot) x
                                    JOIN {table} m ON m.xid = x)"
                );
                let emptied = self.empty(&finished, &look).await?;
                (waits, is_free) = (waits || emptied != Emptied::Yes, emptied != Emptied::InUse);
            }
        }
        for slot in slots.receipts.finished() {
            if is_free && let Some(finished) = self.finished_receipts(slot).await? {
                let (table, left) = (&finished.table, self.left());
                let look = format!("SELECT $1 IS NOT NULL AND EXISTS (SELECT FROM {table} WHERE span && {left})");
                let emptied = self.empty(&finished, &look).await?;
                (waits, is_free) = (waits || emptied != Emptied::Yes, emptied != Emptied::InUse);
            }
        }
        if slots.messages.next_free().is_none() || slots.receipts.next_free().is_none() {
            self.bring_forward(slots.messages.current).await?;
        }
        if slots.turn >= TURN
            && slots.messages.is_used()
            && let Some(next) = slots.messages.next_free()
        {
            let receipts = slots.receipts.next_free().unwrap_or(slots.receipts.current);
            let rotate = self.query(&self.outbox.statements.rotate);
            self.ask_outbox(rotate.bind(slots.messages.current).bind(next).bind(receipts))
                .await?;
            waits = true;
        }
        Ok(brought == BATCH || waits)
    }

    /// The same, if there is anything, for a store of which it is not known whether it has an outbox in use. Asks the
    /// user's pool first.
    pub(crate) async fn keep_outbox_if_used(&self) -> Result<(), StoreError> {
        let look = Message::outside(self.outbox.statements.slots.as_str());
        let rows = self.ask(self.patience, look).await.map_err(unavailable)?;
        let slots = Slots::of(only(&rows)?)?;
        if slots.messages.used.contains(&true) || slots.receipts.used.contains(&true) {
            self.keep_outbox().await?;
        }
        Ok(())
    }

    /// The positions from the first one on of which a message is left.
    fn left(&self) -> String {
        let messages = self.outbox.statements.names.of("messages");
        format!(
            "pg_catalog.int8range((SELECT coalesce(min(position), {}) FROM {messages}), NULL)",
            i64::MAX
        )
    }

    fn partition(&self, table: &str, slot: i16) -> String {
        self.outbox.statements.names.of(&format!("{table}_{slot}"))
    }

    /// Moves what is left of the oldest partition to the one that is written to, unless it is much.
    async fn bring_forward(&self, current: i16) -> Result<(), StoreError> {
        let names = &self.outbox.statements.names;
        let oldest = format!("SELECT slot FROM {} ORDER BY position LIMIT 1", names.of("messages"));
        let rows = self
            .ask_outbox(sqlx::query(AssertSqlSafe(oldest)).persistent(false))
            .await?;
        let slot: i16 = match rows.first() {
            Some(row) => column(row, 0)?,
            None => return Ok(()),
        };
        if slot == current {
            return Ok(());
        }
        let (table, receipts) = (self.partition("messages", slot), names.of("receipts"));
        let left = format!(
            "SELECT position FROM {table} EXCEPT
             SELECT p.position FROM {receipts} r CROSS JOIN LATERAL unnest(r.positions) p (position)
             WHERE r.kind IN (2, 4)
               AND r.span && (SELECT pg_catalog.int8range(min(position), max(position), '[]') FROM {table})
             LIMIT {FEW} + 1"
        );
        let rows = self
            .ask_outbox(sqlx::query(AssertSqlSafe(left)).persistent(false))
            .await?;
        let left: Vec<i64> = rows.iter().map(|row| column(row, 0)).collect::<Result<_, _>>()?;
        if left.is_empty() || left.len() > FEW {
            return Ok(());
        }
        let forward = format!("SELECT {}($1)", names.of("bring_forward"));
        self.ask_outbox(sqlx::query(AssertSqlSafe(forward)).persistent(false).bind(left))
            .await?;
        self.outbox.bell.ring();
        Ok(())
    }

    /// The partition, if it has messages and all of them have ended.
    async fn finished_messages(&self, slot: i16) -> Result<Option<Finished>, StoreError> {
        let (table, receipts) = (
            self.partition("messages", slot),
            self.outbox.statements.names.of("receipts"),
        );
        // The oldest one and the newest one, which most often tell enough, and then all of them.
        let look = format!(
            "SELECT pg_catalog.pg_current_snapshot()::text, NOT EXISTS (
                 SELECT FROM (SELECT min(position) AS position FROM {table} UNION ALL SELECT max(position) FROM {table}) m
                 WHERE NOT EXISTS (
                     SELECT FROM {receipts} r
                     WHERE r.kind IN (2, 4) AND r.span @> m.position AND m.position = ANY (r.positions)))
             AND NOT EXISTS (
                 -- Not a join: the planner knows nothing of the arrays, and would take a loop over all for the shorter way.
                 SELECT position FROM {table} EXCEPT
                 SELECT p.position FROM {receipts} r CROSS JOIN LATERAL unnest(r.positions) p (position)
                 WHERE r.kind IN (2, 4)
                   AND r.span && (SELECT pg_catalog.int8range(min(position), max(position), '[]') FROM {table}))"
        );
        let rows = self
            .ask_outbox(sqlx::query(AssertSqlSafe(look)).persistent(self.prepares))
            .await?;
        let row = only(&rows)?;
        let snapshot = column(row, 0)?;
        Ok(column::<bool>(row, 1)?.then_some(Finished { table, snapshot }))
    }

    /// The partition, if it has receipts and none of them is about a message that is left.
    async fn finished_receipts(&self, slot: i16) -> Result<Option<Finished>, StoreError> {
        let (table, left) = (self.partition("receipts", slot), self.left());
        let look = format!(
            "SELECT pg_catalog.pg_current_snapshot()::text, EXISTS (SELECT FROM {table}) AND NOT EXISTS (
                 SELECT FROM {table} WHERE span && {left})"
        );
        let rows = self
            .ask_outbox(sqlx::query(AssertSqlSafe(look)).persistent(self.prepares))
            .await?;
        let row = only(&rows)?;
        let snapshot = column(row, 0)?;
        Ok(column::<bool>(row, 1)?.then_some(Finished { table, snapshot }))
    }

    /// Empties a partition, unless somebody uses it or has written to it since.
    async fn empty(&self, finished: &Finished, is_used: &str) -> Result<Emptied, StoreError> {
        let emptied = timeout(self.patience, self.try_to_empty(finished, is_used)).await;
        match emptied.unwrap_or_else(|_| Err(late())) {
            Ok(emptied) => {
                *self.outbox.leaves_alone.lock() = None;
                Ok(if emptied { Emptied::Yes } else { Emptied::NotYet })
            }
            // Somebody reads or writes it, for however long; or the look took longer than others are to wait.
            Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("55P03" | "57014")) => {
                let mut alone = self.outbox.leaves_alone.lock();
                let pause = alone.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
                *alone = Some((Instant::now(), pause));
                Ok(Emptied::InUse)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Whether a partition may be locked again: while somebody uses all of them, each try has those wait who send.
    fn may_lock(&self) -> bool {
        let alone = *self.outbox.leaves_alone.lock();
        alone.is_none_or(|(since, pause)| since.elapsed() >= pause)
    }

    async fn try_to_empty(&self, finished: &Finished, is_used: &str) -> sqlx::Result<bool> {
        let table = &finished.table;
        let mut connection = self.line().acquire().await?;
        let mut transaction = connection.begin_with(BEGIN).await?;
        let names = &self.outbox.statements.names;
        let only = sqlx::query_scalar("SELECT pg_catalog.pg_try_advisory_xact_lock($1)").persistent(false);
        if !only.bind(names.house_lock()).fetch_one(&mut *transaction).await? {
            return Ok(false);
        }
        sqlx::raw_sql(AssertSqlSafe(format!(
            "SET LOCAL lock_timeout = '{LOCK}ms'; SET LOCAL statement_timeout = '{LOOK}ms'; SET LOCAL enable_seqscan = off; SET LOCAL jit = off;
             LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"
        )))
        .execute(&mut *transaction)
        .await?;
        let look = sqlx::query_scalar(AssertSqlSafe(is_used.to_owned())).persistent(false);
        if look.bind(&finished.snapshot).fetch_one(&mut *transaction).await? {
            return Ok(false);
        }
        let [withdrawn, messages, rotation] = ["withdrawn", "messages", "rotation"].map(|name| names.of(name));
        // What is forgotten here is gone for a relay that still knows it.
        sqlx::raw_sql(AssertSqlSafe(format!(
            "WITH first AS (SELECT min(position) AS position FROM {messages}),
                  forgotten AS (DELETE FROM {withdrawn} w USING first WHERE w.position < first.position RETURNING w.position)
             UPDATE {rotation} SET gone = first.position FROM first
             WHERE first.position > gone AND EXISTS (SELECT FROM forgotten);
             TRUNCATE {table}"
        )))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }
}
