//! One execution in the store's own transaction: claim, work and record are one commit.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::answer::{caught, silent};
use super::claim::{Acquire, Case};
use super::codec::{Codec, Prepared, prepare};
use super::codec_error::CodecError;
use super::context::Context;
use super::error::{Effect, Error, ErrorKind, RollbackKind};
use super::progress::Progress;
use super::settled::Settled;
use super::shared::Shared;
use crate::flight::Panicked;
use crate::identity::RequestIdentity;
use crate::record::{RecordedResult, Verdict};
use crate::store::outbox::{AtEnd, Bell};
use crate::store::{ClaimOutcome, Ending, OpenTransaction, StoreError, TransactionalStore};
use crate::telemetry;
use crate::timer::{NoTimers, Timer, after};
use crate::unwind::{Payload, catch};

pub(super) use sending::Sending;

mod send;
mod sending;

/// The transaction that work runs in, under [`run_in_tx`](super::Idempotency::run_in_tx). It belongs to the work.
///
/// It derefs to the driver's connection: `&mut *tx` is what `sqlx` takes for statements. A nested `begin()` is a
/// savepoint.
///
/// Work may be a function as well as a closure. For one store, the function takes a `Tx<SqliteStore>`. For every store
/// over the same driver, it is generic:
///
/// ```
/// use oneflight::store::TransactionalStore;
/// use oneflight::{Error, Idempotency, RequestIdentity, Rollback, Tx};
///
/// /// Stands for the driver's connection, such as `sqlx::SqliteConnection`.
/// struct SqliteConnection;
///
/// /// Your statement.
/// async fn insert(_: &mut SqliteConnection, _item: &str) -> Result<i64, std::io::Error> {
///     Ok(1)
/// }
///
/// async fn place<S>(mut tx: Tx<S>) -> Result<i64, Rollback<i64>>
/// where
///     S: TransactionalStore<Connection = SqliteConnection>,
/// {
///     Ok(insert(&mut tx, "tea").await?)
/// }
///
/// async fn handle<S>(idem: &Idempotency<S>, id: RequestIdentity) -> Result<i64, Error>
/// where
///     S: TransactionalStore<Connection = SqliteConnection>,
/// {
///     let order = idem.run_in_tx(id, place).await?;
///     Ok(*order)
/// }
/// ```
///
/// # Its end
///
/// The transaction ends when the work does: by a commit if the work returns a value, otherwise by a rollback. Work that
/// drops its `Tx` earlier and goes on is committed all the same.
///
/// Do not end the transaction yourself:
///
/// * SQLite refuses a commit, and keeps nothing more after a rollback. Do not set a commit hook: it would replace the
///   one that sees to this.
/// * PostgreSQL commits what it is told to. That is noticed when the work has ended, is an error whose effect is
///   unknown, and leaves the request in doubt until an operator decides.
///
/// A nested `begin()` that is cancelled, by a timeout for example, makes `sqlx` roll back the whole transaction. In
/// PostgreSQL, the statements after it commit on their own. That is noticed as well, unless the connection is lost before
/// the work ends: let a nested `begin()` end.
///
/// A `Tx` that still exists when the work is over has escaped: in a static, in a task that the work did not wait for,
/// or leaked. Then nothing is kept, and the call fails with [`StoreError::TransactionEscaped`], unless the work failed
/// by itself. The place in the pool is taken until the `Tx` is dropped, which closing the pool waits for, and its
/// connection is closed.
///
/// * In SQLite the `Tx` holds the one right to write until it is dropped, and other calls find the store
///   [busy](StoreError::Busy).
/// * In PostgreSQL the session is terminated. If that is not possible, the call fails with
///   [`StoreError::CommittedByWork`].
///
/// # Roles
///
/// In PostgreSQL, settings of the session are the work's own affair. But a role that the work has set must be allowed
/// to write our tables when the work returns, or be `RESET` before that. Otherwise everything is rolled back, and the
/// error says so.
pub struct Tx<S: TransactionalStore> {
    open: OpenTransaction<S::Connection, S::Names>,
    context: Context,
    /// Is told that the connection is used.
    used: Option<Arc<AtomicBool>>,
    store: Arc<S>,
    sending: Sending,
}

