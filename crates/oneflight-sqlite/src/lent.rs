//! A connection that a pool lends, and that goes back only if its state is known.
//!
//! The user has the pool as well, so a connection comes in whatever state it was left in. And a future of `sqlx` that
//! is dropped leaves its statement running on the connection's own thread. So a connection is closed unless it is given
//! back, which rolls back whatever is open. It is given back only when the answer was seen that nothing is open on it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::Connection;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::busy::{Patience, unavailable};
use oneflight::store::StoreError;

/// How long a turn lasts without the connection that it is for. All that write wait along. A pool tries what lies idle, which is an
/// errand, and may call a hook of the user's; and others may be first.
const IN_A_TURN: Duration = Duration::from_millis(5);

pub(super) struct Lent {
    /// `None` once it was given back or closed.
    connection: Option<PoolConnection<Sqlite>>,
    /// Where it is kept when it is given back, if not in its pool.
    kept: Option<Kept>,
    /// The runtime in which it was lent, if its pool replaces what is taken out of it, for which it begins a task.
    runtime: Option<Handle>,
}

impl Lent {
    fn of(pool: &SqlitePool, connection: PoolConnection<Sqlite>) -> Self {
        let replaces = pool.options().get_min_connections() > 0;
        Self {
            connection: Some(connection),
            kept: None,
            runtime: replaces.then(Handle::try_current).and_then(Result::ok),
        }
    }

    /// Waits for a connection.
    pub(super) async fn by(pool: &SqlitePool, patience: &Patience) -> Result<Self, StoreError> {
        // Boxed: the compiler limits how deep the futures of a user's handler are nested, and those of a pool are deep.
        let lent = timeout(patience.for_an_errand(), Box::pin(pool.acquire())).await;
        let connection = lent.map_err(|_| StoreError::NoConnection)?.map_err(unavailable)?;
        Ok(Self::of(pool, connection))
    }

    /// Takes a connection that lies idle in a pool, tried and with the pool's hooks, if there is one. It is hardly waited for.
    pub(super) async fn idle(pool: &SqlitePool) -> Idle {
        if pool.num_idle() == 0 {
            return Idle::No;
        }
        let mut asked = Asked {
            acquires: Some(Box::pin(pool.acquire())),
            pool: pool.clone(),
        };
        match timeout(IN_A_TURN, asked.lent()).await {
            Ok(Ok(lent)) => Idle::Lent(lent),
            Ok(Err(_)) => Idle::No,
            Err(_) => Idle::Asked(asked),
        }
    }

    /// Takes a connection that lies idle in a pool, untried, if there is one.
    pub(super) fn at_once(pool: &SqlitePool) -> Option<Self> {
        Some(Self::of(pool, pool.try_acquire()?))
    }

    /// Gives the connection back to the pool, or to where it is kept.
    pub(super) fn give_back(&mut self) {
        match (self.connection.take(), &self.kept) {
            (Some(connection), Some(kept)) => kept.put(connection),
            (connection, _) => drop(connection),
        }
    }

    /// Moves the connection out, as it is.
    pub(super) fn take(&mut self) -> Self {
        Self {
            connection: self.connection.take(),
            kept: self.kept.take(),
            runtime: self.runtime.take(),
        }
    }

    /// Closes the connection and waits until it is closed.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // It does not matter whether it ends in good order: the thread behind it ends.
            let _ = connection.detach().close().await;
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "it is taken when it is given back or closed, and not asked for after that"
)]
impl Deref for Lent {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.connection.as_ref().expect("it is still lent")
    }
}

#[expect(
    clippy::expect_used,
    reason = "it is taken when it is given back or closed, and not asked for after that"
)]
impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("it is still lent")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Not `close_on_drop`: that would spawn, and there may be no runtime any more. This spawns only what may be lost with
            // a runtime, but needs one for it.
            let is_outside = Handle::try_current().is_err();
            let _within = self.runtime.as_ref().filter(|_| is_outside).map(Handle::enter);
            drop(connection.detach());
        }
    }
}

/// What becomes of a look for a connection that lies idle.
pub(super) enum Idle {
    Lent(Lent),
    /// The pool is about to lend one.
    Asked(Asked),
    No,
}

/// A connection that a pool was asked for. A pool closes what it is about to lend if that is not waited for any more. So a task waits
/// for what is dropped here, and gives it back.
pub(super) struct Asked {
    /// `None` once it has an answer.
    acquires: Option<BoxFuture<'static, sqlx::Result<PoolConnection<Sqlite>>>>,
    pool: SqlitePool,
}

impl Asked {
    /// Waits for the connection.
    pub(super) async fn by(mut self, patience: &Patience) -> Result<Lent, StoreError> {
        let lent = timeout(patience.for_an_errand(), self.lent()).await;
        lent.map_err(|_| StoreError::NoConnection)?.map_err(unavailable)
    }

    async fn lent(&mut self) -> sqlx::Result<Lent> {
        let lent = match &mut self.acquires {
            Some(acquires) => acquires.await,
            None => Err(sqlx::Error::PoolTimedOut),
        };
        self.acquires = None;
        Ok(Lent::of(&self.pool, lent?))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let (Some(acquires), Ok(runtime)) = (self.acquires.take(), Handle::try_current()) {
            runtime.spawn(acquires.map(drop));
        }
    }
}

/// Keeps the one connection of a pool between its uses. A pool would have it brought back by a task, for which the next
/// use would wait. Clones are the same place.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Place>>);

/// The same place, for as long as something else keeps it.
pub(super) struct WeakKept(Weak<Mutex<Place>>);

impl WeakKept {
    pub(super) fn upgrade(&self) -> Option<Kept> {
        self.0.upgrade().map(Kept)
    }
}

#[derive(Default)]
struct Place {
    connection: Option<PoolConnection<Sqlite>>,
    is_closed: bool,
}

impl Kept {
    pub(super) fn downgrade(&self) -> WeakKept {
        WeakKept(Arc::downgrade(&self.0))
    }

    /// Takes the connection at once, if it is here.
    pub(super) fn take(&self) -> Option<Lent> {
        let connection = self.0.lock().connection.take()?;
        Some(Lent {
            connection: Some(connection),
            kept: Some(self.clone()),
            // A pool of the store's own, which replaces nothing.
            runtime: None,
        })
    }

    /// Waits for a connection of the pool, which is kept here from then on.
    pub(super) async fn by(&self, pool: &SqlitePool, patience: &Patience) -> Result<Lent, StoreError> {
        let mut lent = Lent::by(pool, patience).await?;
        lent.kept = Some(self.clone());
        Ok(lent)
    }

    /// Keeps a connection that its pool has lent.
    pub(super) fn keep(&self, mut lent: Lent) {
        lent.kept = Some(self.clone());
        lent.give_back();
    }

    /// Keeps nothing from now on. Returns what was kept.
    pub(super) fn close(&self) -> Option<Lent> {
        self.0.lock().is_closed = true;
        self.take()
    }

    fn put(&self, connection: PoolConnection<Sqlite>) {
        let mut place = self.0.lock();
        if place.is_closed {
            drop(place);
            // The pool closes it.
            drop(connection);
        } else {
            place.connection = Some(connection);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // There may be no runtime any more, which its pool would need.
            drop(connection.detach());
        }
    }
}
