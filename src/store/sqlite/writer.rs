//! The one writer: a queue in process, and the lock of the database among processes.
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
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::busy::{Patience, is_busy, unavailable};
use super::records::Statement;
use crate::store::StoreError;

/// How many times the database's deadline a place in the queue is waited for: whoever stands in it sees others make
/// progress, each within the deadline.
const QUEUE_DEADLINES: u32 = 4;

tokio::task_local! {
    /// The address of the queue in which the work that is being polled has its turn.
    static TURN_IN: usize;
}

/// Gives out turns to write. Clones share the queue.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) pool: SqlitePool,
    /// Fair: tokio's mutex is first come, first served.
    queue: Arc<Mutex<()>>,
    deadline: Duration,
    #[cfg(test)]
    pub(super) faults: Arc<super::tests::Faults>,
}

impl Writer {
    pub(super) fn new(pool: SqlitePool, deadline: Duration) -> Self {
        Self {
            pool,
            queue: Arc::default(),
            deadline,
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

    /// Waits for this caller's turn, then for a connection. Who waits for a turn holds no connection.
    pub(super) async fn turn(&self) -> Result<Turn, StoreError> {
        if TURN_IN.try_with(|queue| *queue == self.address()).unwrap_or(false) {
            return Err(StoreError::Unsupported {
                advice: "work in a transaction called the store that the transaction belongs to, and would wait for \
                         itself; make the call before or after",
            });
        }
        let queueing = Patience::new(self.deadline.saturating_mul(QUEUE_DEADLINES));
        let place = timeout(queueing.remaining(), Arc::clone(&self.queue).lock_owned())
            .await
            .map_err(|_| queueing.exhausted())?;
        Ok(Turn {
            connection: Some(self.acquire().await?),
            patience: Patience::new(self.deadline),
            _place: place,
        })
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.queue).addr()
    }

    /// Runs the work of whoever has the turn, so that its wish for another one is noticed.
    pub(super) fn within<W: Future>(&self, work: W) -> impl Future<Output = W::Output> + use<W> {
        TURN_IN.scope(self.address(), work)
    }

    async fn acquire(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.pool.acquire().await.map_err(unavailable)
    }

    /// Runs one statement in a transaction of its own; answers how many rows it changed.
    pub(super) async fn execute<'q>(&self, statement: impl Fn() -> Statement<'q>) -> Result<u64, StoreError> {
        let mut turn = self.turn().await?;
        loop {
            match statement().execute(&mut **turn.connection()).await {
                Ok(done) => {
                    turn.give_back();
                    return Ok(done.rows_affected());
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
    /// The transaction isn't what it should be: close the connection.
    Abandon(sqlx::Error),
}

/// How a transaction ended.
#[must_use]
pub(super) enum Ended<R> {
    Committed(R),
    RolledBack(R),
    /// The commit failed, or the transaction was abandoned. The connection is closed, for good: what a
    /// look-up finds from now on is final.
    Unknown(R, sqlx::Error),
}

/// The future of the body of a transaction.
pub(super) type Body<'t, R> = Pin<Box<dyn Future<Output = Result<(End, R), StoreError>> + Send + 't>>;

impl Writer {
    /// Runs a body between `BEGIN IMMEDIATE` and what it wants for an end. If the body fails, its
    /// transaction is rolled back.
    pub(super) async fn transaction<R>(
        &self,
        body: impl for<'t> FnOnce(&'t mut SqliteConnection) -> Body<'t, R> + Send,
    ) -> Result<Ended<R>, StoreError> {
        let mut turn = self.turn().await?;
        // Declared after the turn, hence dropped before it: rolled back, then closed.
        let mut transaction = loop {
            let error = match turn.connection().begin_with("BEGIN IMMEDIATE").await {
                Ok(transaction) => break transaction,
                Err(error) => error,
            };
            if is_busy(&error) {
                turn.patience.pause().await?;
            } else if let sqlx::Error::InvalidSavePointStatement = error {
                // A connection of the user's pool on which a transaction was left open.
                turn.close().await;
                turn.connection = Some(self.acquire().await?);
            } else {
                return Err(unavailable(error));
            }
        };
        match body(&mut transaction).await {
            Ok((End::Commit, value)) => match self.commit(transaction).await {
                Ok(()) => {
                    turn.give_back();
                    Ok(Ended::Committed(value))
                }
                Err(error) => {
                    turn.close().await;
                    Ok(Ended::Unknown(value, error))
                }
            },
            Ok((End::RollBack, value)) => {
                let rolled_back = transaction.rollback().await;
                turn.end(rolled_back).await;
                Ok(Ended::RolledBack(value))
            }
            Ok((End::Abandon(error), value)) => {
                drop(transaction);
                turn.close().await;
                Ok(Ended::Unknown(value, error))
            }
            Err(error) => {
                let rolled_back = transaction.rollback().await;
                turn.end(rolled_back).await;
                Err(error)
            }
        }
    }

    async fn commit(&self, transaction: Transaction<'_, Sqlite>) -> sqlx::Result<()> {
        let committed = transaction.commit().await;
        #[cfg(test)]
        let committed = self.faults.after_commit(committed);
        committed
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

    /// Gives the connection back if its transaction was ended in good order, and else closes it.
    async fn end(&mut self, ended: sqlx::Result<()>) {
        match ended {
            Ok(()) => self.give_back(),
            Err(_) => self.close().await,
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
