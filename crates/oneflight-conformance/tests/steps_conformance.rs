//! Promise 16: the suite for stores that keep steps passes on the store in memory, and fails on broken ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[macro_use]
#[path = "../../../tests/common/inner.rs"]
mod inner;
mod common;

use std::time::Duration;

use common::each_is_found;
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Denied, ManualClock, MemoryStore, Purpose, Standing, StartedBy, StepId, StepRecord,
    StepStore, StepsClaim, Store, StoreError, Takeover, UnfinishedQuery, UnfinishedSteps, WorkflowRecord,
    WorkflowStart,
};
use oneflight_conformance as conformance;

/// How a store is broken.
#[derive(Clone, Copy, Debug)]
enum Defect {
    ForgetsSteps,
    ReversesSteps,
    IgnoresKeys,
    RecordsForAnyToken,
    AcceptsAnyVersion,
    IgnoresThatItIsHeld,
    TakesOverByAnyToken,
    StartsForACompleter,
    CountsNoTries,
    ListsAllKinds,
    ListsWhatPauses,
    ChangesTheInput,
    ForgetsForks,
    KeepsTheVersion,
    ComparesInputs,
    TakesInputs,
    SettlesNothing,
    SettlesUnderItsHolder,
    GivesUpUnderItsHolder,
    ResolvesWithoutSteps,
}

/// A store in memory with a defect.
struct Broken {
    inner: MemoryStore,
    defect: Defect,
}

impl Broken {
    fn is(&self, defect: Defect) -> bool {
        self.defect as u8 == defect as u8
    }

    /// The token that stands there, whichever is named.
    async fn token(&self, id: &RequestIdentity, named: FencingToken) -> FencingToken {
        let known = self.inner.load_steps(id).await.unwrap();
        known.map_or(named, |known| known.token)
    }

    /// As a store does that looks at no lease.
    async fn ends_lease(&self, id: &RequestIdentity, token: FencingToken) {
        let _ = self.inner.end_lease(id, token, Duration::ZERO).await;
    }
}

impl Store for Broken {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let request = match self.is(Defect::ResolvesWithoutSteps) {
            true => request.purpose(Purpose::Execute),
            false => request,
        };
        self.inner.claim(request).await
    }

    all_but_claim!();
}

impl StepStore for Broken {
    async fn begin_steps(
        &self,
        request: ClaimRequest,
        start: WorkflowStart,
    ) -> Result<ClaimOutcome<StepsClaim>, StoreError> {
        let (mut request, mut start) = (request, start);
        let known = self.inner.load_steps(&request.id).await?;
        match (self.defect, known) {
            (Defect::AcceptsAnyVersion, Some(known)) => start.accepts.push(known.version),
            (Defect::KeepsTheVersion, Some(known)) if start.accepts.contains(&known.version) => {
                start.version = known.version;
            }
            (Defect::ComparesInputs, Some(known))
                if request.id.fingerprint().is_none() && known.input != start.input =>
            {
                return Ok(ClaimOutcome::Denied(Denied::Conflict));
            }
            (Defect::IgnoresThatItIsHeld, Some(known)) if known.held => {
                let resumed = self.inner.set_standing(&request.id, known.token, Standing::Resumed);
                resumed.await?;
            }
            (Defect::TakesOverByAnyToken, Some(_)) if request.takeover != Takeover::Never => {
                request.takeover = Takeover::Expired;
            }
            (Defect::StartsForACompleter, None) | (Defect::CountsNoTries, _) => start.by = StartedBy::Caller,
            (Defect::ForgetsForks, None) => start.steps.clear(),
            _ => {}
        }
        let input = start.input.clone();
        let begun = self.inner.begin_steps(request, start).await?;
        Ok(begun.map(|mut begun| {
            match self.defect {
                Defect::TakesInputs if begun.workflow.steps.is_empty() => begun.workflow.input = input,
                Defect::ForgetsSteps => begun.workflow.steps.clear(),
                Defect::ReversesSteps => begun.workflow.steps.reverse(),
                Defect::ChangesTheInput if begun.claim.attempt() > 1 => {
                    begun.workflow.input = RecordedResult::not_encodable();
                }
                _ => {}
            }
            begun
        }))
    }

