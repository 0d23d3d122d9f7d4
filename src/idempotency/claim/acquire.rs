//! The way to a claim: asking, waiting for the holder that there is, and what to do about a dead one.
//!
//! ```text
//!          ┌──────────── again ─────────────┐
//!          ▼                                │
//!   ask the store ──▶ in progress: watch,   │
//!      │   │  │       ask once more, wait ──┤──▶ ErrorKind::InProgress at the deadline
//!      │   │  │   └─▶ in doubt: policy ─────┘──▶ ErrorKind::InDoubt, or settled by its answer
//!      │   │  └─────▶ conflict ──▶ ErrorKind::Conflict
//!      │   └────────▶ completed ──▶ settled
//!      └────────────▶ granted
//! ```
//!
//! The deadline is the latest of all callers that share the flight. It may move to a later time while this waits.
//!
//! This does not know whether the claim is held by a lease or by a transaction. While it waits it holds nothing of the
//! store's but a subscription. The subscription exists before the store is asked once more, so no change falls between
//! the question and the wait. A notification may be lost all the same, so the store is asked from time to time, and
//! often if there is no subscription.

use std::time::Duration;

use tokio::time::Instant;

use super::asked::Asked;
use super::case::Case;
use super::denied::told;
use super::granted::Granted;
use crate::backoff::jittered;
use crate::idempotency::answer::answer_within;
use crate::idempotency::error::{Effect, Error, ErrorKind};
use crate::idempotency::missing::MissingFingerprint;
use crate::idempotency::progress::{LOCK_PATIENCE, Progress, retry_after};
use crate::idempotency::recovery::{Doubt, Recovery, Resolution};
use crate::idempotency::settled::Settled;
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record};
use crate::store::{ClaimOutcome, ClaimRequest, Denied, Store, StoreError, Takeover, Watch};
use crate::timer::{after, pause, within};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long a notification is waited for before the store is asked without one.
const WATCHED_PAUSE: Duration = Duration::from_secs(1);

pub(in crate::idempotency) struct Acquire<'a, S: Store> {
    case: &'a Case<S>,
    /// The identity with the fingerprint of its record, or without, as the next question is asked.
    known_as: Option<RequestIdentity>,
    progress: &'a Progress,
    asked: Asked<S>,
    takeover: Takeover,
    pause: Duration,
    watch: Watch,
}

/// What the way to a claim comes to.
pub(in crate::idempotency) enum Acquired<S: Store> {
    Granted(Granted<S>),
    /// There is no work to do.
    Settled(Settled),
}

impl<'a, S: Store> Acquire<'a, S> {
    pub(in crate::idempotency) fn new(case: &'a Case<S>, progress: &'a Progress) -> Self {
        let takeover = match case.shared.recovery {
            Recovery::Rerun => Takeover::Expired,
            Recovery::Hold | Recovery::Ask(_) => Takeover::Never,
        };
        Self {
            case,
            known_as: None,
            progress,
            asked: Asked::as_new_holder(case),
            takeover,
            pause: FIRST_PAUSE,
            watch: Watch::none(),
        }
    }

    /// Returns the claim, with a lease that runs. If the claim is not granted, nothing of it is left behind.
    pub(in crate::idempotency) async fn claim(mut self) -> Result<Acquired<S>, Error> {
        loop {
            let until = self.until();
            let failed = match self.ask_and_follow().await {
                Ok(None) => continue,
                Ok(Some(Acquired::Granted(granted))) => return Ok(Acquired::Granted(granted)),
                Ok(Some(settled)) => {
                    self.asked.give_back().await;
                    return Ok(settled);
                }
                Err(failed) => failed,
            };
            let failed = unless_given_back(failed, self.asked.give_back().await);
            if !self.goes_on(until) {
                return Err(failed);
            }
        }
    }

    /// Asks for a claim. `None` means that it is to be asked again.
    async fn ask_and_follow(&mut self) -> Result<Option<Acquired<S>>, Error> {
        let id = self.known_as.as_ref().unwrap_or(&self.case.id);
        let settled = match self.asked.ask(id, self.takeover, self.progress).await {
            Ok(ClaimOutcome::Granted(mut granted)) => {
                return match granted.see_that_the_lease_runs(self.patience()).await {
                    Ok(()) => Ok(Some(Acquired::Granted(granted))),
                    Err(StoreError::Outdated { .. }) => Ok(None),
                    Err(error) => {
                        let failed = self.store_failed(error, Effect::Nothing);
                        Err(unless_given_back(failed, granted.give_back().await))
                    }
                };
            }
            Ok(ClaimOutcome::Denied(denied)) => self.follow(denied).await?,
            Err(error @ StoreError::Busy { .. }) => Some(self.locked_out(error).await?),
            Err(error) => return Err(self.store_failed(error, Effect::Nothing)),
        };
        Ok(settled.map(Acquired::Settled))
    }

