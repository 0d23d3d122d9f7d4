//! A connection that a pool lends, and that goes back only if its state is known.
//!
//! The user has the pool as well, so a connection comes in whatever state it was left in. And a future of `sqlx` that
//! is dropped leaves its statement running on the connection's own thread. So a connection is closed unless it is given
//! back, which rolls back whatever is open. It is given back only when the answer was seen that nothing is open on it.

use std::ops::{Deref, DerefMut};

use sqlx::Connection;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};
use tokio::time::timeout;

use super::busy::{Patience, unavailable};
use oneflight::store::StoreError;

pub(super) struct Lent {
    /// `None` once it was given back or closed.
    connection: Option<PoolConnection<Sqlite>>,
}

impl Lent {
    /// Waits for a connection.
    pub(super) async fn by(pool: &SqlitePool, patience: &Patience) -> Result<Self, StoreError> {
        let lent = timeout(patience.for_an_errand(), pool.acquire()).await;
        let connection = lent.map_err(|_| StoreError::NoConnection)?.map_err(unavailable)?;
        Ok(Self {
            connection: Some(connection),
        })
    }

    /// Gives the connection back to the pool.
    pub(super) fn give_back(&mut self) {
        self.connection = None;
    }

    /// Gives the connection back if it is in no transaction any more, as far as `sqlx` counts, and closes it otherwise.
    pub(super) async fn give_back_if_idle(&mut self) {
        if self.is_in_transaction() {
            self.close().await;
        } else {
            self.give_back();
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
            // Not `close_on_drop`: that would spawn, and there may be no runtime any more.
            drop(connection.detach());
        }
    }
}
