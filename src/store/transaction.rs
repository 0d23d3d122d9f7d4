//! Stores that are databases: mutation and record in one commit.
//!
//! ```text
//! begin, claim ──granted──▶ work ──▶ Ending::Commit ────▶ completed
//!      │                     ├─────▶ Ending::Decline ────▶ completed, the work's rows rolled back
//!      │                     └─────▶ Ending::RollBack ──▶ as if never begun
//!      └──not granted──▶ the work is not called
//! ```
//!
//! There is no lease: the claim lives and dies with the transaction, and nothing else sees it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::claim::{ClaimOutcome, ClaimRequest};
use super::contract::Store;
use super::error::StoreError;
use crate::record::RecordedResult;

/// A store in whose own transaction the work can run.
///
/// The store [lends](OpenTransaction::lend) the work what it holds of the transaction, and [takes it
/// back](Loan::take_back) when the work's future is over and dropped:
///
/// ```
/// use oneflight::store::{Ending, OpenTransaction, StoreError};
/// use std::ops::DerefMut;
///
/// /// The middle of `transact`. `guard` derefs to the connection, and closes it when it is dropped.
/// async fn lend<C, G, W, F, R>(guard: G, work: W) -> Result<(G, Ending, R), StoreError>
/// where
///     C: Send + 'static,
///     G: DerefMut<Target = C> + Send + Sync + 'static,
///     W: FnOnce(OpenTransaction<C, ()>) -> F,
///     F: Future<Output = (Ending, R)>,
/// {
///     let (open, loan) = OpenTransaction::lend(guard, (), 1);
///     let (ending, value) = work(open).await;
///     let Ok(guard) = loan.take_back() else {
///         // Only once it is certain that nothing is kept.
///         return Err(StoreError::TransactionEscaped);
///     };
///     Ok((guard, ending, value)) // Now end the transaction of `guard` as `ending` says.
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no transactions",
    note = "`run_in_tx` and `transactional` take a store whose record is written in the transaction of the work, such as `SqliteStore` or `PostgresStore`; with any other store, use `run`"
)]
pub trait TransactionalStore: Store {
    /// What the work runs its statements on.
    type Connection: Send + 'static;

    /// The names of the store's tables, as far as they differ between stores of this type: `()` if they do not.
    ///
    /// They go with the connection, for code that writes to tables of the store's in the transaction of the work.
    type Names: Clone + Send + Sync + 'static;

    /// Begins a transaction, claims in it, runs the work, and ends the transaction as the work says.
    ///
    /// `request.lease` is ignored. A claim that is held outside of a transaction is respected, and the other way round.
    /// Unless the claim is granted, the work is not called. A commit whose answer is lost is looked up, so that the
    /// answer here is the truth.
    ///
    /// The transaction ends when the future of the work is over and dropped. If the work has not dropped the
    /// [`OpenTransaction`] by then, the transaction has escaped, and nothing of it may be kept.
    ///
    /// # Errors
    ///
    /// * [`StoreError::RolledBack`] if nothing was kept.
    /// * [`StoreError::TransactionEnded`] if that is because the work ended the transaction itself.
    /// * [`StoreError::TransactionEscaped`] if that is because the transaction escaped. Work that wants to be rolled
    ///   back may get its own answer instead.
    /// * [`StoreError::CommittedByWork`] if the work ended the transaction, or let it escape, in a store that cannot
    ///   prevent that something is kept.
    ///
    /// Any other error before the work is called means that nothing was done; after that, it leaves open what was.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it has answered, the transaction is rolled back, or was committed as a whole.
    fn transact<W, F, R>(
        &self,
        request: ClaimRequest,
        work: W,
    ) -> impl Future<Output = Result<ClaimOutcome<R>, StoreError>> + Send
    where
        W: FnOnce(OpenTransaction<Self::Connection, Self::Names>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static;

    /// Returns whether an error, of the work or of [`transact`](Self::transact), says that the transaction lost to
    /// another one and may be run again from its start: a serialization failure or a deadlock. The causes of the error
    /// are looked at as well.
    fn is_conflict(&self, error: &(dyn Error + 'static)) -> bool {
        let _ = error;
        false
    }

    /// Returns whether an error, of the work or of [`transact`](Self::transact), says that the database rejected what
    /// it was asked for and will again: a violated constraint, or a value that does not fit its column. The causes of
    /// the error are looked at as well.
    fn is_violation(&self, error: &(dyn Error + 'static)) -> bool {
        let _ = error;
        false
    }
}

/// Returns the first error of this type among an error and its causes.
///
/// The source of a [`StoreError`] counts as well if the error names it in its own message.
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

/// Returns whether this error, or one among its causes, is of the type `E` and satisfies `is_it`.
///
/// A store implements [`is_conflict`](TransactionalStore::is_conflict) and
/// [`is_violation`](TransactionalStore::is_violation) with it, since the errors of its driver reach it inside of
/// others. The source of a [`StoreError`] counts as well if the error names it in its own message.
///
/// ```
/// use oneflight::store::{StoreError, is_caused_by};
/// use std::io::{Error, ErrorKind};
///
/// let timed_out = |error: &Error| error.kind() == ErrorKind::TimedOut;
/// let rolled_back = StoreError::rolled_back(Error::from(ErrorKind::TimedOut));
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
            // It names its source in its own message, and so skips it in `source`.
            Some(
                StoreError::RolledBack { source }
                | StoreError::Failed { source, .. }
                | StoreError::Unavailable { source },
            ) => Some(&**source),
            _ => error.source(),
        }
    })
}

