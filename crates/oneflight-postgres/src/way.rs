//! The way to the server: a connection for each errand, and what is asked on it.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgRow, Postgres};
use tokio::time::Instant;

use super::borrowed::Borrowed;
use super::call::{Calls, Message, Value};
use super::reserve::Reserve;
use super::retry::{Tries, tried_within};
use oneflight::store::StoreError;

/// The shortest time for which the answer to a statement is waited for.
pub(super) const SHORTEST_WAIT: Duration = Duration::from_millis(250);

/// The way of one store. Clones share it.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) pool: PgPool,
    pub(super) reserve: Reserve,
    prepares: bool,
}

impl Way {
    pub(super) fn new(pool: PgPool, patience: Duration, prepares: bool) -> Self {
        let reserve = Reserve::new(patience);
        Self {
            pool,
            reserve,
            prepares,
        }
    }

    /// A call of a procedure of ours.
    pub(super) fn message(&self, calls: &Calls, values: &[Value<'_>]) -> Message {
        calls.message(self.prepares, values)
    }

    /// Calls a procedure of ours for a holder. See [`retry`](super::retry) for when it is called again.
    pub(super) async fn call_as_holder(
        &self,
        limit: Duration,
        calls: &Calls,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>, StoreError> {
        self.call_with(limit, || self.message(calls, values)).await
    }

    /// The same with a message that is written when it is put.
    pub(super) async fn call_with(
        &self,
        limit: Duration,
        message: impl Fn() -> Message,
    ) -> Result<Vec<PgRow>, StoreError> {
        tried_within(limit, Tries::on(&self.pool), |left| {
            self.ask_on(self.reserve.lend(left, &self.pool), left, &message)
        })
        .await
    }

    /// Returns what the server answers within this time, which is also that of getting a connection of the pool.
    pub(super) async fn ask(&self, limit: Duration, message: Message) -> sqlx::Result<Vec<PgRow>> {
        self.ask_on(self.pool.acquire(), limit, || message).await
    }

    /// The same for a holder, however long others keep the pool's connections.
    pub(super) async fn ask_within(&self, limit: Duration, message: Message) -> sqlx::Result<Vec<PgRow>> {
        self.ask_on(self.reserve.lend(limit, &self.pool), limit, || message)
            .await
    }

    /// Asks on a connection, once it is lent.
    async fn ask_on(
        &self,
        lending: impl Future<Output = sqlx::Result<PoolConnection<Postgres>>>,
        limit: Duration,
        message: impl FnOnce() -> Message,
    ) -> sqlx::Result<Vec<PgRow>> {
        let begun = Instant::now();
        let borrowed = Borrowed::lent(limit, &self.pool, lending).await?;
        borrowed.ask(limit.saturating_sub(begun.elapsed()), message()).await
    }
}