    fn store_failed(&self, error: StoreError, effect: Effect) -> Error {
        Error::store(&self.case.id, error, effect)
    }

    /// The request for a claim that a transaction is asked with.
    pub(in crate::idempotency) fn request(&self) -> ClaimRequest {
        let id = self.known_as.as_ref().unwrap_or(&self.case.id);
        ClaimRequest::by(self.asked.holder(), id, self.case.shared.lease)
            .takeover(self.takeover)
            .patience(self.patience())
    }

    /// How long the store is waited for.
    fn patience(&self) -> Duration {
        self.progress.patience().min(self.case.shared.store_patience)
    }

    /// Until when an answer to that request is waited for.
    pub(in crate::idempotency) fn deadline(&self) -> Instant {
        after(self.progress.answer_patience().min(self.case.shared.store_patience))
    }

    /// Until when the claim is waited for, as far as is known now.
    pub(in crate::idempotency) fn until(&self) -> Instant {
        self.progress.until()
    }

    /// Returns whether a wait that was until then is over, and another caller has asked for a longer one meanwhile.
    pub(in crate::idempotency) fn goes_on(&self, until: Instant) -> bool {
        Instant::now() >= until && !self.progress.left().is_zero()
    }

    /// Waits a random moment, longer each time, so that two transactions that met do not meet again.
    pub(in crate::idempotency) async fn pause_after_conflict(&self, retried: u32) {
        pause(jittered(FIRST_PAUSE * (1 << retried.min(5)))).await;
    }

    /// What a caller is told that did not get the store's lock. This call did nothing. When the wait is over, what is
    /// known of the request is its record. The lock may have been held for another request, or for this one where that
    /// cannot be seen.
    pub(in crate::idempotency) async fn locked_out(&self, error: StoreError) -> Result<Settled, Error> {
        let nothing_known = |error| Err(self.store_failed(error, Effect::Nothing));
        if !self.progress.left().is_zero() {
            return nothing_known(error);
        }
        let shared = &self.case.shared;
        let Some(Ok(Some(record))) = within(LOCK_PATIENCE, shared.load(&self.case.id)).await else {
            return nothing_known(error);
        };
        let own = self.case.id.fingerprint();
        let attempt = record.attempt;
        let denied = match record.lease_remaining() {
            _ if shared.missing_fingerprint.tells_apart(record.fingerprint, own) => Denied::Conflict,
            None => Denied::Completed(record),
            Some(left) if !left.is_zero() => Denied::InProgress {
                lease_remaining: retry_after(left),
                attempt,
            },
            Some(_) => match shared.recovery {
                Recovery::Hold => Denied::InDoubt {
                    token: record.token,
                    attempt,
                },
                Recovery::Rerun | Recovery::Ask(_) => return Err(self.store_failed(error, Effect::Unknown)),
            },
        };
        self.settled(told(&self.case.id, denied)?)
    }

    /// What follows from a claim that is not granted. `None` means that it is to be asked again.
    pub(in crate::idempotency) async fn follow(&mut self, denied: Denied) -> Result<Option<Settled>, Error> {
        match denied {
            Denied::Conflict if self.case.shared.missing_fingerprint != MissingFingerprint::Conflict => {
                self.reconcile().await?;
                Ok(None)
            }
            Denied::InProgress { lease_remaining, .. } if self.waits(lease_remaining).await => {
                self.known_as = None;
                Ok(None)
            }
            Denied::InProgress {
                lease_remaining,
                attempt,
            } => {
                let lease_remaining = retry_after(lease_remaining);
                let denied = Denied::InProgress {
                    lease_remaining,
                    attempt,
                };
                self.settled(told(&self.case.id, denied)?).map(Some)
            }
            // It is rare, and in a box it is no part of every flight.
            Denied::InDoubt { token, attempt } => Box::pin(self.recover(token, attempt)).await,
            Denied::Conflict | Denied::Completed(_) => self.settled(told(&self.case.id, denied)?).map(Some),
        }
    }

