//! A claim that is granted, and under which no work has begun.
//!
//! ```text
//!              ┌──begin──────────▶ held, while the work runs
//! granted ─────┼──record_known───▶ completed, with a result that was found out
//!    ▲  │      └──renewed: no────▶ another holder has it
//!    │  └──renewed, unless its lease runs──┐
//!    └─────────────────────────────────────┘
//!
//! granted, and dropped ──▶ given back, by a task
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::case::Case;
use super::end::{Ending, give_up, record_known};
use super::held::Held;
use crate::idempotency::answer::answer_within;
use crate::idempotency::error::Error;
use crate::idempotency::recovery::Encoded;
use crate::record::RecordedResult;
use crate::store::{Claim, Store, StoreError};

/// How often a lease is renewed that was over, or nearly so, when its claim was granted.
const RENEW_TRIES: u32 = 3;

/// See the module's documentation.
pub(in crate::idempotency) struct Granted<S: Store> {
    case: Case<S>,
    claim: Claim,
    /// When the question was asked from which the lease counts.
    since: Instant,
    /// It is not to be given back.
    is_over: bool,
}

impl<S: Store> Granted<S> {
    pub(super) fn new(case: &Case<S>, claim: Claim, since: Instant) -> Self {
        Self {
            case: case.clone(),
            claim,
            since,
            is_over: false,
        }
    }

    /// Sees to it that the lease runs: work is not begun under a lease that is over, and the answer may have been long
    /// under way. Renewals are waited for up to the limit. If another holder has taken over, that is the error, and
    /// nothing is left to give back.
    pub(super) async fn see_that_the_lease_runs(&mut self, limit: Duration) -> Result<(), StoreError> {
        let (begun, first_asked) = (Instant::now(), self.since);
        let lease = self.case.shared.lease;
        let mut tries = 0;
        while self.since.elapsed() >= lease / 3 && tries < RENEW_TRIES {
            tries += 1;
            let asked = Instant::now();
            let renewed = self.case.shared.renew(&self.case.id, self.claim.token());
            match answer_within(limit.saturating_sub(begun.elapsed()), renewed).await {
                Ok(()) => self.since = asked,
                Err(outdated @ StoreError::Outdated { .. }) => {
                    self.is_over = true;
                    return Err(outdated);
                }
                Err(_) if self.since.elapsed() < lease => break,
                Err(error) => return Err(error),
            }
        }
        match self.since.elapsed() < lease {
            true => Ok(()),
            // The store takes longer than the lease lasts.
            false => Err(StoreError::Busy {
                waited: first_asked.elapsed(),
            }),
        }
    }

    /// The work begins. From here to its first poll, nothing is waited for.
    pub(in crate::idempotency) fn begin(mut self) -> Held<S> {
        let held = Held::new(&self.case, self.claim.again(), self.since);
        self.is_over = true;
        held
    }

    /// Completes the request with a result that was found out, in place of its work.
    pub(super) async fn record_known(mut self, encoded: &Encoded) -> Result<RecordedResult, Error> {
        let result = record_known(&self.case.shared, &self.claim, encoded).await?;
        self.is_over = true;
        Ok(result)
    }

    /// Gives the claim back. Returns whether nothing is left of it so far.
    pub(super) async fn give_back(mut self) -> bool {
        match self.end() {
            Some(ending) => ending.waited_for().await,
            None => true,
        }
    }

    fn end(&mut self) -> Option<Ending> {
        if std::mem::replace(&mut self.is_over, true) {
            return None;
        }
        let (case, claim) = (self.case.clone(), self.claim.again());
        Some(Ending::of(
            &self.case,
            async move { give_up(&case.shared, &claim).await },
        ))
    }
}

impl<S: Store> Drop for Granted<S> {
    fn drop(&mut self) {
        self.end();
    }
}