impl<S: TransactionalStore> Tx<S> {
    pub(super) fn new(
        open: OpenTransaction<S::Connection, S::Names>,
        context: Context,
        store: Arc<S>,
        sending: Sending,
    ) -> Self {
        Self {
            open,
            context,
            used: None,
            store,
            sending,
        }
    }

    /// Returns what the work knows of its execution.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Returns an idempotency key for one step of the work; see [`Context::downstream_key`].
    ///
    /// What is sent downstream from inside a transaction has happened even if the transaction is then rolled back. A
    /// later call sends it again under the same key.
    #[must_use]
    pub fn downstream_key(&self, step: impl AsRef<str>) -> String {
        self.context.downstream_key(step)
    }

    /// Has it say in `used` when its connection is lent for a statement.
    #[cfg(feature = "http")]
    pub(crate) fn telling(mut self, used: Arc<AtomicBool>) -> Self {
        self.used = Some(used);
        self
    }

    /// Returns the names of the store's tables, for code that writes to them in this transaction.
    #[must_use]
    pub fn names(&self) -> &S::Names {
        self.open.names()
    }
}

impl<S: TransactionalStore> Deref for Tx<S> {
    type Target = S::Connection;

    fn deref(&self) -> &S::Connection {
        &self.open
    }
}

impl<S: TransactionalStore> DerefMut for Tx<S> {
    fn deref_mut(&mut self) -> &mut S::Connection {
        if let Some(used) = &self.used {
            used.store(true, Ordering::Release);
        }
        &mut self.open
    }
}

impl<S: TransactionalStore> fmt::Debug for Tx<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

/// Why work in a transaction has its rows rolled back.
///
/// Any [`std::error::Error`] becomes [`Failed`](Self::Failed) by `?`: in a transaction, what failed was not done.
/// Others, such as `anyhow::Error` or a boxed one, do by [`or_roll_back`](super::ResultExt::or_roll_back), which is short
/// for `.map_err(Rollback::failed)`. Nothing is recorded then, and a client that tries again executes again.
///
/// For [`Error::cause`] to find what is in an `anyhow::Error`, add a `.context("…")`, or map it to an error of your own
/// before.
///
/// So a request that can never succeed, such as one that violates a constraint, should be told apart and be
/// [`Declined`](Self::Declined). A violation that the work returns by `?` is told apart all the same, as
/// [`RollbackKind::Violation`]. To its client it is a fault of the service.
pub enum Rollback<T> {
    /// Declines for good: the rows are rolled back, and this answer is recorded and replayed.
    Declined(T),
    /// Fails: everything is rolled back, and the identity is new again.
    Failed(Box<dyn StdError + Send + Sync>),
}

impl<T> Rollback<T> {
    /// Fails for this reason: an error or a text.
    pub fn failed(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Failed(reason.into())
    }
}

impl<T, E: StdError + Send + Sync + 'static> From<E> for Rollback<T> {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// Shows the reason of a failure, not the value of what is declined.
impl<T> fmt::Debug for Rollback<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Declined(_) => f.write_str("Declined(..)"),
            Self::Failed(reason) => f.debug_tuple("Failed").field(reason).finish(),
        }
    }
}

/// The outcome of the work, brought out of the transaction.
enum Worked {
    Recorded(Arc<dyn Any + Send + Sync>, RecordedResult, u32),
    Failed(Arc<dyn StdError + Send + Sync>),
    TooLarge { size: u64, limit: usize },
    NotEncodable(CodecError),
    Panicked(Payload),
}

/// Work that waits for the transaction in which its claim is granted, and is there again after it.
struct Bench<F> {
    work: Mutex<Option<F>>,
    begun: AtomicBool,
    over: AtomicBool,
    progress: Arc<Progress>,
    /// That of the store, if the work has sent messages.
    bell: Arc<OnceLock<Bell>>,
}

