//! The one writer: a [queue](super::queue) in process, and the lock of the database among processes.
//!
//! # Cancellation
//!
//! A future of `sqlx` that is dropped leaves its statement running on the connection's own thread. Hence:
//!
//! * A single statement commits or fails by itself there, whether or not its answer is waited for.
//! * A transaction that is dropped has its connection *closed*, which rolls it back ([`lent`](super::lent)). A
//!   connection goes back into the pool only if its transaction was committed or rolled back, with the answer seen. One
//!   with an open transaction never does, nor one whose transaction SQLite ended by itself while `sqlx` still counts
//!   it.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::beside::{self, Beside};
use super::busy::{Patience, unavailable};
use super::ending::Commits;
use super::file::DatabaseFile;
use super::gathered::{Gathered, InUse};
use super::handed::Handed;
use super::lent::{Idle, Kept, Lent};
use super::queue::{Queue, Rank};
use super::settings::Settings;
use oneflight::store::{self, StoreError};

/// How many times the database's deadline a place in the queue is waited for: a writer in it sees others make progress,
/// each within the deadline.
const QUEUE_DEADLINES: u32 = 4;

/// Whose connections a writer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connections {
    /// One of a pool of its own, which is made with a [seal](super::seal).
    Own,
    /// Those of a pool of the user's, which do other things as well.
    Users,
}

/// A place in the queue: the head of it.
pub(super) type Place = OwnedMutexGuard<()>;

/// Gives out turns to write. Clones share the queue.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) pool: SqlitePool,
    /// The one connection of a pool of its own, between its uses.
    kept: Kept,
    /// The turn of work that holds the queue's place.
    turn: store::Turn,
    pub(super) queue: Arc<Queue>,
    /// What works leave for each other, if they are done on a user's pool and others write beside it.
    pub(super) handed: Handed,
    deadline: Duration,
    pub(super) connections: Connections,
    /// The user's pool, if this has a connection beside it.
    beside: Option<Beside>,
    pub(super) gathered: Arc<Gathered>,
    /// The thread that does what was gathered has none.
    pub(super) in_use: Option<Arc<InUse>>,
    pub(super) commits: Commits,
    pub(super) file: Arc<DatabaseFile>,
    pub(super) settings: Settings,
    /// Whether tables are locked one by one, and the lock of the records is to be had before the work runs.
    claims_first: bool,
    /// Whether work has had the connection, and may have changed its settings.
    is_changed: Arc<AtomicBool>,
    #[cfg(test)]
    pub(super) faults: Arc<super::faults::Faults>,
}