    /// What a completed record comes to.
    fn settled(&self, record: Record) -> Result<Settled, Error> {
        match record.result() {
            Some(result) => Ok(Settled::replayed(result.clone(), record.attempt)),
            None => {
                let what = "a completed record has no result";
                Err(self.store_failed(StoreError::Corrupt { what }, Effect::Done))
            }
        }
    }

    /// Has the next question asked with the fingerprint of the record, if that is to be accepted.
    async fn reconcile(&mut self) -> Result<(), Error> {
        let Case { shared, id, .. } = self.case;
        let loaded = answer_within(self.patience(), shared.load(id));
        let record = loaded
            .await
            .map_err(|error| self.store_failed(error, Effect::Nothing))?;
        self.known_as = match record {
            Some(record)
                if shared
                    .missing_fingerprint
                    .tells_apart(record.fingerprint, id.fingerprint()) =>
            {
                return Err(ErrorKind::Conflict.of(id));
            }
            Some(record) => Some(id.known_as(record.fingerprint)),
            // It has gone meanwhile.
            None => None,
        };
        Ok(())
    }

    /// Waits a little, if there is time left.
    async fn waits(&mut self, lease_remaining: Duration) -> bool {
        self.progress.wait(lease_remaining);
        let left = self.progress.left();
        if left.is_zero() {
            return false;
        }
        if self.watch.is_none() {
            // A store that is out of reach must not outlast the wait.
            self.watch = self.case.shared.watch(&self.case.id, left).await;
            if !self.watch.is_none() {
                return true;
            }
        }
        let mut pause = WATCHED_PAUSE;
        if self.watch.is_none() {
            pause = self.pause;
            self.pause = (self.pause * 3 / 2).min(LONGEST_PAUSE);
        }
        // Not much longer than the lease: a dead holder is to be noticed when its lease ends.
        let pause = jittered(pause).min(lease_remaining.max(FIRST_PAUSE)).min(left);
        let _ = within(pause, self.watch.changed()).await;
        true
    }

    /// Asks the policy about a dead holder.
    async fn recover(&mut self, token: FencingToken, attempt: u32) -> Result<Option<Settled>, Error> {
        let Case { shared, id, .. } = self.case;
        let resolution = match &shared.recovery {
            // The store would have granted it, if that were for a policy to say: it is held.
            Recovery::Hold | Recovery::Rerun => Resolution::Hold,
            Recovery::Ask(ask) => {
                let id = id.clone();
                // In progress meanwhile. What the policy does not find out within the wait is left as it is.
                self.progress.wait(LOCK_PATIENCE);
                let asked = ask(Doubt { id, attempt });
                within(self.progress.patience(), asked)
                    .await
                    .unwrap_or(Resolution::Hold)
            }
        };
        match resolution {
            Resolution::Rerun => {
                self.takeover = Takeover::Of(token);
                Ok(None)
            }
            Resolution::Hold => {
                let record = told(id, Denied::InDoubt { token, attempt })?;
                self.settled(record).map(Some)
            }
            Resolution::Completed(encoded) => {
                encoded.check(shared.format).map_err(|error| error.of(id))?;
                // As a new holder: if this claim is granted late, when its answer is not waited for any more, the next
                // question must not find it, since that is asked in order to work.
                let mut asked = Asked::as_new_holder(self.case);
                let known_as = self.known_as.as_ref().unwrap_or(id);
                let outcome = asked.ask(known_as, Takeover::Of(token), self.progress).await;
                self.takeover = Takeover::Never;
                match outcome.map_err(|error| self.store_failed(error, Effect::Unknown))? {
                    ClaimOutcome::Granted(granted) => {
                        let result = granted.record_known(&encoded).await?;
                        Ok(Some(Settled::replayed(result, attempt)))
                    }
                    // Another holder was faster: the next question to the store tells.
                    ClaimOutcome::Denied(_) => Ok(None),
                }
            }
        }
    }
}

/// What may have been granted, and is not given back so far, is in doubt when its lease ends.
fn unless_given_back(failed: Error, is_given_back: bool) -> Error {
    match failed.kind() {
        ErrorKind::Store(_) if failed.effect() == Effect::Nothing && !is_given_back => {
            failed.with_effect(Effect::Unknown)
        }
        _ => failed,
    }
}
