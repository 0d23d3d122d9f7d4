//! The way to a claim: asking, waiting for whoever holds it, and what to do about the dead.
//!
//! ```text
//!          ┌──────────── again ─────────────┐
//!          ▼                                │
//!   ask the store ──▶ in progress: watch,   │
//!      │   │  │       ask once more, wait ──┤──▶ Error::InProgress at the deadline
//!      │   │  │   └─▶ in doubt: policy ─────┘──▶ Error::InDoubt, or settled by its answer
//!      │   │  └─────▶ conflict ──▶ Error::Conflict
//!      │   └────────▶ completed ──▶ settled
//!      └────────────▶ granted
//! ```
//!
//! It does not know whether the claim is held by a lease or by a transaction. Nor does waiting hold anything of the
//! store's but a subscription, which exists before the store is asked once more: so no change falls between the
//! question and the wait. A notification may be lost all the same, so the store is asked now and then; often, if there
//! is no subscription.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::codec::bounded;
use super::conclude;
use super::error::{Effect, Error};
use super::recovery::{Answer, Doubt, Encoded, Recovery};
use super::settled::Settled;
use crate::identity::RequestId;
use crate::record::{FencingToken, HolderId, RecordedResult, Verdict, random_u64};
use crate::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError, Takeover, Watch};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long a notification is waited for before the store is asked without one.
const WATCHED_PAUSE: Duration = Duration::from_secs(1);
/// The longest that a caller is told to stay away: the work is likely to end before its lease.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5);
/// How often a claim whose answer was lost is asked for again.
const CLAIM_TRIES: u32 = 3;
/// How often a lease is renewed that was over, or nearly so, when its claim was granted.
const RENEW_TRIES: u32 = 3;
/// How long a lock of the store is waited for, however short the wait: most are held for another request.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Approach<'a, S> {
    shared: &'a Shared<S>,
    id: &'a RequestId,
    holder: HolderId,
    takeover: Takeover,
    until: Instant,
    pause: Duration,
    watch: Watch,
}

/// What follows from an answer of the store.
pub(super) enum Step<C> {
    Granted(C),
    Settled(Settled),
    Again,
}

impl<'a, S: Store> Approach<'a, S> {
    pub(super) fn new(shared: &'a Shared<S>, id: &'a RequestId) -> Self {
        let takeover = match shared.recovery {
            Recovery::Rerun => Takeover::Expired,
            Recovery::Refuse | Recovery::Ask(_) => Takeover::Never,
        };
        Self {
            shared,
            id,
            holder: HolderId::random(),
            takeover,
            until: after(shared.wait),
            pause: FIRST_PAUSE,
            watch: Watch::none(),
        }
    }

