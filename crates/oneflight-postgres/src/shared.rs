//! What a caller wants that may [share a message](super::together) with what others want, and how that goes to the server.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgRow, Postgres};

use super::call::Message;
use super::statements::Statements;
use super::way::Way;
use oneflight::store::StoreError;

/// What a task has that sends for several callers.
#[derive(Clone)]
pub(super) struct Messenger {
    pub(super) way: Way,
    pub(super) statements: Arc<Statements>,
    /// On which changes of records are notified.
    pub(super) channel: String,
    /// How long a connection is waited for.
    pub(super) patience: Duration,
}

/// What a caller wants of the server, and others may want at once.
pub(super) trait Step: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;

    fn bytes(&self) -> usize;

    /// Lends a connection for a message.
    fn lend(messenger: &Messenger) -> impl Future<Output = sqlx::Result<PoolConnection<Postgres>>> + Send;

    /// The message by which all are taken.
    fn message(messenger: &Messenger, steps: &[Self]) -> Message;

    /// Returns what is answered to each, or nothing where it has to be taken alone.
    fn answers(steps: &[Self], rows: &[PgRow]) -> Result<Vec<Option<Self::Answer>>, StoreError>;
}
