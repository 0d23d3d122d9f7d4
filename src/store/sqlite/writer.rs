//! The one writer: a [queue](super::queue) in process, and the lock of the database among processes.
//!
//! # Cancellation
//!
//! A future of `sqlx` that is dropped leaves its statement running on the connection's own thread. Hence:
//! * a single statement commits or fails by itself there, whoever listens;
//! * a transaction that is dropped has its connection *closed*, which rolls it back. A connection with an
//!   open transaction, or one whose transaction SQLite ended by itself while `sqlx` still counts it, never
//!   gets back into the pool: only one that was committed or rolled back, with the answer seen, does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};
use sqlx::{Connection, Transaction};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::busy::{Patience, is_busy, unavailable};
use super::queue::{Queue, Rank};
use super::records::Change;
use super::seal::{Seal, Seals};
use crate::store::{StoreError, turn};

/// How many times the database's deadline a place in the queue is waited for: whoever stands in it sees others make
/// progress, each within the deadline.
const QUEUE_DEADLINES: u32 = 4;

/// How many connections of the user's are tried on which no transaction can be begun.
const UNUSABLE_CONNECTIONS: u32 = 4;

/// How a transaction is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commits {
    /// In WAL mode: no reader stands in the way.
    AtOnce,
    /// In any other: readers may have to go first, so a commit that finds the database busy is tried again.
    AfterReaders,
}

/// Gives out turns to write. Clones share the queue.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) pool: SqlitePool,
    queue: Arc<Queue>,
    deadline: Duration,
    seals: Seals,
    commits: Commits,
    #[cfg(test)]
    pub(super) faults: Arc<super::tests::Faults>,
}

