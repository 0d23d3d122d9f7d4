//! The store, as the contract asks for it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqlitePool, SqliteRow};
use tokio::time::timeout;

use super::busy::{Patience, is_busy, is_plain, unavailable};
use super::change::Change;
use super::claims::{self, Claims};
use super::ending::Ended;
use super::file::Databases;
use super::guess::Guess;
use super::lent::Lent;
use super::queue::Rank;
use super::records::{self, Statement};
use super::renewals::Renewing;
use super::writer::Writer;
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::outbox::Bell;
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Decision, DynStore, InDoubt, Renewals, Store, StoreError, decide,
    report_unreadable,
};

/// Keeps records in an SQLite database, over `sqlx` 0.9. Clones share it.
///
/// The tables are ours and begin with `oneflight_`. They are created and upgraded when the store is opened; any number
/// of processes may do so at once. A database that a newer version has upgraded is opened as well, unless it says that this
/// version does not work with it any more.
///
/// # Leases and transactions
///
/// What prolongs or ends a claim goes before all transactions that wait. So it waits for one at most: the one that
/// runs. A transaction that takes longer than a third of the [lease](oneflight::idempotency::IdempotencyBuilder::lease)
/// delays renewals, and one that takes longer than two thirds, less the time that renewals wait for one another, may cost a live
/// holder its claim.
///
/// Renewals wait for one another for up to a sixteenth of a third of the lease, and 2 s at most. So a process takes some 16
/// transactions in a third of a lease to renew 16,000 of one length. A renewal that comes alone is made at once.
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
    pub(super) pool: SqlitePool,
    pub(super) writer: Arc<Writer>,
    /// The same, for transactions of work: on connections of the pool, if it is the user's.
    pub(super) works: Arc<Writer>,
    pub(super) guess: Arc<Guess>,
    pub(super) bell: Bell,
    pub(super) renewals: Renewals<Renewing>,
}

impl SqliteStore {
    /// Returns the pool, for the caller's own tables.
    ///
    /// For what must be committed with the record, use [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx).
    /// Do not write through the pool *while* inside it: SQLite has one writer, and that would wait for itself.
    #[must_use]
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Closes all connections, also those of a pool of the caller's, and waits until they are closed. Every later operation of the
    /// store fails.
    ///
    /// The last connection of all processes to the file moves into it what is in its log (`-wal`), and deletes that. Do not copy or replace
    /// the file before this has returned.
    pub async fn close(&self) {
        self.writer.close().await;
        self.pool.close().await;
    }

    /// Returns the rows that a statement reads, without the write lock.
    pub(super) async fn fetch<'q>(
        &self,
        limit: Option<Duration>,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let (rows, mut connection) = self.fetch_and_keep(limit, statement).await?;
        connection.give_back();
        Ok(rows)
    }

    /// Returns the connection along with the rows, in no transaction.
    async fn fetch_and_keep<'q>(
        &self,
        limit: Option<Duration>,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<(Vec<SqliteRow>, Lent), StoreError> {
        let read = self.try_fetch(limit, statement).await;
        read.map_err(|error| self.writer.file.named(error))
    }

    async fn try_fetch<'q>(
        &self,
        limit: Option<Duration>,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<(Vec<SqliteRow>, Lent), StoreError> {
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
                        let seen = rows.first().map(|row| self.writer.file.seen_in(row));
                        if let Some(Err(error)) = seen {
                            connection.give_back();
                            return Err(error);
                        }
                        return Ok((rows, connection));
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

    /// Reads the record, past its retention or not, without the write lock.
    pub(super) async fn look_first(&self, request: &ClaimRequest) -> Result<Looked, StoreError> {
        let select = || records::select(&request.id);
        let (rows, mut connection) = self.fetch_and_keep(request.patience, select).await?;
        let seen = records::only(&rows).and_then(|row| Ok((records::selected(row)?, self.writer.file.seen_in(row)?)));
        match seen {
            Ok((record, databases)) => Ok(Looked {
                record,
                connection,
                databases,
            }),
            Err(error) => {
                connection.give_back();
                Err(error)
            }
        }
    }

    /// Returns the answer to a request, if it takes no write.
    pub(super) async fn answer_from_read(&self, request: &ClaimRequest) -> Result<Option<ClaimOutcome>, StoreError> {
        match decide(self.read(&request.id, request.patience).await?, request) {
            Decision::Unchanged(outcome) => Ok(Some(outcome)),
            Decision::Grant { .. } => Ok(None),
        }
    }
}

/// What was seen in a look at a record.
pub(super) struct Looked {
    pub(super) record: Option<Record>,
    /// In no transaction.
    pub(super) connection: Lent,
    /// Those of the connection.
    pub(super) databases: Databases,
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
        let left = |patience: Option<Duration>| patience.map(|it| it.saturating_sub(asked.elapsed()));
        let record = self.read(&request.id, request.patience).await?;
        let is_new = record.is_none();
        if let Decision::Unchanged(answer) = decide(record, &request) {
            return Ok(answer);
        }
        if is_new && let Some(token) = self.writer.claim_new(&request, left(request.patience)).await? {
            return Ok(ClaimOutcome::Granted(Claim::new(request.id, token, 1, None)));
        }
        let patience = left(request.patience);
        let file = Arc::clone(&self.writer.file);
        let ended = self
            .writer
            .transaction(Rank::Business, patience, move |connection| {
                Box::pin(async move { claims::claim(connection, &request, Claims::Outside, &file).await })
            })
            .await?;
        match ended {
            Ended::Committed(outcome) | Ended::RolledBack(outcome) => Ok(outcome),
            Ended::Unknown(_, error) => Err(self.writer.unavailable(error)),
        }
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.writer.wait_for(self.renewals.renew(id, token, lease)).await?
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
        self.keep_house_if_used().await?;
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
