//! What a store must do that keeps the steps of mutations, for an operator who looks into it.

use std::time::Duration;

use super::{Checked, Failure, LONG, Probe, name, result, run_check};
use oneflight::identity::RequestIdentity;
use oneflight::record::RecordedResult;
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Denied, Erase, RecordQuery, RecordState, StartedBy, StepId, StepRecord, StepStore,
    StepsClaim, Takeover, Upkeep, WorkflowStart,
};

/// Runs the suite of what [`Upkeep`] promises of mutations of steps against a store whose time passes by itself. `make` returns
/// an empty store.
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_upkeep_of_steps<S: Upkeep + StepStore>(make: impl AsyncFn() -> S) -> Result<(), Failure> {
    let pass = async |duration| tokio::time::sleep(duration).await;
    macro_rules! check {
        ($($name:ident),* $(,)?) => {$(
            run_check!(make, pass, $name, $name);
        )*};
    }
    check!(
        what_goes_on_by_itself_is_in_progress,
        a_mutation_that_is_held_is_gone_on_with_by_nobody,
        steps_lose_their_answers,
        steps_go_with_an_erased_record,
        who_goes_on_without_an_id_keeps_the_first_ones,
    );
    Ok(())
}

fn start(by: StartedBy) -> WorkflowStart {
    WorkflowStart {
        name: "place_order".to_owned(),
        version: "1".to_owned(),
        accepts: Vec::new(),
        input: result(200),
        steps: Vec::new(),
        by,
    }
}

impl<S: Upkeep + StepStore, P: AsyncFn(Duration)> Probe<'_, S, P> {
    async fn begun_by(&self, request: ClaimRequest, by: StartedBy) -> Result<StepsClaim, Failure> {
        match self.ok(self.store.begin_steps(request, start(by)).await)? {
            ClaimOutcome::Granted(begun) => Ok(begun),
            other => self.failure(format!("expected a grant, got {}", name(&other))),
        }
    }

    /// Begins, with a lease that is over at once, and records a step.
    async fn mutation(&self, id: &RequestIdentity) -> Result<StepsClaim, Failure> {
        let request = ClaimRequest::new(id, Duration::ZERO);
        let begun = self.begun_by(request, StartedBy::Caller).await?;
        let step = StepRecord {
            id: StepId::new("charge", ""),
            input: None,
            result: Some(result(1)),
        };
        self.ok(self.store.record_step(id, begun.claim.token(), step).await)?;
        Ok(begun)
    }
}

async fn what_goes_on_by_itself_is_in_progress<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Upkeep + StepStore,
    P: AsyncFn(Duration),
{
    let id = probe.id("goes-on")?;
    let _ = probe.mutation(&id).await?;
    probe.require(
        probe.entry(&id).await?.state == RecordState::InProgress,
        "what goes on by itself is listed as something else",
    )?;
    for (state, expected) in [(RecordState::InProgress, 1), (RecordState::InDoubt, 0)] {
        let query = RecordQuery {
            state: Some(state),
            ..RecordQuery::all(10)
        };
        let listed = probe.listed(query).await?;
        probe.require(
            listed.len() == expected,
            "what goes on by itself is found by another state",
        )?;
    }
    Ok(())
}

async fn a_mutation_that_is_held_is_gone_on_with_by_nobody<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Upkeep + StepStore,
    P: AsyncFn(Duration),
{
    for lease in [Duration::ZERO, LONG] {
        let id = probe.id(&format!("held-{}", lease.as_secs()))?;
        let begun = probe.begun_by(ClaimRequest::new(&id, lease), StartedBy::Caller).await?;
        let token = begun.claim.token();
        probe.hold(&id, token).await?;
        probe.hold(&id, token).await?;
        probe.ok(probe.store.end_lease(&id, token, Duration::ZERO).await)?;
        let request = ClaimRequest::new(&id, LONG).takeover(Takeover::Expired);
        match probe.ok(probe.store.begin_steps(request, start(StartedBy::Caller)).await)? {
            ClaimOutcome::Denied(Denied::InDoubt { .. }) => {}
            other => return probe.failure(format!("a claim of what is held is {}", name(&other))),
        }
        let entry = probe.entry(&id).await?;
        probe.require(
            entry.record.held && entry.state == RecordState::InDoubt,
            "what is held is listed as something else",
        )?;
        let known = probe.ok(probe.store.load_steps(&id).await)?;
        probe.require(
            known.is_some_and(|known| known.held),
            "its steps do not say that it is held",
        )?;
        let doubtful = probe.ok(probe.store.in_doubt(10, None).await)?;
        probe.require(
            doubtful.iter().any(|it| it.id == id),
            "what is held is not listed as in doubt",
        )?;
    }
    Ok(())
}

