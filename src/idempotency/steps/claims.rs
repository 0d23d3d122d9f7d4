//! The claim of a mutation of steps, as the way to any claim asks for one.
//!
//! The life of a claim (`claim/`) is the same for every execution. So what is different for steps stands before the
//! store: [`Claims`] is a store whose `claim` begins steps, and which keeps what was granted with it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record, RecordedResult};
use crate::store::{
    Claim, ClaimOutcome, ClaimRequest, InDoubt, StepStore, Store, StoreError, Takeover, Watch, WorkflowRecord,
    WorkflowStart,
};

/// See the module's documentation.
pub(super) struct Claims<S> {
    store: Arc<S>,
    start: WorkflowStart,
    /// The one holder from which the claim may be taken over, if it is for a completer.
    only: Option<FencingToken>,
    granted: Mutex<Option<WorkflowRecord>>,
}

impl<S: StepStore> Claims<S> {
    pub(super) fn new(store: Arc<S>, start: WorkflowStart, only: Option<FencingToken>) -> Self {
        Self {
            store,
            start,
            only,
            granted: Mutex::new(None),
        }
    }

    /// Returns what came with the claim that was granted last.
    pub(super) fn granted(&self) -> Option<WorkflowRecord> {
        self.granted.lock().take()
    }
}

impl<S: StepStore> Store for Claims<S> {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let request = match self.only {
            Some(token) => request.takeover(Takeover::Of(token)),
            None => request,
        };
        let begun = self.store.begin_steps(request, self.start.clone()).await?;
        Ok(begun.map(|begun| {
            let mut granted = self.granted.lock();
            // A question whose answer was not waited for may be answered late, with an older claim.
            if granted.as_ref().is_none_or(|known| known.token < begun.workflow.token) {
                *granted = Some(begun.workflow);
            }
            begun.claim
        }))
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.store.renew(id, token, lease).await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.store.end_lease(id, token, left).await
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.store.complete(claim, result, retention).await
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.store.release(claim).await
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        self.store.load(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.store.purge(limit).await
    }

    async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        self.store.in_doubt(limit, after).await
    }

    async fn watch(&self, id: &RequestIdentity) -> Watch {
        self.store.watch(id).await
    }
}