    pub(super) fn request(&self) -> ClaimRequest<'a> {
        ClaimRequest::new(self.id, self.shared.lease)
            .holder(self.holder)
            .takeover(self.takeover)
            .patience(self.left().max(LOCK_PATIENCE))
    }

    /// How much of the wait is left.
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Asks for a claim, and sees to it that its lease runs: work is not begun under one that is over.
    /// The claim comes with an instant from which the lease counts.
    pub(super) async fn claim(&mut self) -> Result<Step<(Claim, Instant)>, Error> {
        let asked = Instant::now();
        let outcome = match self.ask().await {
            Ok(outcome) => outcome,
            Err(error @ StoreError::Busy { .. }) => return self.locked_out(error).await.map(Step::Settled),
            Err(error) => return Err(Error::store(self.id, error, Effect::Nothing)),
        };
        match self.step(outcome).await? {
            Step::Granted(claim) => self.with_running_lease(claim, asked).await,
            Step::Settled(settled) => Ok(Step::Settled(settled)),
            Step::Again => Ok(Step::Again),
        }
    }

    /// The answer to the claim may have been long under way.
    async fn with_running_lease(&self, claim: Claim, asked: Instant) -> Result<Step<(Claim, Instant)>, Error> {
        let lease = self.shared.lease;
        let mut since = asked;
        let mut tries = 0;
        while since.elapsed() >= lease / 3 && tries < RENEW_TRIES {
            tries += 1;
            let asked = Instant::now();
            match self.shared.store.renew(self.id, claim.token(), lease).await {
                Ok(()) => since = asked,
                Err(StoreError::Outdated { .. }) => return Ok(Step::Again),
                Err(_) if since.elapsed() < lease => break,
                Err(error) => {
                    conclude::give_up(self.shared, self.id, claim).await;
                    return Err(Error::store(self.id, error, Effect::Nothing));
                }
            }
        }
        if since.elapsed() < lease {
            return Ok(Step::Granted((claim, since)));
        }
        // The store takes longer than the lease lasts.
        conclude::give_up(self.shared, self.id, claim).await;
        let waited = asked.elapsed();
        Err(Error::store(self.id, StoreError::Busy { waited }, Effect::Nothing))
    }

    /// What to tell a caller that did not get the store's lock. This call did nothing. When the wait is over, what is known of
    /// the request is its record: the lock may have been held for any other, or for this one where nobody can see it.
    pub(super) async fn locked_out(&self, error: StoreError) -> Result<Settled, Error> {
        if !self.left().is_zero() {
            return Err(Error::store(self.id, error, Effect::Nothing));
        }
        let loaded = timeout(LOCK_PATIENCE, self.shared.store.load(self.id)).await;
        let Ok(Ok(Some(record))) = loaded else {
            return Err(Error::store(self.id, error, Effect::Nothing));
        };
        let (id, attempt) = (self.id.clone(), record.attempt);
        if record.fingerprint != id.fingerprint() {
            return Err(Error::Conflict { id });
        }
        if let Some(result) = record.result() {
            return Ok(Settled::replayed(result.clone(), attempt));
        }
        match record.lease_remaining() {
            Some(remaining) if !remaining.is_zero() => Err(Error::InProgress {
                id,
                retry_after: remaining.clamp(FIRST_PAUSE, LONGEST_RETRY_AFTER),
            }),
            _ => match self.shared.recovery {
                Recovery::Refuse => Err(Error::InDoubt { id, attempt }),
                Recovery::Rerun | Recovery::Ask(_) => Err(Error::store(&id, error, Effect::Unknown)),
            },
        }
    }

    /// Asks for a claim. An answer that was lost is asked for again, as the same holder: so the claim that
    /// was taken without our knowing is found, and not left to its lease. That it may have been taken stays true whatever the
    /// last try comes to.
    async fn ask(&self) -> Result<ClaimOutcome, StoreError> {
        let mut tries = 1;
        loop {
            let error = match self.shared.store.claim(self.request()).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let unknown = matches!(
                error,
                StoreError::Unavailable { .. } | StoreError::TooFewReplicas { .. }
            );
            if unknown && tries < CLAIM_TRIES {
                tries += 1;
                sleep(jittered(FIRST_PAUSE * tries)).await;
                continue;
            }
            if unknown || tries > 1 {
                conclude::disown(self.shared, self.id, self.holder).await;
            }
            return Err(error);
        }
    }

    /// What follows from the answer.
    pub(super) async fn step<C>(&mut self, outcome: ClaimOutcome<C>) -> Result<Step<C>, Error> {
        match outcome {
            ClaimOutcome::Granted(claim) => Ok(Step::Granted(claim)),
            ClaimOutcome::Completed(record) => match record.result() {
                Some(result) => Ok(Step::Settled(Settled::replayed(result.clone(), record.attempt))),
                None => {
                    let what = "a completed record has no result";
                    let error = StoreError::Corrupt { what };
                    Err(Error::store(self.id, error, Effect::Done))
                }
            },
            ClaimOutcome::Conflict => Err(Error::Conflict { id: self.id.clone() }),
            ClaimOutcome::InProgress { lease_remaining, .. } => {
                self.wait(lease_remaining).await?;
                Ok(Step::Again)
            }
            ClaimOutcome::InDoubt { token, attempt } => self.recover(token, attempt).await,
        }
    }

    /// Waits a random moment, longer each time, so that two transactions that met do not meet again.
    pub(super) async fn pause_after_conflict(&self, retried: u32) {
        sleep(jittered(FIRST_PAUSE * (1 << retried.min(5)))).await;
    }

    /// Waits a little, if there is time left.
    async fn wait(&mut self, lease_remaining: Duration) -> Result<(), Error> {
        let left = self.left();
        if left.is_zero() {
            return Err(Error::InProgress {
                id: self.id.clone(),
                retry_after: lease_remaining.clamp(FIRST_PAUSE, LONGEST_RETRY_AFTER),
            });
        }
        if self.watch.is_none() {
            // A store that is out of reach must not outlast the wait.
            let subscribed = timeout(left, self.shared.store.watch(self.id)).await;
            self.watch = subscribed.unwrap_or_else(|_| Watch::none());
            if !self.watch.is_none() {
                return Ok(());
            }
        }
        let mut pause = WATCHED_PAUSE;
        if self.watch.is_none() {
            pause = self.pause;
            self.pause = (self.pause * 3 / 2).min(LONGEST_PAUSE);
        }
        // Not much longer than the lease: a dead holder is to be noticed when it ends.
        let pause = jittered(pause).min(lease_remaining.max(FIRST_PAUSE)).min(left);
        let _ = timeout(pause, self.watch.changed()).await;
        Ok(())
    }

    /// Asks the policy about a dead holder.
    async fn recover<C>(&mut self, token: FencingToken, attempt: u32) -> Result<Step<C>, Error> {
        let doubt = Doubt {
            id: self.id.clone(),
            attempt,
        };
        let answer = match &self.shared.recovery {
            Recovery::Refuse => Answer::Refuse,
            Recovery::Rerun => Answer::Rerun,
            Recovery::Ask(ask) => ask(doubt).await,
        };
        match answer {
            Answer::Rerun => {
                self.takeover = Takeover::Of(token);
                if let Recovery::Rerun = self.shared.recovery {
                    self.takeover = Takeover::Expired;
                }
                Ok(Step::Again)
            }
            Answer::Refuse => Err(Error::InDoubt {
                id: self.id.clone(),
                attempt,
            }),
            Answer::Completed(encoded) => {
                // As somebody else: should this claim be granted late, when its answer is not waited for any more, it must
                // not be found as our own by the next question, which is asked in order to work.
                let worker = std::mem::replace(&mut self.holder, HolderId::random());
                self.takeover = Takeover::Of(token);
                let asked = self.ask().await;
                (self.holder, self.takeover) = (worker, Takeover::Never);
                let outcome = asked.map_err(|error| Error::store(self.id, error, Effect::Unknown))?;
                match outcome {
                    ClaimOutcome::Granted(claim) => {
                        let result = self.complete(claim, &encoded).await?;
                        Ok(Step::Settled(Settled::replayed(result, attempt)))
                    }
                    // Somebody was faster: the next question to the store tells.
                    _ => Ok(Step::Again),
                }
            }
        }
    }

    /// Records a result that somebody has found out.
    pub(super) async fn complete(&self, claim: Claim, encoded: &Encoded) -> Result<RecordedResult, Error> {
        let (result, _) = bounded(&encoded.0, Verdict::Performed, self.shared.sizes).of_done();
        conclude::record(self.shared, self.id, claim, &result).await?;
        Ok(result)
    }
}

/// The instant that is so far from now; for what is further than can be told, some 30 years.
pub(super) fn after(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration)
        .unwrap_or_else(|| now + Duration::from_secs(1_000_000_000))
}

/// Between a half and the whole of a pause.
pub(super) fn jittered(pause: Duration) -> Duration {
    let half = u64::try_from(pause.as_micros() / 2).unwrap_or(u64::MAX);
    Duration::from_micros(half + random_u64() % (half + 1))
}
