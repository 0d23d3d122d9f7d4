//! A step in a transaction of the store's: its rows and its record are one commit.

use std::error::Error as StdError;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::board::Found;
use super::handle::{Steps, WITHIN};
use super::step::{Step, known_as};
use crate::idempotency::answer::caught;
use crate::idempotency::codec::{Codec, Prepared};
use crate::idempotency::codec_error::CodecError;
use crate::idempotency::step_error::{Source, StepError, Stopped};
use crate::idempotency::transaction::{Rollback, Sending, Tx};
use crate::record::Verdict;
use crate::store::outbox::{AtEnd, Bell};
use crate::store::{Ending, StepInTransaction, StepRecord, StoreError, TransactionalStepStore};
use crate::telemetry;
use crate::unwind::{Payload, catch};

type Transacted<T> = Pin<Box<dyn Future<Output = Result<Worked<T>, StoreError>> + Send>>;

/// The outcome of the step's work, brought out of the transaction.
enum Worked<T> {
    Recorded(T),
    Failed(Box<dyn StdError + Send + Sync>),
    TooLarge { size: u64, limit: usize },
    NotEncodable(CodecError),
    Panicked(Payload),
}

impl<S: TransactionalStepStore, C> Steps<S, C> {
    /// Runs a step in a transaction of the store's database, unless it is recorded: its rows and its record are one
    /// commit.
    ///
    /// So its effect is exactly once: a step whose process dies was done and is recorded, or was not done. The token of
    /// the claim is checked in the transaction, so an attempt that has lost its lease commits nothing.
    ///
    /// The work owns its [`Tx`], as under [`run_in_tx`](crate::Idempotency::run_in_tx), and what is said there of the
    /// transaction's end holds here. An error rolls back and is not recorded: the next attempt runs the step again. It
    /// is not run again by itself after a conflict with another transaction. [`Rollback::Declined`] rolls the rows back,
    /// records the value, and returns it.
    ///
    /// Work that ends its transaction itself, which PostgreSQL cannot refuse, leaves the step in doubt, and the mutation
    /// is held.
    ///
    /// The lease is renewed meanwhile, so the work may take its time; but in SQLite it is the one writer.
    ///
    /// # Errors
    ///
    /// [`Stopped`], whose [reason](Stopped::reason) says why. After any reason but [`StepError::RolledBack`] the attempt
    /// is at its end.
    ///
    /// # Panics
    ///
    /// A panic of the step rolls back, and is one of the work.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the transaction is rolled back, or was committed as a whole with its record. The step
    /// cannot be asked for again in this attempt, and no other one can that was not asked for before.
    pub async fn run_in_tx<T, F, W>(&self, step: impl Into<Step>, work: F) -> Result<T, Stopped>
    where
        C: Codec<T>,
        T: Send + 'static,
        F: FnOnce(Tx<S>) -> W + Send + 'static,
        W: Future<Output = Result<T, Rollback<T>>> + Send + 'static,
    {
        let (inner, step) = (&self.inner, step.into());
        let mut running = match inner.ask(&step).await? {
            Found::Recorded(result) => return inner.recorded(&step.id, &result),
            Found::New(running) => running,
        };
        // If this future is dropped, the transaction may be committed all the same.
        running.may_be_recorded();
        let of = StepInTransaction {
            request: inner.context.id().clone(),
            token: inner.token,
            attempt: inner.context.attempt(),
            id: step.id.clone(),
            input: step.input,
        };
        let (held, id) = (Arc::clone(inner), step.id.clone());
        // How many bytes the result takes, if the work came so far.
        let reserved = Arc::new(AtomicUsize::new(0));
        let takes = Arc::clone(&reserved);
        let bell = Arc::<OnceLock<Bell>>::default();
        let sending = Sending::within(known_as(&step.id), Arc::clone(&bell));
        // The stores' own futures are large; in a box, they are not moved about. Its type is erased, since the compiler
        // cannot tell of what is in it that it is `Send` for every lifetime that the work may name.
        let transaction: Transacted<T> = Box::pin(caught(async move {
            let store = Arc::clone(&held.shared.store);
            store
                .transact_step(of, move |open| async move {
                    let context = held.context.clone();
                    let store = Arc::clone(&held.shared.store);
                    let worked = catch(async { Box::pin(work(Tx::new(open, context, store, sending))).await });
                    let worked = WITHIN.scope(held.number(), worked).await;
                    let (value, verdict) = match worked {
                        Ok(Ok(value)) => (value, Verdict::Performed),
                        Ok(Err(Rollback::Declined(value))) => (value, Verdict::Declined),
                        Ok(Err(Rollback::Failed(reason))) => return (Ending::RollBack, Worked::Failed(reason)),
                        Err(panic) => return (Ending::RollBack, Worked::Panicked(panic)),
                    };
                    let result = match held.prepare(&id, &value, verdict) {
                        Prepared::Kept(result) => result,
                        Prepared::TooLarge { size, limit } => {
                            return (Ending::RollBack, Worked::TooLarge { size, limit });
                        }
                        Prepared::Failed(error) => return (Ending::RollBack, Worked::NotEncodable(error)),
                    };
                    takes.store(result.as_bytes().len(), Ordering::Relaxed);
                    let retention = held.shared.retention;
                    let ending = match verdict {
                        Verdict::Performed => Ending::Commit { result, retention },
                        Verdict::Declined => Ending::Decline { result, retention },
                    };
                    (ending, Worked::Recorded(value))
                })
                .await
        }));
        let rings = AtEnd::once_known(bell);
        let transacted = telemetry::in_step_span(inner.context.id(), &step.id, transaction).await;
        match &transacted {
            // For nothing, if it was not committed.
            Ok(_) => rings.over(),
            // It may be committed all the same.
            Err(_) => drop(rings),
        }
        if let Err(StoreError::CommittedByWork) = transacted {
            // It must not be run again by itself, and the next attempt would know nothing of it.
            let begun = StepRecord {
                id: step.id.clone(),
                input: step.input,
                result: None,
            };
            if let Err(StepError::Unrecorded { source, .. }) = inner.insist(begun).await {
                telemetry::not_released(inner.context.id(), &source);
            }
            let (step, source) = (step.id, Some(Arc::new(StoreError::CommittedByWork) as Source));
            return Err(inner.over(StepError::InDoubt { step, source }));
        }
        let step = step.id;
        match transacted {
            Ok(Worked::Recorded(value)) => {
                running.recorded();
                Ok(value)
            }
            Ok(Worked::Failed(source)) => {
                let source = Source::from(source);
                running.failed(Arc::clone(&source));
                Err(Stopped(StepError::RolledBack { step, source }))
            }
            Ok(Worked::TooLarge { size, limit }) => Err(inner.over(StepError::TooLarge { step, size, limit })),
            Ok(Worked::NotEncodable(source)) => {
                let step = Some(step);
                Err(inner.over(StepError::Codec { step, source }))
            }
            Ok(Worked::Panicked(panic)) => resume_unwind(panic),
            Err(StoreError::Outdated { .. }) => Err(inner.over(StepError::LeaseLost)),
            // Nothing was kept.
            Err(
                error @ (StoreError::RolledBack { .. }
                | StoreError::TransactionEnded
                | StoreError::TransactionEscaped
                | StoreError::Busy { .. }
                | StoreError::NoConnection),
            ) => {
                let source: Source = Arc::new(error);
                inner.board.give_back(reserved.load(Ordering::Relaxed));
                running.failed(Arc::clone(&source));
                Err(Stopped(StepError::RolledBack { step, source }))
            }
            Err(source) => Err(inner.over(StepError::Unrecorded { step, source })),
        }
    }
}
