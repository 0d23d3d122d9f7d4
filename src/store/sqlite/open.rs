//! Opening a database file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};

use super::busy::{Patience, is_busy, unavailable};
use super::seal::{Seal, Seals};
use super::writer::{Commits, Writer};
use super::{SqliteOptions, SqliteStore};
use crate::store::StoreError;

/// How long SQLite itself waits for a lock on the pool that users get.
const USER_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The same for our writer: its first, short steps only; then [`busy`](super::busy) takes over.
const WRITER_BUSY_TIMEOUT: Duration = Duration::from_millis(8);

pub(super) async fn file(options: &SqliteOptions, path: &Path) -> Result<SqliteStore, StoreError> {
    if path.as_os_str().is_empty() || path.as_os_str() == ":memory:" {
        return Err(StoreError::Unsupported {
            advice: "SqliteStore::open takes the path of a file; use MemoryStore to keep records in memory",
        });
    }
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(USER_BUSY_TIMEOUT)
        .synchronous(options.synchronous);

    // WAL is a property of the file. Turning it on takes a lock that SQLite does not wait for, so it is
    // done once, here, with patience, and not by every connection of a pool.
    let mut patience = Patience::new(options.busy_deadline);
    let first = connect.clone().journal_mode(SqliteJournalMode::Wal);
    let connection = loop {
        match first.connect().await {
            Err(error) if is_busy(&error) => patience.pause().await?,
            Err(error) => return Err(StoreError::unavailable(error)),
            Ok(connection) => break connection,
        }
    };
    connection.close().await.map_err(StoreError::unavailable)?;

    let pool = SqlitePoolOptions::new()
        .max_connections(options.max_readers)
        .acquire_timeout(options.busy_deadline)
        .test_before_acquire(false)
        .connect_lazy_with(connect.clone());
    // One connection that stays: its statements remain prepared, its page cache warm.
    let kept = Arc::new(Mutex::new(None));
    let seals = Seals::Kept(Arc::clone(&kept));
    let writers = SqlitePoolOptions::new()
        .after_connect(move |connection, _| {
            let kept = Arc::clone(&kept);
            Box::pin(async move {
                let seal = Seal::install(connection).await?;
                *kept.lock() = Some(seal);
                Ok(())
            })
        })
        .max_connections(1)
        .acquire_timeout(options.busy_deadline)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(connect.busy_timeout(WRITER_BUSY_TIMEOUT));
    let writer = Writer::new(writers, options.busy_deadline, seals, Commits::AtOnce);
    SqliteStore::prepare(pool, writer).await
}

/// Uses a pool of the caller's.
pub(super) async fn pool(options: &SqliteOptions, pool: SqlitePool) -> Result<SqliteStore, StoreError> {
    // A property of the file, which somebody may change later: then a commit can fail for want of a lock, and is
    // rolled back.
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&pool)
        .await
        .map_err(unavailable)?;
    let commits = match mode.as_str() {
        "wal" => Commits::AtOnce,
        _ => Commits::AfterReaders,
    };
    let writer = Writer::new(pool.clone(), options.busy_deadline, Seals::New, commits);
    SqliteStore::prepare(pool, writer).await
}
