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
//! The deadline is the latest of all callers that share the flight, and may come to be later while this waits.
//!
//! It does not know whether the claim is held by a lease or by a transaction. Nor does waiting hold anything of the
//! store's but a subscription, which exists before the store is asked once more: so no change falls between the
//! question and the wait. A notification may be lost all the same, so the store is asked now and then; often, if there
//! is no subscription.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::Shared;
use super::asking::{may_have_landed, silent};
use super::builder::MissingFingerprint;
use super::conclude::record_known;
use super::error::{Effect, Error, ErrorKind};
use super::progress::{LOCK_PATIENCE, Progress};
use super::recovery::{Doubt, Recovery, Resolution};
use super::settled::Settled;
use super::stake::Stake;
use super::timer::{after, pause, within};
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, random_u64};
use crate::store::{Claim, ClaimOutcome, ClaimRequest, Denied, Store, StoreError, Takeover, Watch};

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
/// How much longer than its locks the store itself is waited for.
const MARGIN: Duration = Duration::from_millis(500);
/// How long a claim that is given back is waited for. It is given back all the same.
pub(super) const GIVING_BACK: Duration = Duration::from_secs(1);

pub(super) struct Approach<'a, S: Store> {
    shared: &'a Arc<Shared<S>>,
    id: &'a RequestIdentity,
    /// The same with the fingerprint of its record, or without, as the next question is asked.
    known_as: Option<RequestIdentity>,
    progress: &'a Progress,
    runtime: &'a Handle,
    stake: Stake<S>,
    takeover: Takeover,
    pause: Duration,
    watch: Watch,
}

/// What follows from an answer of the store.
pub(super) enum Step<C> {
    Granted(C),
    Settled(Settled),
    Again,
}

/// A claim, the stake that gives it back if its work does not begin, and the instant from which its lease counts.
pub(super) type Granted<S> = (Stake<S>, Claim, Instant);

impl<'a, S: Store> Approach<'a, S> {
    pub(super) fn new(
        shared: &'a Arc<Shared<S>>,
        id: &'a RequestIdentity,
        progress: &'a Progress,
        runtime: &'a Handle,
    ) -> Self {
        let takeover = match shared.recovery {
            Recovery::Rerun => Takeover::Expired,
            Recovery::Hold | Recovery::Ask(_) => Takeover::Never,
        };
        Self {
            shared,
            id,
            known_as: None,
            progress,
            runtime,
            stake: Stake::new(shared, id, runtime),
            takeover,
            pause: FIRST_PAUSE,
            watch: Watch::none(),
        }
    }

    /// The identity with the fingerprint that the next question is asked with.
    fn asked(&self) -> &RequestIdentity {
        self.known_as.as_ref().unwrap_or(self.id)
    }

    /// What a transaction is asked for with.
    pub(super) fn request(&self) -> ClaimRequest {
        ClaimRequest::new(self.asked(), self.shared.lease)
            .holder(self.stake.holder())
            .takeover(self.takeover)
            .patience(patience(self.progress))
    }

    /// Until when an answer to that is waited for.
    pub(super) fn deadline(&self) -> Instant {
        after(patience(self.progress) + MARGIN)
    }

    /// How much of the wait is left.
    fn left(&self) -> Duration {
        left(self.progress)
    }

    /// Until when the claim is waited for, as far as is known now.
    pub(super) fn until(&self) -> Instant {
        self.progress.until()
    }

    /// Whether a wait that was until then is over, and another caller has asked for a longer one meanwhile.
    pub(super) fn goes_on(&self, until: Instant) -> bool {
        Instant::now() >= until && !self.left().is_zero()
    }

    /// Asks for a claim, and sees to it that its lease runs: work is not begun under one that is over.
    /// Unless it is granted, nothing of it is left behind.
    pub(super) async fn claim(&mut self) -> Result<Step<Granted<S>>, Error> {
        let until = self.until();
        let step = self.ask_and_follow().await;
        match step {
            Ok(Step::Again) => step,
            Ok(Step::Settled(_)) | Err(_) => {
                let is_given_back = self.give_back().await;
                match step {
                    Err(_) if self.goes_on(until) => Ok(Step::Again),
                    // What may have been granted is in doubt when its lease ends.
                    Err(error)
                        if !is_given_back
                            && matches!(error.kind(), ErrorKind::Store(_))
                            && error.effect() == Effect::Nothing =>
                    {
                        Err(error.with_effect(Effect::Unknown))
                    }
                    step => step,
                }
            }
            Ok(Step::Granted(_)) => step,
        }
    }