impl Writer {
    pub(super) fn new(
        pool: SqlitePool,
        deadline: Duration,
        connections: Connections,
        commits: Commits,
        file: DatabaseFile,
        settings: Settings,
    ) -> Self {
        let gathered = Arc::default();
        Self {
            pool,
            kept: Kept::default(),
            turn: store::Turn::new(),
            queue: Arc::default(),
            handed: Handed::default(),
            deadline,
            connections,
            beside: None,
            in_use: Some(Arc::new(InUse(Arc::clone(&gathered)))),
            gathered,
            commits,
            file: Arc::new(file),
            settings,
            claims_first: false,
            is_changed: Arc::default(),
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    /// Has what has no record claimed before its work all the same.
    pub(super) fn claiming_first(mut self) -> Self {
        self.claims_first = true;
        self
    }

    /// Returns whether the transaction of what has no record is begun without a claim: once begun, it can be committed.
    pub(super) fn begins_at_once(&self) -> bool {
        self.commits == Commits::AtOnce && !self.claims_first
    }

    /// Has the writer, whose connections are its own, write beside a pool of the user's, on this one first.
    pub(super) fn beside(mut self, beside: Beside, connection: Lent) -> Self {
        self.beside = Some(beside);
        // Also if nothing is ever written.
        self.is_to_write();
        self.kept.keep(connection);
        self.is_changed.store(true, Ordering::SeqCst);
        self
    }

    /// Returns the same writer, with the same queue, on connections of the user's pool, for which these settings are.
    pub(super) fn on(&self, pool: SqlitePool, settings: Settings) -> Self {
        Self {
            pool,
            settings,
            kept: Kept::default(),
            connections: Connections::Users,
            // What work sets there does not concern the connection of this one.
            is_changed: Arc::default(),
            ..self.clone()
        }
    }

    /// Returns how long a lock is waited for.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) async fn close(&self) {
        beside::close(Some(&self.kept), &self.pool, &self.gathered).await;
    }

    /// Waits for this caller's turn, then for a connection. A caller that waits for a turn holds no connection. The
    /// limit, if any, is for all waits together: for the turn, for a connection and for the database's lock.
    pub(super) async fn turn(&self, rank: Rank, limit: Option<Duration>) -> Result<Turn, StoreError> {
        if rank == Rank::Work {
            // Boxed, so that the futures of a user's handler are nested no deeper.
            return Box::pin(self.turn_of_work(limit)).await;
        }
        let queueing = self.queueing(limit);
        let place = timeout(queueing.remaining(), self.wait_for(self.enter(rank)))
            .await
            .map_err(|_| queueing.exhausted())??;
        let patience = self.patience(limit, queueing.waited());
        self.file.still_there()?;
        let connection = self.lend(&patience).await?;
        Ok(self.turn_on(connection, place, patience))
    }

    /// Returns the rank of a transaction of work. Where others write without a connection of the pool, the pool is not to be
    /// waited for in their turn.
    pub(super) fn rank_of_work(&self) -> Rank {
        match (self.connections, &self.beside) {
            (Connections::Users, Some(_)) => Rank::Work,
            (Connections::Own, _) | (Connections::Users, None) => Rank::Business,
        }
    }

    /// How long a turn is waited for.
    pub(super) fn queueing(&self, limit: Option<Duration>) -> Patience {
        let queueing = self.deadline.saturating_mul(QUEUE_DEADLINES);
        Patience::new(queueing.min(limit.unwrap_or(Duration::MAX)))
    }

    /// How long a connection and a lock are waited for in a turn, by a caller that has waited before.
    pub(super) fn patience(&self, limit: Option<Duration>, waited: Duration) -> Patience {
        let left = limit.unwrap_or(Duration::MAX).saturating_sub(waited);
        Patience::new(self.deadline.min(left))
    }

    /// Waits for a place in the queue. At its gate, this sees to it that what has the turn now goes on, if it can.
    pub(super) async fn enter(&self, rank: Rank) -> Place {
        // Boxed, so that the futures of a user's handler are nested no deeper.
        Box::pin(self.queue.enter(rank, || self.gathered.see_to_it())).await
    }

    /// Returns whether the connection is to be used. One beside a pool of the user's ends with it.
    fn is_to_write(&self) -> bool {
        let is_open = |beside: &Beside| beside.is_open(&self.kept, &self.pool, &self.gathered);
        self.beside.as_ref().is_none_or(is_open)
    }

    /// Waits for the connection of a turn.
    pub(super) async fn lend(&self, patience: &Patience) -> Result<Lent, StoreError> {
        let lent = match self.connections {
            Connections::Own if !self.is_to_write() => {
                // From here on none is made in its place.
                drop(self.pool.close());
                if let Some(mut connection) = self.kept.close() {
                    connection.close().await;
                }
                Err(StoreError::NoConnection)
            }
            Connections::Own => match self.kept.take() {
                Some(kept) => Ok(kept),
                None => {
                    if let Some(beside) = &self.beside {
                        beside.follow(&self.pool, &self.file);
                        self.is_changed.store(true, Ordering::SeqCst);
                    }
                    self.kept.by(&self.pool, patience).await
                }
            },
            Connections::Users => Lent::by(&self.pool, patience).await,
        };
        Ok(self.lent(lent?).await)
    }

    /// Returns the connection of a turn as a test wants it.
    #[cfg_attr(not(test), expect(clippy::unused_async, reason = "outside of tests it is as it is"))]
    pub(super) async fn lent(&self, lent: Lent) -> Lent {
        #[cfg(test)]
        let lent = {
            let mut lent = lent;
            self.faults.limit(&mut lent).await;
            lent
        };
        lent
    }

    /// Takes the connection of a turn, if it can be had at once.
    pub(super) fn lend_at_once(&self) -> Option<Lent> {
        match self.connections {
            Connections::Own if self.is_to_write() => self.kept.take(),
            // What closes it waits for that.
            Connections::Own | Connections::Users => None,
        }
    }

    /// Returns the turn of a place in the queue.
    pub(super) fn turn_on(&self, connection: Lent, place: Place, patience: Patience) -> Turn {
        Turn {
            connection,
            is_known: false,
            patience,
            place: Some(place),
        }
    }

    /// Runs work that has the turn, so that its wish for another one is noticed.
    pub(super) fn within<W: Future>(&self, work: W) -> impl Future<Output = W::Output> + use<W> {
        self.is_changed.store(true, Ordering::SeqCst);
        self.turn.scope(work)
    }

    /// Waits for what the caller's turn comes with, unless the caller is work that has the turn itself.
    pub(super) async fn wait_for<Q: Future>(&self, queue: Q) -> Result<Q::Output, StoreError> {
        self.turn.wait_for(queue).await
    }

    /// Makes the error that the user of the store gets for an error on a connection.
    pub(super) fn unavailable(&self, error: sqlx::Error) -> StoreError {
        self.file.named(unavailable(error))
    }

    /// Sets the connection of a turn if its settings may have been changed.
    pub(super) async fn set_if_changed(&self, turn: &mut Turn) {
        if self.is_changed.swap(false, Ordering::SeqCst) && self.settings.set(turn).await.is_err() {
            self.is_changed.store(true, Ordering::SeqCst);
        }
    }

    /// Pauses while another connection has the database's lock. If that takes long, it may be one of the user's pool on
    /// which something was left.
    pub(super) async fn pause(&self, patience: &mut Patience) -> Result<(), StoreError> {
        patience.pause().await?;
        if let Some(beside) = &self.beside
            && patience.is_time_to_look()
        {
            beside.look_for_what_was_left(patience).await;
        }
        Ok(())
    }

    /// Closes the connection of a turn in which nothing is begun, and waits for another. The pool of the user's is not waited for
    /// in the turn of others: it is given up, and another one had.
    pub(super) async fn replace(&self, turn: &mut Turn) -> Result<(), StoreError> {
        turn.connection.close().await;
        turn.is_known = false;
        if self.rank_of_work() != Rank::Work {
            turn.connection = self.lend(&turn.patience).await?;
        } else if let Idle::Lent(connection) = self.lend_idle().await {
            turn.connection = connection;
        } else {
            drop(turn.place.take());
            *turn = self.turn(Rank::Work, Some(turn.patience.remaining())).await?;
        }
        Ok(())
    }
}

/// The right to write, with a connection. It derefs to the connection.
pub(super) struct Turn {
    pub(super) connection: Lent,
    /// Whether it was seen that the connection has the store's file, and no other.
    pub(super) is_known: bool,
    pub(super) patience: Patience,
    /// `None` while the turn is given up for another one.
    place: Option<Place>,
}

impl Deref for Turn {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}