async fn steps_lose_their_answers<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Upkeep + StepStore,
    P: AsyncFn(Duration),
{
    // One whose own result has no answer, and is not to hide those of its steps.
    for (key, outcome) in [("kept", result(2)), ("too-large", RecordedResult::too_large(9, 8))] {
        let id = probe.id(key)?;
        let begun = probe.mutation(&id).await?;
        probe.complete(begun.claim, &outcome, LONG).await?;
    }
    let running = probe.id("running")?;
    let _ = probe.mutation(&running).await?;
    let one = probe.id("one")?;
    let begun = probe.mutation(&one).await?;
    let token = begun.claim.token();
    probe
        .complete(begun.claim, &RecordedResult::too_large(9, 8), LONG)
        .await?;
    let is_erased = probe.ok(probe.store.erase_one(&one, token, Erase::Answers).await)?;
    probe.require(is_erased, "the answers of one mutation are not erased")?;
    let erased = probe.erase("conformance", Erase::Answers).await?;
    probe.require(erased.erased == 2, "it was not said how many answers were erased")?;
    let again = probe.erase("conformance", Erase::Answers).await?;
    probe.require(again.erased == 0, "what was erased is erased again")?;
    for (key, has_answers) in [("kept", false), ("too-large", false), ("one", false), ("running", true)] {
        let known = probe.ok(probe.store.load_steps(&probe.id(key)?).await)?;
        let Some(known) = known else {
            return probe.failure("the steps of an erased answer are gone");
        };
        let results = known.steps.iter().filter_map(|step| step.result.as_ref());
        let results: Vec<_> = results.chain([&known.input]).collect();
        probe.require(results.len() == 2, "a step has lost its result")?;
        let is_as_expected = results.iter().all(|result| result.erased().is_some() == has_answers);
        probe.require(
            is_as_expected,
            "an answer of a step is there, or one of a running mutation is not",
        )?;
    }
    Ok(())
}

async fn steps_go_with_an_erased_record<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Upkeep + StepStore,
    P: AsyncFn(Duration),
{
    for alone in [false, true] {
        let id = probe.id(if alone { "alone" } else { "erased" })?;
        let begun = probe.mutation(&id).await?;
        let token = begun.claim.token();
        probe.complete(begun.claim, &result(2), LONG).await?;
        let is_erased = match alone {
            true => probe.ok(probe.store.erase_one(&id, token, Erase::Records).await)?,
            false => probe.erase("conformance", Erase::Records).await?.erased == 1,
        };
        probe.require(is_erased, "the record was not erased")?;
        let known = probe.ok(probe.store.load_steps(&id).await)?;
        probe.require(known.is_none(), "the steps of an erased record are known")?;
        let begun = probe.begun_by(ClaimRequest::new(&id, LONG), StartedBy::Caller).await?;
        probe.require(
            begun.workflow.steps.is_empty(),
            "a new mutation has the steps of an erased one",
        )?;
    }
    Ok(())
}

async fn who_goes_on_without_an_id_keeps_the_first_ones<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Upkeep + StepStore,
    P: AsyncFn(Duration),
{
    let id = probe.id("correlated")?;
    let [first, second] = [probe.correlation("1")?, probe.correlation("2")?].map(Some);
    let cases = [
        (&first, StartedBy::Caller, &first),
        (&None, StartedBy::Completer, &first),
        (&second, StartedBy::Caller, &second),
        (&None, StartedBy::Caller, &second),
    ];
    for (given, by, expected) in cases {
        let before = probe.ok(probe.store.load(&id).await)?;
        let takeover = before.map_or(Takeover::Never, |before| Takeover::Of(before.token));
        let request = ClaimRequest::new(&id, Duration::ZERO).takeover(takeover);
        let _ = probe.begun_by(request.correlation_id(given.clone()), by).await?;
        let entry = probe.entry(&id).await?;
        probe.require(
            entry.correlation_id == *expected,
            "who goes on has the id of another request",
        )?;
    }
    Ok(())
}
