//! Promises 10 and 11: the conformance suite passes on the store in memory, and fails on broken ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{ANY, each_is_found};
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, Record, RecordedResult, Timestamp};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Clock, DynStore, ManualClock, MemoryStore, Store, StoreError, Takeover,
};
use oneflight_conformance as conformance;
use tokio::time::{Instant, sleep};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_store_conforms() {
    conformance::run(async || MemoryStore::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_store_conforms_without_sleeping() {
    let clock = ManualClock::new();
    conformance::run_with(
        async || MemoryStore::with_clock(clock.clone()),
        async |duration| clock.advance(duration),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_its_type_conforms() {
    conformance::run(async || DynStore::new(MemoryStore::new()))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_store_keeps_steps() {
    conformance::run_steps(async || MemoryStore::new()).await.unwrap();
    let clock = ManualClock::new();
    conformance::run_steps_with(
        async || MemoryStore::with_clock(clock.clone()),
        async |duration| clock.advance(duration),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_look_into_the_memory_store() {
    conformance::run_upkeep(async || MemoryStore::new()).await.unwrap();
    conformance::run_upkeep_of_steps(async || MemoryStore::new())
        .await
        .unwrap();
    let clock = ManualClock::new();
    conformance::run_upkeep_with(
        async || MemoryStore::with_clock(clock.clone()),
        async |duration| clock.advance(duration),
    )
    .await
    .unwrap();
}

struct OfTheRuntime(Instant);

impl Clock for OfTheRuntime {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_000).after(self.0.elapsed())
    }
}

/// How a store is broken.
#[derive(Clone, Copy, Debug)]
enum Defect {
    Nothing,
    GrantsEveryClaim,
    IgnoresTokens,
    IgnoresFingerprints,
    NeverTakesOver,
    TakesOverUnasked,
    ForgetsResults,
    ForgetsWhatIsInDoubt,
    CountsBackwards,
    KeepsForever,
    ShortensLeases,
    IgnoresCase,
    EndsOnlySooner,
    RenewsOnlyWhatRuns,
    RecordsWhatWasReleased,
}

/// A memory store with a defect.
struct Broken {
    store: MemoryStore,
    defect: Defect,
    tokens: AtomicU64,
    /// How long it takes to claim, and to complete.
    takes: Duration,
}

impl Broken {
    fn new(defect: Defect) -> Self {
        Self {
            store: MemoryStore::new(),
            defect,
            tokens: AtomicU64::new(1_000_000),
            takes: Duration::ZERO,
        }
    }

    /// On a machine on which nothing is done within a short lease, by the runtime's clock.
    fn slow(defect: Defect) -> Self {
        Self {
            store: MemoryStore::with_clock(OfTheRuntime(Instant::now())),
            takes: Duration::from_millis(500),
            ..Self::new(defect)
        }
    }

    /// The token that stands in the record, whatever the caller's was.
    async fn valid(&self, id: &RequestIdentity, token: FencingToken) -> FencingToken {
        match (self.defect, self.store.load(id).await.unwrap()) {
            (Defect::IgnoresTokens, Some(record)) => record.token,
            _ => token,
        }
    }
}

impl Store for Broken {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        sleep(self.takes).await;
        let bare = RequestIdentity::new(oneflight::identity::Scope::new("bare"), request.id.key()).unwrap();
        let mut request = request;
        match self.defect {
            Defect::GrantsEveryClaim => {
                let token = FencingToken::new(self.tokens.fetch_add(1, Ordering::Relaxed));
                return Ok(ClaimOutcome::Granted(Claim::new(request.id.clone(), token, 1, None)));
            }
            Defect::IgnoresFingerprints => request.id = bare,
            Defect::IgnoresCase => {
                let key = request.id.key().to_lowercase();
                request.id = RequestIdentity::from_stored(&request.id.scope().to_lowercase(), &key).unwrap();
            }
            Defect::NeverTakesOver => request = request.takeover(Takeover::Never),
            Defect::TakesOverUnasked => request = request.takeover(Takeover::Expired),
            _ => {}
        }
        let outcome = self.store.claim(request).await?;
        Ok(match (self.defect, outcome) {
            (Defect::CountsBackwards, ClaimOutcome::Granted(claim)) => {
                let token = FencingToken::new(1_000_000 - claim.token().get());
                ClaimOutcome::Granted(Claim::new(claim.id().clone(), token, claim.attempt(), None))
            }
            (_, outcome) => outcome,
        })
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        let token = self.valid(id, token).await;
        match self.defect {
            Defect::ShortensLeases => self.store.end_lease(id, token, lease).await,
            Defect::RenewsOnlyWhatRuns
                if (self.store.load(id).await?).and_then(|it| it.lease_remaining()) == Some(Duration::ZERO) =>
            {
                Err(StoreError::Outdated { token })
            }
            _ => self.store.renew(id, token, lease).await,
        }
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        let token = self.valid(id, token).await;
        match self.defect {
            Defect::EndsOnlySooner if left > Duration::from_secs(60) => Ok(()),
            _ => self.store.end_lease(id, token, left).await,
        }
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        sleep(self.takes).await;
        let token = self.valid(claim.id(), claim.token()).await;
        let claim = Claim::new(claim.id().clone(), token, claim.attempt(), None);
        match self.defect {
            Defect::ForgetsResults => self.store.release(claim).await,
            Defect::RecordsWhatWasReleased if self.store.load(claim.id()).await?.is_none() => {
                let request = ClaimRequest::new(claim.id(), Duration::from_secs(60));
                match self.store.claim(request).await? {
                    ClaimOutcome::Granted(claim) => self.store.complete(claim, result, retention).await,
                    ClaimOutcome::Denied(_) => Ok(()),
                }
            }
            Defect::KeepsForever => self.store.complete(claim, result, Duration::MAX).await,
            _ => self.store.complete(claim, result, retention).await,
        }
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        let token = self.valid(claim.id(), claim.token()).await;
        let claim = Claim::new(claim.id().clone(), token, claim.attempt(), None);
        self.store.release(claim).await
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        let record = self.store.load(id).await?;
        Ok(record.filter(|record| {
            let doubtful = record.lease_remaining() == Some(Duration::ZERO);
            !(matches!(self.defect, Defect::ForgetsWhatIsInDoubt) && doubtful)
        }))
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.store.purge(limit).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_store_does_not_conform() {
    let expected = [
        (Defect::GrantsEveryClaim, ANY),
        (Defect::IgnoresTokens, "an_outdated_holder_is_refused"),
        (Defect::IgnoresFingerprints, ANY),
        (Defect::NeverTakesOver, "a_lease_that_is_ended_is_over"),
        (Defect::TakesOverUnasked, "a_lease_runs_out_and_is_in_doubt"),
        (Defect::ForgetsResults, "one_of_many_gets_the_claim"),
        (
            Defect::ForgetsWhatIsInDoubt,
            "purging_deletes_what_is_past_retention_only",
        ),
        (Defect::CountsBackwards, "a_new_identity_is_granted"),
        (Defect::KeepsForever, "after_retention_an_identity_is_new"),
        (Defect::ShortensLeases, "a_renewal_never_shortens_a_lease"),
        (Defect::IgnoresCase, "identities_do_not_disturb_each_other"),
        (Defect::EndsOnlySooner, "a_lease_that_is_ended_later_lasts_until_then"),
        (
            Defect::RenewsOnlyWhatRuns,
            "a_lease_that_is_over_is_renewed_while_nobody_took_over",
        ),
        (Defect::RecordsWhatWasReleased, "what_was_released_is_not_completed"),
    ];
    each_is_found(expected, async |defect| {
        conformance::run(async || Broken::new(defect)).await
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_machine_is_told_from_a_broken_store() {
    conformance::run(async || Broken::slow(Defect::Nothing)).await.unwrap();
    let expected = [
        (Defect::TakesOverUnasked, "a_lease_runs_out_and_is_in_doubt"),
        (Defect::KeepsForever, "after_retention_an_identity_is_new"),
        (Defect::ShortensLeases, "a_renewal_never_shortens_a_lease"),
        (Defect::EndsOnlySooner, "a_lease_that_is_ended_later_lasts_until_then"),
    ];
    each_is_found(expected, async |defect| {
        conformance::run(async || Broken::slow(defect)).await
    })
    .await;
}
