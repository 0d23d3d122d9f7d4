//! How the layer executes a request once: under a lease, or in a transaction of the store's database.
//!
//! Only this file knows the store. To the rest of the layer, executing is a function.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Extensions;
use parking_lot::Mutex;

use super::answer::{Answer, Answered, Answers};
use crate::idempotency::{
    AnswerGiven, Codec, Context, Error, Idempotency, NotDone, Reply, Rollback, Tx, Unfinished, Unknown,
};
use crate::identity::RequestIdentity;
use crate::store::{Store, TransactionalStore};

pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the work may use: it goes into the extensions of the request.
pub(super) type Lent = Box<dyn FnOnce(&mut Extensions) + Send>;

/// The handler, which answers the request.
pub(super) type Work = Box<dyn FnOnce(Lent) -> BoxFuture<Ran> + Send>;

/// Executes a request once.
pub(super) type Execute = Arc<dyn Fn(RequestIdentity, Work) -> BoxFuture<Result<Reply<Answer>, Error>> + Send + Sync>;

/// What the handler answered, and what is to become of it.
pub(super) enum Ran {
    /// It is recorded, and what was done is kept.
    Kept(Answer),
    /// It is recorded, and what was done in a transaction is rolled back.
    Declined(Answer),
    /// It is recorded, unless the work is in a transaction that was not used: a request that is not valid.
    Rejected(Answer),
    /// It is recorded, unless the work is in a transaction: that is rolled back as if it had never begun.
    Failed(Answer),
    /// Nothing was done, or nothing is to be kept.
    NothingDone(Answer),
    Unknown(Answer),
    /// The handler was not called, for this reason.
    NotBegun(Box<dyn StdError + Send + Sync>),
    /// There is no answer, for this reason.
    Broke(Box<dyn StdError + Send + Sync>),
}

/// A transaction on its way to the handler, which takes it out of the request's extensions.
pub(super) struct Slot<S: TransactionalStore>(Arc<Mutex<Option<Tx<S>>>>);

impl<S: TransactionalStore> Clone for Slot<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: TransactionalStore> Slot<S> {
    #[cfg(feature = "axum")]
    pub(super) fn take(&self) -> Option<Tx<S>> {
        self.0.lock().take()
    }
}

/// Under a lease: what the handler does, it does elsewhere.
pub(super) fn under_a_lease<S, C>(idempotency: Idempotency<S, C>) -> Execute
where
    S: Store,
    C: Codec<Vec<u8>>,
{
    let idempotency = for_answers(idempotency);
    Arc::new(move |id, work| {
        let idempotency = idempotency.clone();
        Box::pin(async move {
            let work = |context: Context| async move {
                let lent: Lent = Box::new(move |extensions| {
                    extensions.insert(context);
                });
                match work(lent).await {
                    Ran::Kept(answer) | Ran::Declined(answer) | Ran::Rejected(answer) | Ran::Failed(answer) => {
                        Ok(answer)
                    }
                    Ran::NothingDone(answer) => Err(Unfinished::from(NotDone::because(answered(answer)))),
                    Ran::Unknown(answer) => Err(Unfinished::from(Unknown::because(answered(answer)))),
                    Ran::NotBegun(reason) => Err(Unfinished::from(NotDone::because(reason))),
                    Ran::Broke(reason) => Err(Unfinished::from(Unknown::because(reason))),
                }
            };
            idempotency.try_run(id, work).await
        })
    })
}

/// In a transaction, which the handler is given.
pub(super) fn in_a_transaction<S, C>(idempotency: Idempotency<S, C>) -> Execute
where
    S: TransactionalStore,
    C: Codec<Vec<u8>>,
{
    let idempotency = for_answers(idempotency);
    Arc::new(move |id, work| {
        let idempotency = idempotency.clone();
        Box::pin(async move {
            let work = |tx: Tx<S>| async move {
                let context = tx.context().clone();
                let used = Arc::new(AtomicBool::new(false));
                let slot = Slot(Arc::new(Mutex::new(Some(tx.telling(Arc::clone(&used))))));
                let own = slot.clone();
                let lent: Lent = Box::new(move |extensions| {
                    extensions.insert(context);
                    extensions.insert(slot);
                });
                let ran = work(lent).await;
                // One that the handler did not want goes back as well.
                drop(own.0.lock().take());
                match ran {
                    Ran::Kept(answer) => Ok(answer),
                    Ran::Declined(answer) => Err(Rollback::Declined(answer)),
                    Ran::Rejected(answer) if used.load(Ordering::Acquire) => Err(Rollback::Declined(answer)),
                    Ran::Rejected(answer) | Ran::Failed(answer) | Ran::NothingDone(answer) | Ran::Unknown(answer) => {
                        Err(Rollback::failed(answered(answer)))
                    }
                    Ran::NotBegun(reason) | Ran::Broke(reason) => Err(Rollback::Failed(reason)),
                }
            };
            idempotency.run_in_tx(id, work).await
        })
    })
}

fn answered(answer: Answer) -> AnswerGiven {
    AnswerGiven(Box::new(Answered(Arc::new(answer))))
}

/// Returns the same for answers.
pub(super) fn for_answers<S, C>(idempotency: Idempotency<S, C>) -> Idempotency<S, Answers<C>>
where
    S: Store,
    C: Codec<Vec<u8>>,
{
    let answers = Answers::new(idempotency.shared_codec(), idempotency.max_result_bytes());
    idempotency.with_codec(answers)
}