    async fn record_step(&self, id: &RequestIdentity, token: FencingToken, step: StepRecord) -> Result<(), StoreError> {
        let (mut token, mut step) = (token, step);
        if self.is(Defect::RecordsForAnyToken) {
            token = self.token(id, token).await;
        }
        if self.is(Defect::IgnoresKeys) {
            step.id = oneflight::store::StepId::new(step.id.name(), "");
        }
        self.inner.record_step(id, token, step).await
    }

    async fn settle_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: &StepId,
        answer: Option<RecordedResult>,
    ) -> Result<(), StoreError> {
        match self.defect {
            Defect::SettlesNothing => return Ok(()),
            Defect::SettlesUnderItsHolder => self.ends_lease(id, token).await,
            _ => {}
        }
        self.inner.settle_step(id, token, step, answer).await
    }

    async fn load_steps(&self, id: &RequestIdentity) -> Result<Option<WorkflowRecord>, StoreError> {
        self.inner.load_steps(id).await
    }

    async fn unfinished_steps(&self, query: UnfinishedQuery) -> Result<Vec<UnfinishedSteps>, StoreError> {
        let mut query = query;
        if self.is(Defect::ListsWhatPauses) {
            query.first_pause = Duration::ZERO;
        }
        if self.is(Defect::ListsAllKinds) {
            query.kinds = None;
        }
        self.inner.unfinished_steps(query).await
    }

    async fn set_standing(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        standing: Standing,
    ) -> Result<(), StoreError> {
        if let (Defect::GivesUpUnderItsHolder, Standing::GivenUp) = (self.defect, standing) {
            self.ends_lease(id, token).await;
        }
        self.inner.set_standing(id, token, standing).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_store_does_not_conform() {
    let expected = [
        (Defect::ForgetsSteps, "recorded_steps_come_with_the_next_claim"),
        (Defect::ReversesSteps, "recorded_steps_come_with_the_next_claim"),
        (Defect::IgnoresKeys, "recorded_steps_come_with_the_next_claim"),
        (Defect::ChangesTheInput, "recorded_steps_come_with_the_next_claim"),
        (Defect::RecordsForAnyToken, "an_outdated_holder_records_no_step"),
        (Defect::AcceptsAnyVersion, "another_name_or_version_does_not_go_on"),
        (Defect::IgnoresThatItIsHeld, "what_is_held_is_not_gone_on_with"),
        (
            Defect::TakesOverByAnyToken,
            "a_completer_starts_nothing_and_takes_over_by_token",
        ),
        (
            Defect::StartsForACompleter,
            "a_completer_starts_nothing_and_takes_over_by_token",
        ),
        (
            Defect::CountsNoTries,
            "a_completer_starts_nothing_and_takes_over_by_token",
        ),
        (Defect::ListsAllKinds, "what_is_unfinished_is_listed"),
        (Defect::ListsWhatPauses, "what_is_unfinished_is_listed"),
        (Defect::KeepsTheVersion, "another_name_or_version_does_not_go_on"),
        (Defect::ComparesInputs, "the_input_that_it_was_begun_with_goes_on"),
        (Defect::TakesInputs, "the_input_that_it_was_begun_with_goes_on"),
        (
            Defect::SettlesNothing,
            "a_step_is_settled_by_a_person_while_nobody_has_the_mutation",
        ),
        (
            Defect::SettlesUnderItsHolder,
            "a_step_is_settled_by_a_person_while_nobody_has_the_mutation",
        ),
        (Defect::GivesUpUnderItsHolder, "it_is_given_up_only_while_nobody_has_it"),
        (
            Defect::ResolvesWithoutSteps,
            "what_is_taken_over_to_be_resolved_keeps_its_steps",
        ),
        (Defect::ForgetsForks, "a_fork_has_its_steps_from_the_start"),
    ];
    each_is_found(expected, async |defect| {
        let clock = ManualClock::new();
        let make = async || Broken {
            inner: MemoryStore::with_clock(clock.clone()),
            defect,
        };
        conformance::run_steps_with(make, async |duration| clock.advance(duration)).await
    })
    .await;
}