impl Writer {
    pub(super) fn new(pool: SqlitePool, deadline: Duration, seals: Seals, commits: Commits) -> Self {
        Self {
            pool,
            queue: Arc::default(),
            deadline,
            seals,
            commits,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    /// How long is waited for a lock.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    /// Waits for this caller's turn, then for a connection. Who waits for a turn holds no connection. With a limit, the
    /// wait for the turn and the one for the database's lock together take no longer than that.
    pub(super) async fn turn(&self, rank: Rank, limit: Option<Duration>) -> Result<Turn, StoreError> {
        if turn::Turn::current() == Some(self.identity()) {
            return Err(turn::waits_for_itself());
        }
        let limit = limit.unwrap_or(Duration::MAX);
        let queueing = Patience::new(self.deadline.saturating_mul(QUEUE_DEADLINES).min(limit));
        let place = timeout(queueing.remaining(), self.identity().wait_for(self.queue.enter(rank)))
            .await
            .map_err(|_| queueing.exhausted())?;
        let left = limit.saturating_sub(queueing.waited());
        Ok(Turn {
            connection: Some(self.acquire().await?),
            patience: Patience::new(self.deadline.min(left)),
            _place: place,
        })
    }

    fn identity(&self) -> turn::Turn {
        turn::Turn::at(Arc::as_ptr(&self.queue))
    }

    /// Runs the work of whoever has the turn, so that its wish for another one is noticed.
    pub(super) fn within<W: Future>(&self, work: W) -> impl Future<Output = W::Output> + use<W> {
        self.identity().scope(work)
    }

    /// The seal of a connection that this writer has a turn with.
    pub(super) async fn seal(&self, connection: &mut SqliteConnection) -> sqlx::Result<Seal> {
        self.seals.of(connection).await
    }

    async fn acquire(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.pool.acquire().await.map_err(unavailable)
    }

    /// Makes one change in a transaction of its own; answers how many rows it changed.
    pub(super) async fn change(&self, change: Change) -> Result<u64, StoreError> {
        let rank = change.rank();
        if let Seals::New = self.seals {
            // Nobody knows whether the user left a transaction open there: then a statement would be part of it.
            let changed = self.transaction(rank, None, move |connection| {
                Box::pin(async move { Ok((End::Commit, change.make(connection).await.map_err(unavailable)?)) })
            });
            return match changed.await? {
                Ended::Committed(rows) | Ended::RolledBack(rows) => Ok(rows),
                Ended::Unknown(_, error) => Err(unavailable(error)),
            };
        }
        let mut turn = self.turn(rank, None).await?;
        loop {
            match change.make(turn.connection()).await {
                Ok(rows) => {
                    turn.give_back();
                    return Ok(rows);
                }
                Err(error) if is_busy(&error) => turn.patience.pause().await?,
                Err(error) => return Err(unavailable(error)),
            }
        }
    }
}

/// How the body of a transaction wants it to end.
pub(super) enum End {
    Commit,
    RollBack,
    /// The transaction isn't what it should be, and nothing was or is committed: close the connection.
    Close,
}

/// How a transaction ended.
#[must_use]
pub(super) enum Ended<R> {
    Committed(R),
    RolledBack(R),
    /// The commit failed. The connection is closed, for good: what a look-up finds from now on is final.
    Unknown(R, sqlx::Error),
}

/// The future of the body of a transaction.
pub(super) type Body<'t, R> = Pin<Box<dyn Future<Output = Result<(End, R), StoreError>> + Send + 't>>;

impl Writer {
    /// Runs a body between `BEGIN IMMEDIATE` and what it wants for an end. If the body fails, its
    /// transaction is rolled back.
    pub(super) async fn transaction<R>(
        &self,
        rank: Rank,
        limit: Option<Duration>,
        body: impl for<'t> FnOnce(&'t mut SqliteConnection) -> Body<'t, R> + Send,
    ) -> Result<Ended<R>, StoreError> {
        // Declared before the transaction, hence dropped after it: rolled back, then closed.
        let mut turn = self.turn(rank, limit).await?;
        let mut unusable = 0;
        let mut transaction = loop {
            let error = match turn.connection().begin_with("BEGIN IMMEDIATE").await {
                Ok(transaction) => break transaction,
                Err(error) => error,
            };
            if is_busy(&error) {
                turn.patience.pause().await?;
            } else if unusable < UNUSABLE_CONNECTIONS && matches!(self.seals, Seals::New) {
                // Most likely one of the user's on which a transaction was left open.
                unusable += 1;
                turn.close().await;
                turn.connection = Some(self.acquire().await?);
            } else {
                return Err(unavailable(error));
            }
        };
        let (end, answer) = match body(&mut transaction).await {
            Ok((end, value)) => (end, Ok(value)),
            Err(error) => (End::RollBack, Err(error)),
        };
        let (rolled_back, answer) = match (end, answer) {
            (End::Commit, Ok(value)) => {
                return Ok(match self.commit(transaction).await {
                    Ok(()) => {
                        turn.give_back_if_idle().await;
                        Ended::Committed(value)
                    }
                    Err(error) => {
                        turn.close().await;
                        Ended::Unknown(value, error)
                    }
                });
            }
            (End::Close, answer) => {
                drop(transaction);
                (false, answer)
            }
            (End::Commit | End::RollBack, answer) => (transaction.rollback().await.is_ok(), answer),
        };
        if rolled_back {
            turn.give_back_if_idle().await;
        } else {
            turn.close().await;
        }
        answer.map(Ended::RolledBack)
    }

    async fn commit(&self, mut transaction: Transaction<'_, Sqlite>) -> sqlx::Result<()> {
        let committed = match self.commits {
            Commits::AtOnce => transaction.commit().await,
            Commits::AfterReaders => {
                self.commit_patiently(&mut transaction).await?;
                // What `sqlx` counts as open is over. It needs one to end.
                sqlx::query("BEGIN").execute(&mut *transaction).await?;
                transaction.rollback().await
            }
        };
        #[cfg(test)]
        let committed = self.faults.after_commit(committed);
        committed
    }

    /// A transaction whose commit finds the database busy is still open, and can be committed later.
    async fn commit_patiently(&self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        let mut patience = Patience::new(self.deadline);
        loop {
            match sqlx::query("COMMIT").execute(&mut *connection).await {
                Ok(_) => return Ok(()),
                Err(error) if is_busy(&error) => patience.pause().await.map_err(|_| error)?,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The right to write, with a connection. Dropped before its end, the connection is closed.
pub(super) struct Turn {
    /// `None` once it was given back or closed.
    connection: Option<PoolConnection<Sqlite>>,
    patience: Patience,
    _place: OwnedMutexGuard<()>,
}

impl Turn {
    #[expect(
        clippy::expect_used,
        reason = "it is taken by whoever ends the turn, and then replaced or not asked for again"
    )]
    pub(super) fn connection(&mut self) -> &mut PoolConnection<Sqlite> {
        self.connection.as_mut().expect("the turn isn't over")
    }

    /// Gives the connection back to the pool.
    pub(super) fn give_back(&mut self) {
        self.connection = None;
    }

    /// Gives the connection back if it is in no transaction any more, and else closes it.
    async fn give_back_if_idle(&mut self) {
        if self.connection().is_in_transaction() {
            self.close().await;
        } else {
            self.give_back();
        }
    }

    /// Closes the connection and waits until it is closed.
    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Whether it says goodbye in good order is of no account: the thread behind it ends.
            let _ = connection.detach().close().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Not `close_on_drop`: that would spawn, and there may be no runtime any more.
            drop(connection.detach());
        }
    }
}
