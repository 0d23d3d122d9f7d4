//! Stores that are databases: mutation and record in one commit.
//!
//! ```text
//! begin, claim ──granted──▶ work ──▶ Ending::Commit ────▶ completed
//!      │                     ├─────▶ Ending::Decline ────▶ completed, the work's rows rolled back
//!      │                     └─────▶ Ending::RollBack ──▶ as if never begun
//!      └──not granted──▶ the work is not called
//! ```
//!
//! There is no lease: the claim lives and dies with the transaction, and nobody else sees it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::claim::{ClaimOutcome, ClaimRequest};
use super::contract::Store;
use super::error::StoreError;
use crate::record::RecordedResult;

/// The future of work in a transaction, which borrows the transaction for `'t`.
pub type WorkFuture<'t, R> = Pin<Box<dyn Future<Output = (Ending, R)> + Send + 't>>;

/// A store in whose own transaction the work can run.
pub trait TransactionalStore: Store {
    /// What the work runs its statements on.
    type Connection: Send + 'static;

    /// Begins a transaction, claims in it, runs the work, and ends the transaction as the work says.
    ///
    /// `request.lease` is of no account. A claim that is held outside of a transaction is respected, and the
    /// other way round. Unless the claim is granted, the work is not called. A commit whose answer is
    /// lost is looked up, so that the answer here is the truth.
    ///
    /// # Errors
    ///
    /// [`StoreError::RolledBack`] when nothing was kept; [`StoreError::TransactionEnded`] when that is because the work
    /// ended the transaction itself, and [`StoreError::CommittedByWork`] when it did so in a store that can't prevent
    /// it. Any other error before the work is called means that nothing was done; after that, it leaves open what was.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it has answered, the transaction is rolled back, or was committed as a whole.
    fn transact<W, R>(
        &self,
        request: ClaimRequest,
        work: W,
    ) -> impl Future<Output = Result<ClaimOutcome<R>, StoreError>> + Send
    where
        W: for<'t> FnOnce(OpenTransaction<'t, Self::Connection>) -> WorkFuture<'t, R> + Send + 'static,
        R: Send + 'static;

    /// Whether an error, of the work or of [`transact`](Self::transact), says that the transaction lost to another one
    /// and may be run again from its start: a serialization failure or a deadlock. Its causes are looked at as well.
    fn is_conflict(&self, error: &(dyn Error + 'static)) -> bool {
        let _ = error;
        false
    }

    /// Whether an error, of the work or of [`transact`](Self::transact), says that the database refused what it was asked
    /// for and will again: a violated constraint, or a value that does not fit its column. Its causes are looked at as
    /// well.
    fn is_violation(&self, error: &(dyn Error + 'static)) -> bool {
        let _ = error;
        false
    }
}

/// Finds the first error of this type among an error and its causes. A [`StoreError`] that names its source in its own
/// message is looked into as well.
///
/// ```
/// use oneflight::store::{StoreError, find};
///
/// let error = StoreError::unavailable(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
/// let cause: &std::io::Error = find(&error).expect("it is the source");
/// assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionReset);
/// ```
#[must_use]
pub fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Returns whether this error, or one among its causes, is of the type `E` and `is_it` holds of it.
///
/// A store answers [`is_conflict`](TransactionalStore::is_conflict) and [`is_violation`](TransactionalStore::is_violation) with
/// it: the errors of its driver reach it inside of others. The source that a [`StoreError`] tells of itself counts as well.
///
/// ```
/// use oneflight::store::{StoreError, is_caused_by};
/// use std::io::{Error, ErrorKind};
///
/// let timed_out = |error: &Error| error.kind() == ErrorKind::TimedOut;
/// let rolled_back = StoreError::RolledBack { source: Error::from(ErrorKind::TimedOut).into() };
/// assert!(is_caused_by(&rolled_back, timed_out));
/// assert!(!is_caused_by(&StoreError::NoConnection, timed_out));
/// ```
pub fn is_caused_by<E: Error + 'static>(error: &(dyn Error + 'static), is_it: impl Fn(&E) -> bool) -> bool {
    causes(error).any(|cause| cause.downcast_ref().is_some_and(&is_it))
}

/// An error and its causes.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'e (dyn Error + 'static)| {
        match error.downcast_ref() {
            // It names its source in its own message, and so passes it over in `source`.
            Some(StoreError::RolledBack { source } | StoreError::Unavailable { source }) => Some(&**source),
            _ => error.source(),
        }
    })
}

/// A transaction that holds a claim, as the work gets it.
#[non_exhaustive]
pub struct OpenTransaction<'t, C> {
    /// What statements are run on.
    pub connection: &'t mut C,
    /// Which attempt at this request it is: 1 unless an earlier holder outside of a transaction died.
    pub attempt: u32,
}

impl<'t, C> OpenTransaction<'t, C> {
    /// A transaction as a store hands it to the work.
    pub fn new(connection: &'t mut C, attempt: u32) -> Self {
        Self { connection, attempt }
    }
}

impl<C> fmt::Debug for OpenTransaction<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTransaction")
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// How the work wants its transaction to end. A store has to know every way, so another one would be a breaking change.
#[derive(Clone, Debug)]
#[must_use]
pub enum Ending {
    /// Keep the work's rows and record the result.
    Commit {
        /// What to replay.
        result: RecordedResult,
        /// For how long.
        retention: Duration,
    },
    /// Roll the work's rows back and record the result.
    Decline {
        /// What to replay.
        result: RecordedResult,
        /// For how long.
        retention: Duration,
    },
    /// Roll everything back, so that nothing is kept even if the transaction was ended before.
    RollBack,
}