    async fn ask_and_follow(&mut self) -> Result<Step<Granted<S>>, Error> {
        let asked = Instant::now();
        let outcome = match ask(
            &mut self.stake,
            self.known_as.as_ref().unwrap_or(self.id),
            self.progress,
            self.takeover,
        )
        .await
        {
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

    /// Gives back what may have been granted. From now on this is another holder, so that what is granted late is not
    /// found as its own. Says whether nothing is left of it so far.
    async fn give_back(&mut self) -> bool {
        let mut before = self.take_stake();
        let is_open = before.is_open();
        match before.give_back() {
            Some(given_back) => matches!(within(GIVING_BACK, given_back).await, Some(Ok(true))) || !is_open,
            None => true,
        }
    }

    fn take_stake(&mut self) -> Stake<S> {
        let stake = Stake::new(self.shared, self.id, self.runtime);
        std::mem::replace(&mut self.stake, stake)
    }

    /// The answer to the claim may have been long under way.
    async fn with_running_lease(&mut self, claim: Claim, asked: Instant) -> Result<Step<Granted<S>>, Error> {
        let lease = self.shared.lease;
        let mut since = asked;
        let mut tries = 0;
        while since.elapsed() >= lease / 3 && tries < RENEW_TRIES {
            tries += 1;
            let asked = Instant::now();
            match self.shared.renew(self.id, claim.token()).await {
                Ok(()) => since = asked,
                Err(StoreError::Outdated { .. }) => {
                    self.stake.is_used();
                    return Ok(Step::Again);
                }
                Err(_) if since.elapsed() < lease => break,
                Err(error) => return Err(Error::store(self.id, error, Effect::Nothing)),
            }
        }
        if since.elapsed() < lease {
            return Ok(Step::Granted((self.take_stake(), claim, since)));
        }
        // The store takes longer than the lease lasts.
        let waited = asked.elapsed();
        Err(Error::store(self.id, StoreError::Busy { waited }, Effect::Nothing))
    }

    /// What to tell a caller that did not get the store's lock. This call did nothing. When the wait is over, what is known of
    /// the request is its record: the lock may have been held for any other, or for this one where nobody can see it.
    pub(super) async fn locked_out(&self, error: StoreError) -> Result<Settled, Error> {
        if !self.left().is_zero() {
            return Err(Error::store(self.id, error, Effect::Nothing));
        }
        let Some(Ok(Some(record))) = within(LOCK_PATIENCE, self.shared.load(self.id)).await else {
            return Err(Error::store(self.id, error, Effect::Nothing));
        };
        let attempt = record.attempt;
        if self
            .shared
            .missing_fingerprint
            .tells_apart(record.fingerprint, self.id.fingerprint())
        {
            return Err(ErrorKind::Conflict.of(self.id));
        }
        if let Some(result) = record.result() {
            return Ok(Settled::replayed(result.clone(), attempt));
        }
        match record.lease_remaining() {
            Some(remaining) if !remaining.is_zero() => Err(ErrorKind::InProgress {
                retry_after: remaining.clamp(FIRST_PAUSE, LONGEST_RETRY_AFTER),
            }
            .of(self.id)),
            _ => match self.shared.recovery {
                Recovery::Hold => Err(ErrorKind::InDoubt { attempt }.of(self.id)),
                Recovery::Rerun | Recovery::Ask(_) => Err(Error::store(self.id, error, Effect::Unknown)),
            },
        }
    }

    /// What follows from the answer.
    pub(super) async fn step<C>(&mut self, outcome: ClaimOutcome<C>) -> Result<Step<C>, Error> {
        match outcome {
            ClaimOutcome::Granted(claim) => Ok(Step::Granted(claim)),
            ClaimOutcome::Denied(Denied::Completed(record)) => match record.result() {
                Some(result) => Ok(Step::Settled(Settled::replayed(result.clone(), record.attempt))),
                None => {
                    let what = "a completed record has no result";
                    let error = StoreError::Corrupt { what };
                    Err(Error::store(self.id, error, Effect::Done))
                }
            },
            ClaimOutcome::Denied(Denied::Conflict) => {
                self.reconcile().await?;
                Ok(Step::Again)
            }
            ClaimOutcome::Denied(Denied::InProgress { lease_remaining, .. }) => {
                self.progress.wait();
                self.wait(lease_remaining).await?;
                self.known_as = None;
                Ok(Step::Again)
            }
            ClaimOutcome::Denied(Denied::InDoubt { token, attempt }) => self.recover(token, attempt).await,
        }
    }

    /// Has the next question asked with the fingerprint of the record, if that is to be accepted.
    async fn reconcile(&mut self) -> Result<(), Error> {
        let conflict = || ErrorKind::Conflict.of(self.id);
        let missing = self.shared.missing_fingerprint;
        if missing == MissingFingerprint::Conflict {
            return Err(conflict());
        }
        let loaded = self.shared.load(self.id).await;
        let record = loaded.map_err(|error| Error::store(self.id, error, Effect::Nothing))?;
        self.known_as = match record {
            Some(record) if missing.tells_apart(record.fingerprint, self.id.fingerprint()) => return Err(conflict()),
            Some(record) => Some(self.id.known_as(record.fingerprint)),
            // It has gone meanwhile.
            None => None,
        };
        Ok(())
    }

    /// Waits a random moment, longer each time, so that two transactions that met do not meet again.
    pub(super) async fn pause_after_conflict(&self, retried: u32) {
        pause(jittered(FIRST_PAUSE * (1 << retried.min(5)))).await;
    }

    /// Waits a little, if there is time left.
    async fn wait(&mut self, lease_remaining: Duration) -> Result<(), Error> {
        let left = self.left();
        if left.is_zero() {
            return Err(ErrorKind::InProgress {
                retry_after: lease_remaining.clamp(FIRST_PAUSE, LONGEST_RETRY_AFTER),
            }
            .of(self.id));
        }
        if self.watch.is_none() {
            // A store that is out of reach must not outlast the wait.
            self.watch = self.shared.watch(self.id, left).await;
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
        let _ = within(pause, self.watch.changed()).await;
        Ok(())
    }

    /// Asks the policy about a dead holder.
    async fn recover<C>(&mut self, token: FencingToken, attempt: u32) -> Result<Step<C>, Error> {
        let doubt = Doubt {
            id: self.id.clone(),
            attempt,
        };
        let answer = match &self.shared.recovery {
            // The store would have granted it, if that were for a policy to say: it is held.
            Recovery::Hold | Recovery::Rerun => Resolution::Hold,
            Recovery::Ask(ask) => ask(doubt).await,
        };
        match answer {
            Resolution::Rerun => {
                self.takeover = Takeover::Of(token);
                Ok(Step::Again)
            }
            Resolution::Hold => Err(ErrorKind::InDoubt { attempt }.of(self.id)),
            Resolution::Completed(encoded) => {
                encoded.check(self.shared.format).map_err(|error| error.of(self.id))?;
                // As somebody else: should this claim be granted late, when its answer is not waited for any more, it must
                // not be found as our own by the next question, which is asked in order to work.
                let mut stake = Stake::new(self.shared, self.id, self.runtime);
                let asked = ask(&mut stake, self.asked(), self.progress, Takeover::Of(token)).await;
                self.takeover = Takeover::Never;
                match asked.map_err(|error| Error::store(self.id, error, Effect::Unknown))? {
                    ClaimOutcome::Granted(claim) => {
                        let result = record_known(self.shared, self.id, claim, &encoded).await?;
                        stake.is_used();
                        Ok(Step::Settled(Settled::replayed(result, attempt)))
                    }
                    // Somebody was faster: the next question to the store tells.
                    _ => Ok(Step::Again),
                }
            }
        }
    }
}

/// How much of the wait is left.
fn left(progress: &Progress) -> Duration {
    progress.until().saturating_duration_since(Instant::now())
}

/// How long the locks of the store may be waited for.
fn patience(progress: &Progress) -> Duration {
    left(progress).max(LOCK_PATIENCE)
}

/// Asks for a claim. An answer that was lost is asked for again, as the same holder: so the claim that
/// was taken without our knowing is found, and not left to its lease. If none comes, the error is one after which the
/// claim may have been granted, if there was any.
async fn ask<S: Store>(
    stake: &mut Stake<S>,
    id: &RequestIdentity,
    progress: &Progress,
    takeover: Takeover,
) -> Result<ClaimOutcome, StoreError> {
    let asked = Instant::now();
    let deadline = after(patience(progress) + MARGIN);
    let mut lost = None;
    for tries in 1.. {
        match stake.ask(id, takeover, patience(progress), deadline).await {
            Some(Ok(outcome)) => return Ok(outcome),
            Some(Err(error)) if may_have_landed(&error) && tries < CLAIM_TRIES && Instant::now() < deadline => {
                lost.get_or_insert(error);
            }
            Some(Err(error)) => return Err(lost.unwrap_or(error)),
            None => break,
        }
        pause(jittered(FIRST_PAUSE * (tries + 1))).await;
    }
    Err(lost.unwrap_or_else(|| silent(asked.elapsed())))
}

/// Between a half and the whole of a pause.
pub(super) fn jittered(pause: Duration) -> Duration {
    let half = u64::try_from(pause.as_micros() / 2).unwrap_or(u64::MAX);
    Duration::from_micros(half + random_u64() % (half + 1))
}