impl<F> Bench<F> {
    /// Returns what a transaction comes to. Until the work begins, the store has time until the deadline. The work
    /// takes as long as it likes. After it, the store has a limit of its own.
    async fn answered<A>(
        &self,
        deadline: Instant,
        transaction: impl Future<Output = Result<A, StoreError>>,
    ) -> Result<A, StoreError> {
        let asked = Instant::now();
        let (mut transaction, mut timer) = (pin!(caught(transaction)), pin!(Timer::at(deadline)));
        let mut ends = false;
        poll_fn(|cx| {
            let answer = transaction.as_mut().poll(cx);
            let (begun, over) = (self.begun.load(Ordering::SeqCst), self.over.load(Ordering::SeqCst));
            if answer.is_ready() || (begun && !over) {
                return answer;
            }
            if over && !std::mem::replace(&mut ends, true) {
                timer.as_mut().set(after(ENDING_PATIENCE));
            }
            match timer.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Err(silent(asked.elapsed()))),
                Poll::Ready(Err(NoTimers)) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

/// How long a store may take to end a transaction whose work is over. The stores of this crate have shorter limits of
/// their own, unless they are set.
const ENDING_PATIENCE: Duration = Duration::from_secs(120);

/// The work of a flight. After a conflict with another transaction, it is run again up to so many times.
pub(super) async fn execute_in_tx<S, C, T, F, W>(
    shared: Arc<Shared<S>>,
    codec: Arc<C>,
    id: RequestIdentity,
    progress: Arc<Progress>,
    retries: u32,
    work: F,
) -> Result<Settled, Error>
where
    S: TransactionalStore,
    C: Codec<T>,
    T: Send + Sync + 'static,
    F: FnMut(Tx<S>) -> W + Send + 'static,
    W: Future<Output = Result<T, Rollback<T>>> + Send + 'static,
{
    let case = Case::open(&shared, &id)?;
    let bench = Arc::new(Bench {
        work: Mutex::new(Some(work)),
        begun: AtomicBool::new(false),
        over: AtomicBool::new(false),
        progress: Arc::clone(&progress),
        bell: Arc::default(),
    });
    let mut acquire = Acquire::new(&case, &progress);
    let mut retried = 0;
    let worked = loop {
        let (taken, settings, by, of) = (Arc::clone(&bench), Arc::clone(&shared), Arc::clone(&codec), id.clone());
        bench.begun.store(false, Ordering::SeqCst);
        bench.over.store(false, Ordering::SeqCst);
        let until = acquire.until();
        let (request, store) = (acquire.request(), &shared.store);
        // The stores' own futures are large; in a box, they are not moved about.
        let transaction = Box::pin(async move {
            store
                .transact(request, move |open| run(taken, settings, by, of, open))
                .await
        });
        let rings = AtEnd::once_known(Arc::clone(&bench.bell));
        let transacted = bench.answered(acquire.deadline(), transaction).await;
        match &transacted {
            // For nothing, if it was not committed.
            Ok(_) => rings.over(),
            // It may be committed all the same.
            Err(_) => drop(rings),
        }
        let conflict: Option<&(dyn StdError + 'static)> = match &transacted {
            Ok(ClaimOutcome::Granted(Worked::Failed(error))) => Some(&**error),
            Err(error) => Some(error),
            Ok(_) => None,
        };
        if let Some(conflict) = conflict
            && retried < retries
            && shared.store.is_conflict(conflict)
        {
            retried += 1;
            telemetry::retried(&id, retried);
            acquire.pause_after_conflict(retried).await;
            continue;
        }
        let outcome = match transacted {
            Ok(outcome) => outcome,
            Err(error) => {
                let begun = bench.begun.load(Ordering::SeqCst);
                let failed = match error {
                    StoreError::Busy { .. } if !begun => match acquire.locked_out(error).await {
                        Ok(settled) => return Ok(settled.shared_as(&*codec)),
                        Err(error) => error,
                    },
                    error => store_failed(&*shared.store, &id, error, begun),
                };
                if !begun && acquire.goes_on(until) {
                    continue;
                }
                return Err(failed);
            }
        };
        match outcome {
            ClaimOutcome::Granted(worked) => break worked,
            ClaimOutcome::Denied(denied) => {
                if let Some(settled) = acquire.follow(denied).await? {
                    return Ok(settled.shared_as(&*codec));
                }
            }
        }
    };
    match worked {
        Worked::Recorded(value, result, attempt) => Ok(Settled::executed(Some(value), result, attempt)),
        Worked::Failed(source) => Err(rolled_back(&*shared.store, &id, source)),
        Worked::TooLarge { size, limit } => Err(ErrorKind::ResultTooLarge { size, limit }
            .of(&id)
            .with_effect(Effect::Nothing)),
        Worked::NotEncodable(source) => Err(Error::codec(&id, source, Effect::Nothing)),
        // Not resumed: every caller that shares this flight learns that it was rolled back.
        Worked::Panicked(panic) => Err(ErrorKind::Panicked(Panicked::from_payload(panic))
            .of(&id)
            .with_effect(Effect::Nothing)),
    }
}

fn rolled_back<S: TransactionalStore>(
    store: &S,
    id: &RequestIdentity,
    source: Arc<dyn StdError + Send + Sync>,
) -> Error {
    let kind = match &*source {
        violation if store.is_violation(violation) => RollbackKind::Violation,
        conflict if store.is_conflict(conflict) => RollbackKind::Conflict,
        _ => RollbackKind::Failure,
    };
    ErrorKind::RolledBack { kind, source }.of(id)
}

fn store_failed<S: TransactionalStore>(store: &S, id: &RequestIdentity, error: StoreError, begun: bool) -> Error {
    match error {
        StoreError::RolledBack { .. } => rolled_back(store, id, Arc::new(error)),
        StoreError::TransactionEnded | StoreError::TransactionEscaped => Error::store(id, error, Effect::Nothing),
        error if begun => Error::store(id, error, Effect::Unknown),
        error => Error::store(id, error, Effect::Nothing),
    }
}

/// The fault of a store that would have work run that cannot be run again.
pub(super) fn granted_twice() -> Box<dyn StdError + Send + Sync> {
    "the store granted one request twice".into()
}

/// Runs the work in an open transaction, and returns how that is to end.
async fn run<S, C, T, F, W>(
    bench: Arc<Bench<F>>,
    shared: Arc<Shared<S>>,
    codec: Arc<C>,
    id: RequestIdentity,
    open: OpenTransaction<S::Connection, S::Names>,
) -> (Ending, Worked)
where
    S: TransactionalStore,
    C: Codec<T>,
    T: Send + Sync + 'static,
    F: FnMut(Tx<S>) -> W + Send + 'static,
    W: Future<Output = Result<T, Rollback<T>>> + Send + 'static,
{
    let attempt = open.attempt();
    bench.begun.store(true, Ordering::SeqCst);
    bench.progress.work();
    let Some(mut work) = bench.work.lock().take() else {
        return (Ending::RollBack, Worked::Failed(granted_twice().into()));
    };
    let context = Context::new(id, attempt, None);
    // In a box, since what is around it is moved about.
    let (store, bell) = (Arc::clone(&shared.store), Arc::clone(&bench.bell));
    let worked = catch(async { Box::pin(work(Tx::new(open, context, store, Sending::new(bell)))).await }).await;
    *bench.work.lock() = Some(work);
    bench.over.store(true, Ordering::SeqCst);
    let (value, verdict) = match worked {
        Ok(Ok(value)) => (value, Verdict::Performed),
        Ok(Err(Rollback::Declined(value))) => (value, Verdict::Declined),
        Ok(Err(Rollback::Failed(reason))) => return (Ending::RollBack, Worked::Failed(reason.into())),
        Err(panic) => return (Ending::RollBack, Worked::Panicked(panic)),
    };
    let result = match prepare(&*codec, &value, verdict, shared.sizes) {
        Prepared::Kept(result) => result,
        Prepared::TooLarge { size, limit } => return (Ending::RollBack, Worked::TooLarge { size, limit }),
        Prepared::Failed(error) => return (Ending::RollBack, Worked::NotEncodable(error)),
    };
    let retention = shared.retention;
    let worked = Worked::Recorded(Arc::new(value), result.clone(), attempt);
    let ending = match verdict {
        Verdict::Performed => Ending::Commit { result, retention },
        Verdict::Declined => Ending::Decline { result, retention },
    };
    (ending, worked)
}
