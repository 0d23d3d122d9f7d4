//! A claim under which work runs.
//!
//! ```text
//!         ┌──complete────────▶ recorded
//! held ───┼──release─────────▶ new again, unless an earlier attempt is in doubt
//!         ├──leave_in_doubt──▶ in doubt, once what the work left has settled
//!         └──dropped─────────▶ in doubt, when its lease ends
//! ```
//!
//! Its [lease](super::lease) is kept alive until then. A task sees to the end where the caller need not wait for it.

use std::future::Future;
use std::pin::{Pin, pin};

use tokio::time::Instant;

use super::case::Case;
use super::end::{Ending, give_up, let_go, record};
use super::lease::Lease;
use super::standing::View;
use crate::idempotency::error::Error;
use crate::record::{FencingToken, RecordedResult};
use crate::store::{Claim, Store};
use crate::telemetry;

/// See the module's documentation.
pub(in crate::idempotency) struct Held<S: Store> {
    case: Case<S>,
    claim: Claim,
    lease: Lease<S>,
}

impl<S: Store> Held<S> {
    pub(super) fn new(case: &Case<S>, claim: Claim, since: Instant) -> Self {
        if let Some(dead) = claim.took_over() {
            telemetry::took_over(&case.id, dead.get(), claim.attempt());
        }
        Self {
            lease: Lease::keep(case.clone(), claim.token(), since),
            case: case.clone(),
            claim,
        }
    }

    /// Returns the number of this attempt at the request, from 1.
    pub(in crate::idempotency) fn attempt(&self) -> u32 {
        self.claim.attempt()
    }

    /// Returns the token of the claim.
    pub(in crate::idempotency) fn token(&self) -> FencingToken {
        self.claim.token()
    }

    /// Returns what the work may know of the lease.
    pub(in crate::idempotency) fn view(&self) -> View {
        self.lease.view()
    }

    /// Runs the work under the claim.
    pub(in crate::idempotency) async fn during<W: Future>(&mut self, work: Pin<&mut W>) -> W::Output {
        self.lease.during(work).await
    }

    /// The work is done: records its result. The lease is kept until that is over.
    pub(in crate::idempotency) async fn complete(mut self, result: &RecordedResult) -> Result<(), Error> {
        self.lease.concluding();
        let recorded = pin!(record(&self.case.shared, &self.claim, result));
        self.lease.during(recorded).await
    }

    /// Nothing was done: gives the claim back.
    pub(in crate::idempotency) async fn release(self) {
        let Self { case, claim, lease } = self;
        let of = case.clone();
        let ending = Ending::of(&of, async move {
            lease.stop().await;
            give_up(&case.shared, &claim).await
        });
        ending.waited_for().await;
    }

    /// The work has not told what it did: leaves the request in doubt, once that has settled.
    pub(in crate::idempotency) async fn leave_in_doubt(self) {
        let Self { case, claim, lease } = self;
        let of = case.clone();
        let ending = Ending::of(&of, async move {
            lease.stop().await;
            let_go(&case.shared, &claim, case.shared.settle).await
        });
        ending.waited_for().await;
    }
}
