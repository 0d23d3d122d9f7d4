//! What a store has to do: the [`Store`] trait.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::claim::{Claim, ClaimOutcome, ClaimRequest};
use super::error::StoreError;
use super::watch::Watch;
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record, RecordedResult, State};

/// Keeps the records of request identities.
///
/// Every operation is atomic by itself, and fenced: once another token stands in a record, an operation of its earlier
/// holder fails with [`StoreError::Outdated`].
///
/// # Cancel safety
///
/// A caller may drop the future of any operation at any time. The operation has then happened as a whole, or has not
/// happened, or happens as a whole later. The store remains usable.
///
/// # Panics and silence
///
/// [`Idempotency`](crate::idempotency::Idempotency) treats an operation that panics, or has not answered after a while,
/// as one whose answer was lost. So a store needs no limits of its own to be safe, but it knows better which limits are
/// right.
pub trait Store: Send + Sync + 'static {
    /// Takes the right to execute a request, or says why not, in one atomic step.
    ///
    /// Asking again with the same [`HolderId`](crate::record::HolderId) returns the same claim, so a claim whose answer
    /// was lost can be asked for again.
    ///
    /// The answer comes within [`request.patience`](ClaimRequest::patience), even if it is an error.
    ///
    /// Where steps are kept, a claim [to resolve](super::Purpose::Resolve) takes those of the request along.
    ///
    /// # Errors
    ///
    /// The store cannot be reached or understood. The claim may have been taken nevertheless.
    fn claim(&self, request: ClaimRequest) -> impl Future<Output = Result<ClaimOutcome, StoreError>> + Send;

    /// Prolongs the lease of a claim to `lease` from now.
    ///
    /// It never shortens a lease: a renewal that was long under way takes nothing from what was set after it, by
    /// another renewal or by [`end_lease`](Self::end_lease). A lease that has expired is renewed unless another holder
    /// took over.
    ///
    /// # Errors
    ///
    /// [`StoreError::Outdated`] when the token no longer holds the claim.
    fn renew(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        lease: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ends the lease of a claim on purpose: it lasts for `left` from now, whatever is left of it.
    ///
    /// Zero lets the lease expire at once, and notifies the [watches](Self::watch) of the record. Until the lease ends
    /// the request counts as in progress, and after that as in doubt.
    ///
    /// # Errors
    ///
    /// [`StoreError::Outdated`] if the token no longer holds the claim.
    fn end_lease(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        left: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Records the result, to be replayed for `retention` from now.
    ///
    /// Completing again with the token that completed changes nothing and succeeds.
    ///
    /// # Errors
    ///
    /// [`StoreError::Outdated`] if the token no longer holds the claim: nothing was recorded. Any other error leaves
    /// open whether the result was recorded: [`load`](Self::load) tells.
    fn complete(
        &self,
        claim: Claim,
        result: RecordedResult,
        retention: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives the claim back: nothing was done, and the identity is new again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Outdated`] if the token no longer holds the claim.
    fn release(&self, claim: Claim) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns the record of an identity, or `None` if there is none or it is past its retention.
    ///
    /// # Errors
    ///
    /// * The store cannot be reached or understood.
    /// * [`StoreError::TooFewReplicas`] if there is a result that a failover may lose.
    fn load(&self, id: &RequestIdentity) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send;

    /// Deletes up to `limit` completed records that are past their retention, and returns how many it deleted.
    ///
    /// Purging only frees space: a record past its retention counts as absent, whether or not it is deleted. A record
    /// that is in progress is never deleted. [`purge_every`](crate::idempotency::IdempotencyBuilder::purge_every) calls
    /// this from time to time.
    ///
    /// Claims may wait for one batch, and in SQLite all of them do. So batches are small, with a pause after each
    /// (`docs/stores.md` has what that costs). A store whose records expire by themselves has nothing to do and returns
    /// 0.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    fn purge(&self, limit: usize) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Lists the requests in doubt, for an operator to [resolve](crate::idempotency::Idempotency::resolve).
    ///
    /// Returns up to `limit` requests in the order of their tokens, only those with a token larger than `after`. A
    /// record that cannot be read is left out, and an event tells of it.
    ///
    /// # Errors
    ///
    /// * [`StoreError::Unsupported`] if the store cannot list, which is the default.
    /// * The store cannot be reached or understood.
    fn in_doubt(
        &self,
        limit: usize,
        after: Option<FencingToken>,
    ) -> impl Future<Output = Result<Vec<InDoubt>, StoreError>> + Send {
        let _ = (limit, after);
        std::future::ready(Err(StoreError::Unsupported {
            advice: "this store cannot list what is in doubt; look up the identities that you know of",
        }))
    }

    /// Subscribes to changes of a record: to the end of a claim of it, in whichever way and process.
    ///
    /// The subscription exists when this returns: a caller that then looks at the record and finds it in progress
    /// misses nothing. A notification is a hint to look again. It may be lost, and there may be one too many. So a
    /// caller that waits also asks from time to time, and often if there is no subscription. The default is no
    /// subscription, for a store that does not notify.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    fn watch(&self, id: &RequestIdentity) -> impl Future<Output = Watch> + Send {
        let _ = id;
        std::future::ready(Watch::none())
    }
}

/// A request of which it is not known whether it was done: its holder's lease is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InDoubt {
    /// The request, with the fingerprint that it was claimed with.
    pub id: RequestIdentity,
    /// The token of the holder that did not tell what it did.
    pub token: FencingToken,
    /// The number of that holder's attempt, from 1.
    pub attempt: u32,
    /// How long the lease has been over.
    pub since: Duration,
}

impl InDoubt {
    /// Returns a request in doubt, if its record says so.
    #[must_use]
    pub fn of(id: RequestIdentity, record: &Record) -> Option<Self> {
        let State::InProgress { lease_expires } = record.state else {
            return None;
        };
        let id = match record.fingerprint {
            Some(fingerprint) => id.with_known_fingerprint(fingerprint),
            None => id,
        };
        (lease_expires <= record.observed).then(|| Self {
            id,
            token: record.token,
            attempt: record.attempt,
            since: record.observed.since(lease_expires),
        })
    }
}

/// A shared store.
impl<S: Store> Store for Arc<S> {
    fn claim(&self, request: ClaimRequest) -> impl Future<Output = Result<ClaimOutcome, StoreError>> + Send {
        S::claim(self, request)
    }

    fn renew(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        lease: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::renew(self, id, token, lease)
    }

    fn end_lease(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        left: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::end_lease(self, id, token, left)
    }

    fn complete(
        &self,
        claim: Claim,
        result: RecordedResult,
        retention: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::complete(self, claim, result, retention)
    }

    fn release(&self, claim: Claim) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::release(self, claim)
    }

    fn load(&self, id: &RequestIdentity) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send {
        S::load(self, id)
    }

    fn purge(&self, limit: usize) -> impl Future<Output = Result<usize, StoreError>> + Send {
        S::purge(self, limit)
    }

    fn in_doubt(
        &self,
        limit: usize,
        after: Option<FencingToken>,
    ) -> impl Future<Output = Result<Vec<InDoubt>, StoreError>> + Send {
        S::in_doubt(self, limit, after)
    }

    fn watch(&self, id: &RequestIdentity) -> impl Future<Output = Watch> + Send {
        S::watch(self, id)
    }
}