/// What a store holds of a transaction, as the work sees it.
type Connected<C> = dyn DerefMut<Target = C> + Send + Sync;

/// A transaction that holds a claim, as the work gets it. It derefs to the connection.
///
/// Dropping it gives the connection back to the store.
pub struct OpenTransaction<C: 'static, N> {
    connection: OwnedMutexGuard<Connected<C>>,
    names: N,
    attempt: u32,
}

/// What a store has lent to the work by [`OpenTransaction::lend`].
#[must_use = "it tells whether the transaction has come back"]
pub struct Loan<G>(Arc<Mutex<G>>);

impl<C: 'static, N> OpenTransaction<C, N> {
    /// Lends what the store holds of a transaction, for the given attempt at its request: 1 unless an earlier holder
    /// outside of a transaction died.
    ///
    /// If the guard comes back when the [`Loan`] is gone, it is dropped: it must close its connection then.
    pub fn lend<G>(guard: G, names: N, attempt: u32) -> (Self, Loan<G>)
    where
        G: DerefMut<Target = C> + Send + Sync + 'static,
    {
        let home = Arc::new(Mutex::new(guard));
        let lent: Arc<Mutex<Connected<C>>> = Arc::clone(&home) as _;
        #[expect(clippy::expect_used, reason = "nobody else has it")]
        let connection = lent.try_lock_owned().expect("it was made here");
        let open = Self {
            connection,
            names,
            attempt,
        };
        (open, Loan(home))
    }

    /// Returns the number of the attempt at the request.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the names of the store's tables.
    #[must_use]
    pub fn names(&self) -> &N {
        &self.names
    }
}

impl<G> Loan<G> {
    /// Takes back what was lent.
    ///
    /// # Errors
    ///
    /// The loan itself, if the transaction was not dropped: it has escaped.
    pub fn take_back(self) -> Result<G, Self> {
        Arc::try_unwrap(self.0).map(Mutex::into_inner).map_err(Self)
    }
}

impl<C, N> Deref for OpenTransaction<C, N> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.connection
    }
}

impl<C, N> DerefMut for OpenTransaction<C, N> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.connection
    }
}

impl<C, N> fmt::Debug for OpenTransaction<C, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTransaction")
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

impl<G> fmt::Debug for Loan<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").finish_non_exhaustive()
    }
}

/// How the work wants its transaction to end.
///
/// A store has to know every way, so another one would be a breaking change.
#[derive(Clone, Debug)]
#[must_use]
pub enum Ending {
    /// Keep the work's rows and record the result.
    Commit {
        /// The result to replay.
        result: RecordedResult,
        /// How long to replay it.
        retention: Duration,
    },
    /// Roll the work's rows back and record the result.
    Decline {
        /// The result to replay.
        result: RecordedResult,
        /// How long to replay it.
        retention: Duration,
    },
    /// Roll everything back, so that nothing is kept even if the transaction was ended before.
    RollBack,
}
