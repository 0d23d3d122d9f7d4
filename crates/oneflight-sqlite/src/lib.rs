#![doc = include_str!("../README.md")]
//! # How it works
//!
//! SQLite has one writer at a time. Reads never wait for it (WAL), so every claim first *reads*: a replay, a conflict
//! and "in progress elsewhere" take no lock. Writers queue in process, first come first served. Then they begin with
//! `BEGIN IMMEDIATE`, so that a transaction never fails half-way for want of the lock. Other processes are waited for
//! with small, jittered pauses until a deadline.
//!
//! The time is the database's: `unixepoch('subsec')` in SQL, in milliseconds. All processes are on one machine, hence
//! on one clock. If the clock is set back, leases and retention last longer by as much. If it is set forward, what ends
//! within that time ends at once: a live holder whose lease is over may be taken over before it renews, as if it had
//! died.

#![deny(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqlitePool, SqliteRow, SqliteSynchronous};
use tokio::time::timeout;

use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Decision, DynStore, InDoubt, Store, StoreError, decide, report_unreadable,
};

mod busy;
mod ending;
mod file;
mod lent;
mod manager;
mod open;
mod queue;
mod records;
mod schema;
mod seal;
mod settings;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use busy::{Patience, is_busy, is_plain, unavailable};
use ending::Ended;
use lent::Lent;
use queue::Rank;
use records::{Change, Claims, Statement};
use writer::Writer;

/// The longest deadline: some 30 years, which can be added to any instant.
const LONGEST_DEADLINE: Duration = Duration::from_secs(1_000_000_000);

/// Keeps records in an SQLite database, over `sqlx` 0.9. Clones share it.
///
/// The tables are ours and begin with `oneflight_`. They are created and upgraded when the store is opened; any number
/// of processes may do so at once. A database that a newer version has upgraded is an error.
///
/// # Leases and transactions
///
/// What prolongs or ends a claim goes before all transactions that wait. So it waits for one at most: the one that
/// runs. A transaction that takes longer than a third of the [lease](oneflight::idempotency::IdempotencyBuilder::lease)
/// delays renewals, and one that takes longer than two thirds may cost a live holder its claim.
///
/// # Durability
///
/// A database made by [`open`](Self::open) is in WAL mode with `synchronous=FULL`: what was acknowledged survives a
/// power cut. `NORMAL` survives a crash of the process, but not a power cut: a claim or a record that was acknowledged
/// could be gone, and the mutation be done twice. With [`from_pool`](Self::from_pool), these settings are the pool's.
///
/// # One file
///
/// A store is about one file for as long as it lives. A change of the working directory does not lead it to another
/// file.
///
/// If the file is deleted, moved or replaced (which can be seen on Unix), or if a connection of the pool has another
/// one open, every operation fails with [`StoreError::Unavailable`], which names the file. When the file is back, the
/// store works again.
///
/// In WAL mode, a commit over several files is one commit for each of them, and a crash in between keeps a part. So
/// [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) is an error while another file is attached to its
/// connection, by the pool or by the work, and nothing is kept. (In another mode, look up in SQLite's documentation of
/// `ATTACH` what is one commit there.)
///
/// # Examples
///
/// Work on the store's own database, in one commit with its record:
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # std::env::set_current_dir(&folder)?;
/// use oneflight::{Idempotency, RequestIdentity, Rollback, Scope};
/// use oneflight_sqlite::SqliteStore;
///
/// let store = SqliteStore::open("orders.db").await?;
/// sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")
///     .execute(store.pool())
///     .await?;
/// let idem = Idempotency::builder(store.clone()).build();
///
/// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?;
/// for attempt in 0..3 {
///     let reply = idem
///         .run_in_tx(id.clone(), |mut tx| async move {
///             let done = sqlx::query("INSERT INTO orders (item) VALUES ('tea')")
///                 .execute(&mut *tx)
///                 .await?; // An error rolls back and frees the key.
///             if done.rows_affected() == 0 {
///                 return Err(Rollback::Declined(0)); // Rolls back and is remembered.
///             }
///             Ok(done.last_insert_rowid())
///         })
///         .await?;
///     assert_eq!((*reply, reply.is_cached()), (1, attempt > 0));
/// }
/// let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(store.pool()).await?;
/// assert_eq!(orders, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    pool: SqlitePool,
    writer: Writer,
}

/// How a [`SqliteStore`] is opened. Made by [`SqliteStore::options`].
#[derive(Clone, Debug)]
#[must_use = "options open nothing by themselves"]
pub struct SqliteOptions {
    max_readers: u32,
    busy_deadline: Duration,
    synchronous: SqliteSynchronous,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_readers: 8,
            busy_deadline: Duration::from_secs(30),
            synchronous: SqliteSynchronous::Full,
        }
    }
}

impl SqliteOptions {
    /// Limits the number of connections of [`SqliteStore::pool`], each a thread. The default is 8.
    ///
    /// The writer has a connection of its own. This does not apply to [`from_pool`](Self::from_pool).
    pub fn max_readers(mut self, connections: u32) -> Self {
        self.max_readers = connections.max(1);
        self
    }

