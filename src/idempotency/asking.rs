//! The questions that are put to the store, each within a limit of time. A panic of the store's is an error of its.
//!
//! A question that is not answered, or that panics, leaves open what it did: it fails with [`StoreError::Unavailable`],
//! as if its answer was lost.

use std::time::Duration;

use super::answer::{answer_within, caught};
use super::shared::Shared;
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record, RecordedResult};
use crate::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError, Watch};
use crate::timer::within;

/// The shortest time for which a failing store is asked to record a result, and the longest for which one answer is
/// waited for.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);
/// How long the answer of a store that records a result is waited for. The stores of this crate have shorter limits of
/// their own, unless they are set: a lock or a standby that is slow must not cost work that is done its record.
const COMPLETION_PATIENCE: Duration = Duration::from_secs(60);
/// The least number of times that a question can be asked in the time that there is for its answer.
const QUESTIONS: u32 = 3;

impl<S: Store> Shared<S> {
    /// How long a store that fails is asked again to record a result.
    pub(super) fn record_patience(&self) -> Duration {
        self.lease.max(RECORD_PATIENCE)
    }

    /// How long an answer is waited for that nothing else limits.
    pub(super) fn answer_patience(&self) -> Duration {
        (self.record_patience() / QUESTIONS).min(RECORD_PATIENCE)
    }

    /// Has no limit: the caller has one.
    pub(super) async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        caught(async { self.store.claim(request).await }).await
    }

    /// An answer that takes longer than the lease comes too late to be of use.
    pub(super) async fn renew(&self, id: &RequestIdentity, token: FencingToken) -> Result<(), StoreError> {
        let renewed = async { self.store.renew(id, token, self.lease).await };
        answer_within(self.lease, renewed).await
    }

    /// Sets what is left of the lease, to end it.
    pub(super) async fn end_lease(&self, claim: &Claim, left: Duration) -> Result<(), StoreError> {
        let ended = async { self.store.end_lease(claim.id(), claim.token(), left).await };
        answer_within(self.answer_patience(), ended).await
    }

    pub(super) async fn complete(&self, claim: &Claim, result: &RecordedResult) -> Result<(), StoreError> {
        let (claim, result) = (claim.again(), result.clone());
        let completed = async { self.store.complete(claim, result, self.retention).await };
        answer_within(COMPLETION_PATIENCE, completed).await
    }

    pub(super) async fn release(&self, claim: &Claim) -> Result<(), StoreError> {
        let claim = claim.again();
        answer_within(self.answer_patience(), async { self.store.release(claim).await }).await
    }

    pub(super) async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        answer_within(self.answer_patience(), async { self.store.load(id).await }).await
    }

    /// Returns no subscription if the store does not answer within the limit.
    pub(super) async fn watch(&self, id: &RequestIdentity, limit: Duration) -> Watch {
        let watched = caught(async { Ok(self.store.watch(id).await) });
        match within(limit, watched).await {
            Some(Ok(watch)) => watch,
            Some(Err(_)) | None => Watch::none(),
        }
    }
}
