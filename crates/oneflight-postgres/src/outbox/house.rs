//! Keeping house: partitions rotate, and those in which nothing is left are emptied as a whole.
//!
//! Whether a partition of messages may be emptied is asked without a lock, since it takes a while. Then the partition
//! is locked, if that is possible at once, and what was written since is looked at: anything is a reason to leave it. A
//! transaction that is about to write into an old partition either holds a lock there, in which case it is left, or
//! comes later and finds an empty one: what it writes is found by its number, wherever it stands.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection};

use super::rows::millis;
use crate::PostgresStore;
use crate::errors::{late, unavailable};
use crate::records::{column, only};
use oneflight::store::StoreError;
use tokio::time::timeout;

/// The number of partitions of messages, and of receipts.
const MESSAGES: i16 = 6;
const RECEIPTS: i16 = 4;
/// How many parked messages are brought back at a time.
const BATCH: i64 = 1000;
/// The shortest time for which a partition is written to.
const TURN: Duration = Duration::from_secs(10);

/// A partition that is not written to any more, and the snapshot by which it was looked through.
struct Finished {
    table: String,
    snapshot: String,
}

impl PostgresStore {
    /// Brings back what is due, empties partitions, and rotates. Returns whether there is more to do soon.
    pub(super) async fn keep_outbox(&self) -> Result<bool, StoreError> {
        let due = self.query(&self.outbox.statements.bring_back_due).bind(BATCH);
        let brought: i64 = column(only(&self.ask_outbox(due).await?)?, 0)?;
        if brought > 0 {
            self.outbox.bell.ring();
        }
        let slots = self.ask_outbox(self.query(&self.outbox.statements.slots)).await?;
        let slots = only(&slots)?;
        let (messages, receipts): (i16, i16) = (column(slots, 0)?, column(slots, 1)?);
        let turn = millis(column(slots, 2)?);
        let mut waits = false;
        for slot in (0..MESSAGES).filter(|slot| *slot != messages) {
            if let Some(finished) = self.finished_messages(slot).await? {
                waits |= !self
                    .empty(
                        &finished,
                        "NOT pg_catalog.pg_visible_in_snapshot(xid, $1::pg_catalog.pg_snapshot)",
                    )
                    .await?;
            }
        }
        for slot in (0..RECEIPTS).filter(|slot| *slot != receipts) {
            if let Some(finished) = self.finished_receipts(slot).await? {
                let messages = self.outbox.statements.names.of("messages");
                let about = format!("$1 IS NOT NULL AND upper(span) > (SELECT min(position) FROM {messages})");
                waits |= !self.empty(&finished, &about).await?;
            }
        }
        if turn >= TURN && !self.is_empty("messages", messages).await? {
            let next_messages = self.next("messages", messages, MESSAGES).await?;
            let next_receipts = self.next("receipts", receipts, RECEIPTS).await?;
            if next_messages != messages {
                let rotate = self.query(&self.outbox.statements.rotate);
                self.ask_outbox(rotate.bind(messages).bind(next_messages).bind(next_receipts))
                    .await?;
                waits = true;
            }
        }
        Ok(brought == BATCH || waits)
    }

    fn partition(&self, table: &str, slot: i16) -> String {
        self.outbox.statements.names.of(&format!("{table}_{slot}"))
    }

    async fn is_empty(&self, table: &str, slot: i16) -> Result<bool, StoreError> {
        let look = format!("SELECT NOT EXISTS (SELECT FROM {})", self.partition(table, slot));
        let rows = self
            .ask_outbox(sqlx::query(AssertSqlSafe(look)).persistent(self.prepares))
            .await?;
        column(only(&rows)?, 0)
    }

    /// The next partition that is empty, or this one.
    async fn next(&self, table: &str, current: i16, of: i16) -> Result<i16, StoreError> {
        for step in 1..of {
            let slot = (current + step) % of;
            if self.is_empty(table, slot).await? {
                return Ok(slot);
            }
        }
        Ok(current)
    }

    /// The partition, if it has messages and all of them have ended.
    async fn finished_messages(&self, slot: i16) -> Result<Option<Finished>, StoreError> {
        if self.is_empty("messages", slot).await? {
            return Ok(None);
        }
        let (table, receipts) = (
            self.partition("messages", slot),
            self.outbox.statements.names.of("receipts"),
        );
        // The oldest one, which most often tells enough, and then all of them.
        let look = format!(
            "SELECT pg_catalog.pg_current_snapshot()::text, NOT EXISTS (
                 SELECT FROM (SELECT position FROM {table} ORDER BY position LIMIT 1) m WHERE NOT EXISTS (
                     SELECT FROM {receipts} r
                     WHERE r.kind IN (2, 4) AND r.span @> m.position AND m.position = ANY (r.positions)))
             AND NOT EXISTS (
                 SELECT FROM {table} m LEFT JOIN (
                     SELECT p.position FROM {receipts} r CROSS JOIN LATERAL unnest(r.positions) p (position)
                     WHERE r.kind IN (2, 4)
                       AND r.span && (SELECT pg_catalog.int8range(min(position), max(position), '[]') FROM {table})
                 ) ended USING (position) WHERE ended.position IS NULL)"
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
        let (table, messages) = (
            self.partition("receipts", slot),
            self.outbox.statements.names.of("messages"),
        );
        let look = format!(
            "SELECT pg_catalog.pg_current_snapshot()::text, EXISTS (SELECT FROM {table}) AND NOT EXISTS (
                 SELECT FROM {table} WHERE upper(span) > (SELECT min(position) FROM {messages}))"
        );
        let rows = self
            .ask_outbox(sqlx::query(AssertSqlSafe(look)).persistent(self.prepares))
            .await?;
        let row = only(&rows)?;
        let snapshot = column(row, 0)?;
        Ok(column::<bool>(row, 1)?.then_some(Finished { table, snapshot }))
    }

    /// Empties a partition, unless somebody uses it or has written to it since. Returns whether it is empty now.
    async fn empty(&self, finished: &Finished, written_since: &str) -> Result<bool, StoreError> {
        let emptied = timeout(self.patience, self.try_to_empty(finished, written_since)).await;
        match emptied.unwrap_or_else(|_| Err(late())) {
            Ok(emptied) => Ok(emptied),
            // Somebody reads or writes it, for however long.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn try_to_empty(&self, finished: &Finished, written_since: &str) -> sqlx::Result<bool> {
        let table = &finished.table;
        let mut connection = self.line().acquire().await?;
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(AssertSqlSafe(format!(
            "LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE NOWAIT"
        )))
        .execute(&mut *transaction)
        .await?;
        let look = format!("SELECT EXISTS (SELECT FROM {table} WHERE {written_since})");
        let look = sqlx::query_scalar(AssertSqlSafe(look)).persistent(false);
        if look.bind(&finished.snapshot).fetch_one(&mut *transaction).await? {
            return Ok(false);
        }
        let withdrawn = self.outbox.statements.names.of("withdrawn");
        let messages = self.outbox.statements.names.of("messages");
        sqlx::raw_sql(AssertSqlSafe(format!(
            "DELETE FROM {withdrawn} w WHERE w.position < (SELECT min(position) FROM {messages}); TRUNCATE {table}"
        )))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }
}
