//! A connection of the pool's for one errand.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::Connection;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgRow, Postgres};
use tokio::time::{Instant, timeout};

use super::call::Message;
use super::errors::{is_rejected, late, not_lent};

/// A connection of the pool's. If it is dropped before it is given back, it is closed. It may be in a transaction
/// still, and `sqlx` does not know of one whose beginning was cut short; or it may wait for an answer that does not
/// come.
pub(super) struct Borrowed(Option<PoolConnection<Postgres>>);

impl Borrowed {
    /// Waits for a connection no longer than this, nor than the pool does.
    pub(super) async fn within(limit: Duration, pool: &PgPool) -> sqlx::Result<Self> {
        Self::lent(limit, pool, pool.acquire()).await
    }

    /// Waits no longer than this for a connection to be lent.
    pub(super) async fn lent(
        limit: Duration,
        pool: &PgPool,
        lending: impl Future<Output = sqlx::Result<PoolConnection<Postgres>>>,
    ) -> sqlx::Result<Self> {
        match timeout(limit, lending).await {
            Ok(Ok(lent)) => Ok(Self(Some(lent))),
            Ok(Err(error)) if !matches!(error, sqlx::Error::PoolTimedOut) => Err(error),
            Ok(Err(_)) | Err(_) => Err(not_lent(pool)),
        }
    }

    /// Asks, and closes the connection if it has not answered in time: in the pool it would be waited for once more. If it
    /// answers with an error it is closed as well, since the error may come from the state that it was left in.
    ///
    /// The server tells of an error before it lets go of what the transaction has locked. It is ready for another question after that,
    /// and this returns by then.
    pub(super) async fn ask(self, limit: Duration, message: Message) -> sqlx::Result<Vec<PgRow>> {
        let (rows, answered) = self.ask_and_keep(limit, message).await?;
        answered.give_back();
        Ok(rows)
    }

    /// The same, and keeps a connection that has answered.
    pub(super) async fn ask_and_keep(mut self, limit: Duration, message: Message) -> sqlx::Result<(Vec<PgRow>, Self)> {
        let until = Instant::now().checked_add(limit);
        let answered = timeout(limit, message.put_to(&mut self)).await.map_err(|_| late())?;
        match answered {
            Ok(rows) => Ok((rows, self)),
            Err(error) => {
                if is_rejected(&error) {
                    let left = until.map_or(limit, |until| until.saturating_duration_since(Instant::now()));
                    let _ = timeout(left, self.ping()).await;
                }
                Err(error)
            }
        }
    }

    pub(super) fn give_back(mut self) {
        self.0 = None;
    }
}

#[expect(clippy::expect_used, reason = "it is taken only by what takes the whole of this")]
impl Deref for Borrowed {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("it was not given back")
    }
}

#[expect(clippy::expect_used, reason = "it is taken only by what takes the whole of this")]
impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("it was not given back")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            // Not `close_on_drop`: that would spawn, and there may be no runtime any more.
            drop(connection.detach());
        }
    }
}
