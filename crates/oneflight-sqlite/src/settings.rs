//! What a connection is set to while a store writes on it.
//!
//! Settings belong to a connection, and stay when it is given back: what the work sets, or the user on a connection of
//! the pool, is still set for its next use. One of them would break a promise (`synchronous`), others would keep all
//! writers waiting (`locking_mode`, `busy_timeout`). So the errand that begins a transaction sets them to what the
//! store was made with.
//!
//! `synchronous` cannot be set within a transaction. So a connection on which one was left open is found out here, and
//! not by the `BEGIN IMMEDIATE`: that would first take the lock for it, or be told that the database is busy for as
//! long as its snapshot is an old one. (A setting that SQLite calls a flag, such as `foreign_keys`, is better not set
//! each time: that has all prepared statements prepared again.)

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::seal::is_sealable;

/// How long SQLite itself waits for a lock: its first, short steps only; then [`busy`](super::busy) takes over.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_millis(8);

/// The statements that set them. Clones share the text.
#[derive(Clone)]
pub(super) struct Settings {
    locks_for_good: bool,
    alone: SqlStr,
    and_begin: SqlStr,
    /// The one of them that fails within a transaction.
    outside: SqlStr,
}

impl Settings {
    /// Reads those that a connection has, which are its pool's if they were not changed.
    pub(super) async fn of(connection: &mut SqliteConnection) -> sqlx::Result<Self> {
        let synchronous: i64 = sqlx::query_scalar("PRAGMA main.synchronous")
            .fetch_one(&mut *connection)
            .await?;
        // One word, of SQLite's own.
        let locking_mode: String = sqlx::query_scalar("PRAGMA main.locking_mode")
            .fetch_one(&mut *connection)
            .await?;
        let busy_timeout: i64 = sqlx::query_scalar("PRAGMA busy_timeout")
            .fetch_one(&mut *connection)
            .await?;
        let set = format!(
            "PRAGMA busy_timeout = {};
             PRAGMA main.locking_mode = {locking_mode};
             PRAGMA main.synchronous = {synchronous}",
            BUSY_TIMEOUT.as_millis(),
        );
        let and_begin = format!("{set}; BEGIN IMMEDIATE; PRAGMA busy_timeout = {busy_timeout}");
        Ok(Self {
            locks_for_good: locking_mode != "normal",
            alone: text(set),
            and_begin: text(and_begin),
            outside: text(format!("PRAGMA main.synchronous = {synchronous}; ")),
        })
    }

    /// The same for a connection of the store's own, on which nobody but the store waits for a lock.
    pub(super) fn of_our_own(&self) -> Self {
        Self {
            and_begin: text(format!("{}; BEGIN IMMEDIATE", self.alone.as_str())),
            ..self.clone()
        }
    }

    /// Returns whether the first connection that writes keeps all others from the file.
    pub(super) fn lock_for_good(&self) -> bool {
        self.locks_for_good
    }

    /// Sets a connection that is in no transaction.
    pub(super) async fn set(&self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        sqlx::raw_sql(self.alone.clone()).execute(connection).await.map(drop)
    }

    /// Sets them and begins a transaction that writes. Within it, SQLite waits for as long as the pool has it wait.
    pub(super) fn and_begin(&self) -> SqlStr {
        self.and_begin.clone()
    }

    /// The same, between what is looked at before and what that transaction goes on with. If the connection has no
    /// [seal](super::seal), it fails before it does anything; so it does if something is to be looked at, and a transaction was
    /// left open on the connection, which has an older snapshot.
    pub(super) fn and_begin_between(&self, before: &str, within: &str) -> SqlStr {
        let is_sealable = concat!("SELECT ", is_sealable!(), "; ");
        let outside = match before {
            "" => "",
            _ => self.outside.as_str(),
        };
        text([is_sealable, outside, before, self.and_begin.as_str(), "; ", within].concat())
    }
}

fn text(statements: String) -> SqlStr {
    AssertSqlSafe(Arc::<str>::from(statements)).into_sql_str()
}