    /// Limits the time for which an operation waits for others. The default is 30 s.
    ///
    /// An operation waits for a lock that other processes hold, and then fails with [`StoreError::Busy`]. It waits for
    /// a connection of the pool, and then fails with [`StoreError::NoConnection`]. The writers of this process queue
    /// before that, for up to four times as long. A call with a [patience](ClaimRequest::patience) of its own waits for
    /// all of them together no longer than that.
    pub fn busy_deadline(mut self, deadline: Duration) -> Self {
        self.busy_deadline = deadline.min(LONGEST_DEADLINE);
        self
    }

    /// Sets how much a commit waits for the disk. The default is `FULL`. This does not apply to
    /// [`from_pool`](Self::from_pool).
    pub fn synchronous(mut self, synchronous: SqliteSynchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Opens the database file, and creates or upgrades our tables.
    ///
    /// A file that is missing is created. If the tables are up to date, this waits for no writer.
    ///
    /// # Errors
    ///
    /// * The file cannot be opened.
    /// * [`StoreError::SchemaTooNew`] if a newer version of this crate wrote the database.
    /// * [`StoreError::Unsupported`] if the path is a URL (`sqlite:`, `file:`) or `:memory:`.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<SqliteStore, StoreError> {
        open::file(&self, path.as_ref()).await
    }

    /// Uses a pool of the caller's, and creates or upgrades our tables in its database.
    ///
    /// Work in [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) gets one of its connections.
    /// [`SqliteStore::from_pool`] says what the pool should be like.
    ///
    /// # Errors
    ///
    /// As for [`SqliteStore::from_pool`].
    pub async fn from_pool(self, pool: SqlitePool) -> Result<SqliteStore, StoreError> {
        open::pool(&self, pool).await
    }
}

