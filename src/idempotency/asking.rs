//! What is asked of the store: each question within a limit of time, and a panic of the store's is an error of its.
//!
//! So a question that is not answered, or panics, is one of which it is not known what it did:
//! [`StoreError::Unavailable`], like an answer that was lost.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::Shared;
use super::timer::{Until, within};
use super::unwind::{CatchUnwind, catch};
use crate::flight::Panicked;
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record, RecordedResult};
use crate::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError, Watch};

/// How long, at least, a result is tried to be recorded when the store fails; and how long, at most, one answer is waited
/// for.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);
/// How long the answer to a result that is to be recorded is waited for. The stores of this crate have limits of their own,
/// which are shorter unless they are set: a lock or a standby that is slow must not cost work that is done its record.
const COMPLETION_PATIENCE: Duration = Duration::from_secs(60);
/// How often, at least, a question can be asked in the time that there is for its answer.
const QUESTIONS: u32 = 3;

impl<S: Store> Shared<S> {
    /// How long a result is tried to be recorded.
    pub(super) fn record_patience(&self) -> Duration {
        self.lease.max(RECORD_PATIENCE)
    }

    /// How long an answer is waited for that nothing else limits.
    pub(super) fn answer_patience(&self) -> Duration {
        (self.record_patience() / QUESTIONS).min(RECORD_PATIENCE)
    }

    /// Without a limit: the caller has one.
    pub(super) async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        caught(async { self.store.claim(request).await }).await
    }

    /// An answer that takes longer than the lease comes too late to be of use.
    pub(super) async fn renew(&self, id: &RequestIdentity, token: FencingToken) -> Result<(), StoreError> {
        let renewed = async { self.store.renew(id, token, self.lease).await };
        answer_within(self.lease, renewed).await
    }

    /// Sets what is left of the lease, to end it.
    pub(super) async fn end_lease(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        left: Duration,
    ) -> Result<(), StoreError> {
        let ended = async { self.store.end_lease(id, token, left).await };
        answer_within(self.answer_patience(), ended).await
    }

    pub(super) async fn complete(&self, claim: Claim, result: &RecordedResult) -> Result<(), StoreError> {
        let completed = async { self.store.complete(claim, result.clone(), self.retention).await };
        answer_within(COMPLETION_PATIENCE, completed).await
    }

    pub(super) async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        answer_within(self.answer_patience(), async { self.store.release(claim).await }).await
    }

    pub(super) async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        answer_within(self.answer_patience(), async { self.store.load(id).await }).await
    }

    /// No subscription, if the store does not answer within the limit.
    pub(super) async fn watch(&self, id: &RequestIdentity, limit: Duration) -> Watch {
        let watched = caught(async { Ok(self.store.watch(id).await) });
        match within(limit, watched).await {
            Some(Ok(watch)) => watch,
            Some(Err(_)) | None => Watch::none(),
        }
    }
}

/// The answer to a question; if there is none within the limit, an error.
pub(super) fn answer_within<A: Future>(limit: Duration, asked: A) -> Answer<A> {
    let asked = within(limit, catch(asked));
    Answer { asked, limit }
}

/// The answer to a question; if the store panics, an error.
pub(super) fn caught<A: Future>(asked: A) -> Answer<A> {
    answer_within(Duration::MAX, asked)
}

pin_project! {
    /// See [`answer_within`].
    pub(super) struct Answer<A> {
        #[pin]
        asked: Until<CatchUnwind<A>>,
        limit: Duration,
    }
}

impl<T, A: Future<Output = Result<T, StoreError>>> Future for Answer<A> {
    type Output = Result<T, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.asked.poll(cx)) {
            Some(Ok(answered)) => answered,
            Some(Err(panic)) => {
                let panic = Panicked::from_payload(panic);
                Err(StoreError::unavailable(format!(
                    "the store panicked: {}",
                    panic.message()
                )))
            }
            None => Err(silent(*this.limit)),
        })
    }
}

/// The error that stands for no answer.
pub(super) fn silent(waited: Duration) -> StoreError {
    StoreError::unavailable(format!("the store did not answer within {waited:?}"))
}

/// Whether it may have done what was asked.
pub(super) fn may_have_landed(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unavailable { .. } | StoreError::TooFewReplicas { .. }
    )
}
