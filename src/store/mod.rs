//! Where records are kept: the [`Store`] trait, what passes through it, and the stores that come along.
//!
//! A store moves the [record](crate::record) of a request identity from absent to in progress to
//! completed, each time in **one atomic step**, on **its own clock**. It does not know what the work is, runs
//! nothing, and does not look into a result.
//!
//! | store | for |
//! | --- | --- |
//! | [`MemoryStore`] | tests, and services of one process whose duplicates all come within its lifetime |
//! | `SqliteStore` (feature `sqlite`) | one machine, any number of processes, one file |
//!
//! # Writing one
//!
//! Implement [`Store`]; let [`decide`] make the decision inside your atomic step; then run the
//! [conformance suite](conformance), which takes about ten lines.
//!
//! What a store must never do: hand out a token that is not larger than all before it, also after
//! everything was purged; use the clock of the machine that asks; forget a record that is in progress
//! (it may be the only trace of a mutation that was cut short: [`purge`](Store::purge) leaves it alone).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::RequestId;
use crate::record::{FencingToken, Record, RecordedResult};

mod claim;
mod clock;
pub mod conformance;
mod error;
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;
mod transaction;
pub(crate) mod turn;
mod watch;

pub use claim::{Claim, ClaimOutcome, ClaimRequest, Decision, Takeover, decide};
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::StoreError;
pub use memory::MemoryStore;
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};
pub use transaction::{Ending, OpenTransaction, TransactionalStore, WorkFuture};
pub use watch::Watch;

/// Keeps the records of request identities.
///
/// Every operation is atomic on its own, and fenced: what a holder does to its record is refused with
/// [`StoreError::Outdated`] once another token stands there.
///
/// # Cancel safety
///
/// A caller may drop the future of any operation at any time. The operation has then either happened
/// as a whole or not at all, and the store remains usable.
pub trait Store: Send + Sync + 'static {
    /// Takes the right to execute a request, or says why not. One atomic step.
    ///
    /// Asking again with the same [`HolderId`](crate::record::HolderId) answers with the same claim: so that a claim whose answer
    /// was lost can be asked for again.
    ///
    /// # Errors
    ///
    /// When the store cannot be reached or understood. The claim may have been taken nevertheless.
    fn claim(&self, request: ClaimRequest<'_>) -> impl Future<Output = Result<ClaimOutcome, StoreError>> + Send;

    /// Sets the lease of a claim to `lease` from now; zero lets it expire at once.
    ///
    /// A lease that has expired is renewed as long as nobody took over.
    ///
    /// # Errors
    ///
    /// [`StoreError::Outdated`] when the token no longer holds the claim.
    fn renew(
        &self,
        id: &RequestId,
        token: FencingToken,
        lease: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Records the result, to be replayed for `retention` from now.
    ///
    /// Completing again with the token that completed changes nothing and succeeds.
    ///
    /// # Errors
    ///
    /// [`StoreError::Outdated`] when the token no longer holds the claim: nothing was recorded. Any other
    /// error leaves open whether it was: [`load`](Self::load) tells.
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
    /// [`StoreError::Outdated`] when the token no longer holds the claim.
    fn release(&self, claim: Claim) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What is known of an identity. A completed record past its retention is not.
    ///
    /// # Errors
    ///
    /// When the store cannot be reached or understood.
    fn load(&self, id: &RequestId) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send;

    /// Deletes at most `limit` completed records that are past their retention, and says how many.
    ///
    /// Purging is about space only: such a record counts as absent whether it is still there or not. Call
    /// it from time to time, again while it answers `limit`. What is in progress is never deleted.
    ///
    /// # Errors
    ///
    /// When the store cannot be reached.
    fn purge(&self, limit: usize) -> impl Future<Output = Result<usize, StoreError>> + Send;

    /// Subscribes to changes of a record: a claim of it that ends, in whichever way and process.
    ///
    /// The subscription exists when this answers: whoever then looks at the record and finds it in progress misses nothing.
    /// A notification is a hint to look again, and may be lost or one too many; so whoever waits also asks from time to
    /// time, and often if there is no subscription, which is the answer of a store that does not notify.
    ///
    /// # Cancel safety
    ///
    /// May be dropped.
    fn watch(&self, id: &RequestId) -> impl Future<Output = Watch> + Send {
        let _ = id;
        std::future::ready(Watch::none())
    }
}

/// A store that is shared.
impl<S: Store> Store for Arc<S> {
    fn claim(&self, request: ClaimRequest<'_>) -> impl Future<Output = Result<ClaimOutcome, StoreError>> + Send {
        S::claim(self, request)
    }

    fn renew(
        &self,
        id: &RequestId,
        token: FencingToken,
        lease: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        S::renew(self, id, token, lease)
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

    fn load(&self, id: &RequestId) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send {
        S::load(self, id)
    }

    fn purge(&self, limit: usize) -> impl Future<Output = Result<usize, StoreError>> + Send {
        S::purge(self, limit)
    }

    fn watch(&self, id: &RequestId) -> impl Future<Output = Watch> + Send {
        S::watch(self, id)
    }
}