impl SqliteStore {
    /// Opens the database file, and creates or upgrades our tables.
    ///
    /// A file that is missing is created. If the tables are up to date, this waits for no writer.
    ///
    /// # Errors
    ///
    /// * The file cannot be opened.
    /// * [`StoreError::SchemaTooNew`] if a newer version of this crate wrote the database.
    /// * [`StoreError::Unsupported`] if the path is a URL (`sqlite:`, `file:`) or `:memory:`.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::options().open(path).await
    }

    /// Uses a pool of the caller's, and creates or upgrades our tables in its database.
    ///
    /// The database should be in WAL mode. Otherwise reads wait for writers, and a commit waits for readers (it is
    /// tried again until the [deadline](SqliteOptions::busy_deadline)).
    ///
    /// The state in which a connection was left does not matter:
    ///
    /// * A connection on which a transaction was left open, or that may only read (`query_only`), is closed, and
    ///   another one is used.
    /// * In each transaction that writes, `synchronous`, `locking_mode` and `busy_timeout` are what they were on the
    ///   connection that the pool lent first.
    /// * Temporary tables do not take the place of ours.
    /// * What concerns your tables alone, such as `foreign_keys`, is as the connection has it.
    ///
    /// Three things are not compensated for, so leave none of them on connections of this pool: temporary *triggers* on
    /// our tables, which may undo what we write; `PRAGMA full_column_names`, with which our columns are not found; and
    /// a file that is attached to be read only, which counts as any other.
    ///
    /// A transaction that was left open *after it wrote* holds the one right to write, until the pool lends its
    /// connection and it is closed. Until then all writers wait, as for any other writer.
    ///
    /// A connection whose state is not known is closed rather than given back, and a database *in memory* would be gone
    /// with it: use [`MemoryStore`](oneflight::store::MemoryStore) to keep records in memory. A commit hook of yours on
    /// these connections is replaced by ours, which lets everything pass that is not done inside
    /// [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx).
    ///
    /// # Errors
    ///
    /// * The database cannot be reached.
    /// * [`StoreError::SchemaTooNew`] if a newer version of this crate wrote the database.
    /// * [`StoreError::Unsupported`] for a database in memory with more than one connection, and for one that cannot
    ///   roll back (`journal_mode=OFF`).
    pub async fn from_pool(pool: SqlitePool) -> Result<Self, StoreError> {
        Self::options().from_pool(pool).await
    }

    /// Returns options to open a store with.
    pub fn options() -> SqliteOptions {
        SqliteOptions::default()
    }

    /// Returns the pool, for the caller's own tables.
    ///
    /// For what must be committed with the record, use [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx).
    /// Do not write through the pool *while* inside it: SQLite has one writer, and that would wait for itself.
    #[must_use]
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Closes all connections, also those of a pool of the caller's. Every later operation of the store fails.
    pub async fn close(&self) {
        self.writer.close().await;
        self.pool.close().await;
    }

    /// Creates or upgrades the tables.
    async fn prepare(pool: SqlitePool, writer: Writer) -> Result<Self, StoreError> {
        let store = Self { pool, writer };
        schema::migrate(&store).await?;
        Ok(store)
    }

    /// Returns the rows that a statement reads, without the write lock.
    async fn fetch<'q>(
        &self,
        limit: Option<Duration>,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let read = self.try_fetch(limit, statement).await;
        read.map_err(|error| self.writer.file.named(error))
    }

    async fn try_fetch<'q>(
        &self,
        limit: Option<Duration>,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        self.writer.file.still_there()?;
        let deadline = self.writer.deadline();
        let mut patience = Patience::new(limit.map_or(deadline, |limit| limit.min(deadline)));
        let mut unusable = 0;
        loop {
            // Closed before pausing, unless it was given back.
            let error = {
                let mut connection = Lent::by(&self.pool, &patience).await?;
                match timeout(patience.for_an_errand(), statement().fetch_all(&mut *connection)).await {
                    Ok(Ok(rows)) => {
                        connection.give_back();
                        if let Some(row) = rows.first() {
                            self.writer.file.seen_in(row)?;
                        }
                        return Ok(rows);
                    }
                    Ok(Err(error)) => error,
                    Err(_) => return Err(patience.exhausted()),
                }
            };
            if is_busy(&error) {
                patience.pause().await?;
            } else if is_plain(&error) && unusable < self.pool.options().get_max_connections() {
                // Most likely one on which a transaction was left open.
                unusable += 1;
            } else {
                return Err(unavailable(error));
            }
        }
    }

    /// Reads the record, past its retention or not, without the write lock.
    async fn read(&self, id: &RequestIdentity, limit: Option<Duration>) -> Result<Option<Record>, StoreError> {
        let rows = self.fetch(limit, || records::select(id)).await?;
        rows.first().map_or(Ok(None), records::selected)
    }

    /// Returns the answer to a request, if it takes no write.
    async fn answer_from_read(&self, request: &ClaimRequest) -> Result<Option<ClaimOutcome>, StoreError> {
        match decide(self.read(&request.id, request.patience).await?, request) {
            Decision::Unchanged(outcome) => Ok(Some(outcome)),
            Decision::Grant { .. } => Ok(None),
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl From<SqliteStore> for DynStore {
    fn from(store: SqliteStore) -> Self {
        Self::new(store)
    }
}

impl Store for SqliteStore {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let asked = Instant::now();
        if let Some(answer) = self.answer_from_read(&request).await? {
            return Ok(answer);
        }
        let patience = request.patience.map(|it| it.saturating_sub(asked.elapsed()));
        let file = Arc::clone(&self.writer.file);
        let ended = self
            .writer
            .transaction(Rank::Business, patience, move |connection| {
                Box::pin(async move { records::claim(connection, &request, Claims::Outside, &file).await })
            })
            .await?;
        match ended {
            Ended::Committed(outcome) | Ended::RolledBack(outcome) => Ok(outcome),
            Ended::Unknown(_, error) => Err(self.writer.unavailable(error)),
        }
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        let id = id.clone();
        match self.writer.change(Change::Renew { id, token, lease }).await? {
            0 => Err(StoreError::Outdated { token }),
            _ => Ok(()),
        }
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        let id = id.clone();
        match self.writer.change(Change::EndLease { id, token, left }).await? {
            0 => Err(StoreError::Outdated { token }),
            _ => Ok(()),
        }
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        let (id, token) = (claim.id().clone(), claim.token());
        let change = Change::Complete {
            id,
            token,
            result,
            retention,
        };
        if self.writer.change(change).await? > 0 {
            return Ok(());
        }
        // Perhaps this store completed it, and the answer was lost.
        match self.read(claim.id(), None).await? {
            Some(record) if record.token == token && record.result().is_some() => Ok(()),
            _ => Err(StoreError::Outdated { token }),
        }
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        let (id, token) = (claim.id().clone(), claim.token());
        match self.writer.change(Change::Release { id, token }).await? {
            0 => Err(StoreError::Outdated { token }),
            _ => Ok(()),
        }
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        let record = self.read(id, None).await?;
        Ok(record.filter(|record| !record.is_past_retention()))
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let purged = self.writer.change(Change::Purge { limit }).await?;
        Ok(usize::try_from(purged).unwrap_or(usize::MAX))
    }

    async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        let mut after = after.map_or(0, records::number);
        let mut doubtful = Vec::new();
        while doubtful.len() < limit {
            let missing = limit - doubtful.len();
            let most = i64::try_from(missing).unwrap_or(i64::MAX);
            let rows = self.fetch(None, || records::in_doubt(most, after)).await?;
            let mut found = 0;
            for row in &rows {
                // Where nothing is found, one row tells of the connection alone.
                let Some(token) = records::token(row)? else { break };
                (found, after) = (found + 1, token);
                match records::doubtful(row) {
                    Ok(it) => doubtful.push(it),
                    Err(error) => report_unreadable(FencingToken::new(after.cast_unsigned()), &error),
                }
            }
            if found < missing {
                break;
            }
        }
        Ok(doubtful)
    }
}
