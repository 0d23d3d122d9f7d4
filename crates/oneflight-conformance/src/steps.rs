//! What a store must do that keeps the steps of mutations: the checks, one function a promise, named after it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::failure::{Failure, name};
use super::probe::{LONG, Probe, result, run_check};
use oneflight::identity::{Fingerprint, RequestIdentity};
use oneflight::record::{FencingToken, HolderId, RecordedResult};
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Denied, Purpose, Standing, StartedBy, StepId, StepRecord, StepStore, StepsClaim,
    StoreError, Takeover, UnfinishedQuery, UnfinishedSteps, WorkflowStart,
};

const CROWD: usize = 32;

type Checked = Result<(), Failure>;

/// Runs the suite of what [`StepStore`] promises against a store whose time passes by itself. `make` returns an empty
/// store.
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_steps<S: StepStore>(make: impl AsyncFn() -> S) -> Result<(), Failure> {
    run_steps_with(make, async |duration| tokio::time::sleep(duration).await).await
}

/// Runs the suite of what [`StepStore`] promises against a store whose time the test moves.
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_steps_with<S: StepStore>(
    make: impl AsyncFn() -> S,
    pass: impl AsyncFn(Duration),
) -> Result<(), Failure> {
    macro_rules! check {
        ($($name:ident),* $(,)?) => {$(
            run_check!(make, pass, $name, $name);
        )*};
    }
    check!(
        a_mutation_is_granted_with_what_it_was_started_with,
        recorded_steps_come_with_the_next_claim,
        steps_are_told_apart_by_name_and_key,
        a_step_that_was_begun_gets_its_result_once,
        the_same_holder_gets_the_same_claim_and_its_steps,
        a_lease_that_runs_is_respected,
        an_outdated_holder_records_no_step,
        one_of_many_goes_on,
        another_name_or_version_does_not_go_on,
        what_was_begun_without_steps_is_not_taken_over,
        what_is_held_is_not_gone_on_with,
        a_completer_starts_nothing_and_takes_over_by_token,
        a_completer_that_asks_again_gets_the_same_claim,
        the_input_that_it_was_begun_with_goes_on,
        a_step_is_settled_by_a_person_while_nobody_has_the_mutation,
        it_is_given_up_only_while_nobody_has_it,
        what_is_taken_over_to_be_resolved_keeps_its_steps,
        what_is_unfinished_is_listed,
        nothing_is_recorded_of_what_is_completed,
        after_retention_there_are_new_steps,
        steps_go_with_their_record,
        a_fork_has_its_steps_from_the_start,
    );
    Ok(())
}

fn start(name: &str, version: &str) -> WorkflowStart {
    WorkflowStart {
        name: name.to_owned(),
        version: version.to_owned(),
        accepts: Vec::new(),
        input: result(200),
        steps: Vec::new(),
        by: StartedBy::Caller,
    }
}

fn step(name: &str, key: &str, result: Option<RecordedResult>) -> StepRecord {
    StepRecord {
        id: StepId::new(name, key),
        input: None,
        result,
    }
}

impl<S: StepStore, P: AsyncFn(Duration)> Probe<'_, S, P> {
    async fn begin(&self, request: ClaimRequest, start: WorkflowStart) -> Result<ClaimOutcome<StepsClaim>, Failure> {
        self.ok(self.store.begin_steps(request, start).await)
    }

    async fn begun(&self, request: ClaimRequest, start: WorkflowStart) -> Result<StepsClaim, Failure> {
        match self.begin(request, start).await? {
            ClaimOutcome::Granted(begun) => Ok(begun),
            other => self.failure(format!("expected a grant, got {}", name(&other))),
        }
    }

    /// Begins, with a lease that is over at once, or goes on.
    async fn again(&self, id: &RequestIdentity) -> Result<StepsClaim, Failure> {
        let request = ClaimRequest::new(id, Duration::ZERO).takeover(Takeover::Expired);
        self.begun(request, start("place_order", "1")).await
    }

    async fn in_doubt_for(&self, id: &RequestIdentity, start: WorkflowStart) -> Checked {
        let request = ClaimRequest::new(id, LONG).takeover(Takeover::Expired);
        match self.begin(request, start).await? {
            ClaimOutcome::Denied(Denied::InDoubt { .. }) => Ok(()),
            other => self.failure(format!("expected in doubt, got {}", name(&other))),
        }
    }

    async fn record(&self, begun: &StepsClaim, step: StepRecord) -> Result<(), Failure> {
        let (id, token) = (begun.claim.id(), begun.claim.token());
        self.ok(self.store.record_step(id, token, step).await)
    }

    async fn is_outdated(&self, id: &RequestIdentity, token: FencingToken, step: StepRecord) -> Checked {
        match self.store.record_step(id, token, step).await {
            Err(StoreError::Outdated { .. }) => Ok(()),
            Err(source) => self.ok(Err(source)),
            Ok(()) => self.failure("an outdated holder recorded a step"),
        }
    }

    async fn steps(&self, id: &RequestIdentity) -> Result<Option<Vec<StepRecord>>, Failure> {
        let known = self.ok(self.store.load_steps(id).await)?;
        Ok(known.map(|known| known.steps))
    }

    async fn unfinished(&self, query: UnfinishedQuery) -> Result<Vec<UnfinishedSteps>, Failure> {
        self.ok(self.store.unfinished_steps(query).await)
    }

    async fn set(&self, begun: &StepsClaim, standing: Standing) -> Result<(), Failure> {
        let (id, token) = (begun.claim.id(), begun.claim.token());
        self.ok(self.store.set_standing(id, token, standing).await)
    }
}

async fn a_mutation_is_granted_with_what_it_was_started_with<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id_of("a", 1)?;
    let begun = probe
        .begun(ClaimRequest::new(&id, LONG), start("place_order", "2"))
        .await?;
    let (claim, workflow) = (&begun.claim, &begun.workflow);
    probe.require(
        claim.attempt() == 1 && claim.took_over().is_none(),
        "it is no first attempt",
    )?;
    probe.require(workflow.token == claim.token(), "the tokens differ")?;
    let known = probe.ok(probe.store.load_steps(&id).await)?;
    probe.require(
        known.as_ref() == Some(workflow),
        "what is loaded differs from what was granted",
    )?;
    let is_same = workflow.name == "place_order" && workflow.version == "2" && workflow.input == result(200);
    probe.require(is_same, "what it was started with is not what is kept")?;
    let is_fresh = workflow.tries == 0 && !workflow.held && workflow.steps.is_empty();
    probe.require(is_fresh, "it is not fresh")?;
    let record = probe.ok(probe.store.load(&id).await)?;
    let is_one = record.is_some_and(|it| it.token == claim.token() && it.fingerprint == id.fingerprint());
    probe.require(is_one, "the record is not that of the claim")?;
    let other = probe.ok(probe.store.load_steps(&probe.id("b")?).await)?;
    probe.require(other.is_none(), "another identity has steps")
}

async fn recorded_steps_come_with_the_next_claim<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    // Its payload is told apart by the fingerprint.
    let id = probe.id_of("a", 1)?;
    let begun = probe.again(&id).await?;
    let with_input = StepRecord {
        input: Some(Fingerprint::of("input")),
        ..step("z", "", Some(result(1)))
    };
    let all = [with_input, step("a", "7", Some(result(2))), step("m", "", None)];
    for step in &all {
        probe.record(&begun, step.clone()).await?;
    }
    let before = begun.claim.token();
    // The start of the second attempt is not what is kept.
    let request = ClaimRequest::new(&id, LONG).takeover(Takeover::Expired);
    let mut other = start("place_order", "1");
    other.input = result(77);
    other.steps = vec![step("not", "", Some(result(9)))];
    let next = probe.begun(request, other).await?;
    probe.require(next.claim.attempt() == 2, "it is no second attempt")?;
    probe.require(
        next.claim.took_over() == Some(before),
        "it says nothing of whom it took over from",
    )?;
    probe.require(next.claim.token() > before, "its token is not larger")?;
    probe.require(next.workflow.input == result(200), "its input is another one")?;
    probe.require(next.workflow.steps == all, "its steps are others, or in another order")?;
    probe.require(
        probe.steps(&id).await?.as_deref() == Some(&all[..]),
        "the steps that are loaded differ",
    )
}

async fn steps_are_told_apart_by_name_and_key<S: StepStore, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("a")?;
    let begun = probe.again(&id).await?;
    let names = [
        ("mail", ""),
        ("mail", "1"),
        ("mail1", ""),
        ("Mail", ""),
        ("mail", "a'; \"b\" \\ $1 {c} %"),
        ("mail", "é表 "),
        (" mail", ""),
    ];
    let all: Vec<_> = (1..)
        .zip(names)
        .map(|(seed, (name, key))| step(name, key, Some(result(seed))))
        .collect();
    for step in &all {
        probe.record(&begun, step.clone()).await?;
    }
    let next = probe.again(&id).await?;
    probe.require(next.workflow.steps == all, "the steps are not as they were recorded")?;
    // The same names under another identity are other steps.
    let other = probe.again(&probe.id("b")?).await?;
    probe.record(&other, step("mail", "", Some(result(9)))).await?;
    let kept = probe.steps(&probe.id("b")?).await?;
    probe.require(
        kept == Some(vec![step("mail", "", Some(result(9)))]),
        "the steps of two mutations are mixed",
    )
}

async fn a_step_that_was_begun_gets_its_result_once<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("a")?;
    let begun = probe.again(&id).await?;
    probe.record(&begun, step("fax", "", None)).await?;
    probe.record(&begun, step("other", "", Some(result(2)))).await?;
    probe.record(&begun, step("fax", "", Some(result(1)))).await?;
    // Once more, as after a lost answer: it changes nothing and succeeds.
    probe.record(&begun, step("fax", "", Some(result(1)))).await?;
    probe.record(&begun, step("fax", "", None)).await?;
    let expected = vec![step("fax", "", Some(result(1))), step("other", "", Some(result(2)))];
    probe.require(
        probe.steps(&id).await? == Some(expected),
        "the step does not have its one result",
    )
}

async fn the_same_holder_gets_the_same_claim_and_its_steps<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("a")?;
    let holder = HolderId::random();
    let request = ClaimRequest::new(&id, LONG).holder(holder);
    let first = probe.begun(request.clone(), start("place_order", "1")).await?;
    probe.record(&first, step("a", "", Some(result(1)))).await?;
    let again = probe.begun(request, start("place_order", "1")).await?;
    probe.require(again.claim.token() == first.claim.token(), "it is another claim")?;
    probe.require(again.workflow.steps.len() == 1, "its steps are missing")?;
    probe.require(again.workflow.tries == 0, "it counts as a try")
}

async fn a_lease_that_runs_is_respected<S: StepStore, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("a")?;
    let first = probe
        .begun(ClaimRequest::new(&id, probe.short()), start("place_order", "1"))
        .await?;
    for takeover in [Takeover::Never, Takeover::Expired, Takeover::Of(first.claim.token())] {
        let request = ClaimRequest::new(&id, LONG).takeover(takeover);
        match probe.begin(request, start("place_order", "1")).await? {
            ClaimOutcome::Denied(Denied::InProgress { .. }) => {}
            other => return probe.failure(format!("expected in progress, got {}", name(&other))),
        }
    }
    probe.pass(probe.later()).await;
    // Without wishing to, it is not taken over; by one that wishes to, it is.
    let never = ClaimRequest::new(&id, LONG);
    match probe.begin(never, start("place_order", "1")).await? {
        ClaimOutcome::Denied(Denied::InDoubt { token, .. }) if token == first.claim.token() => {}
        other => return probe.failure(format!("expected in doubt, got {}", name(&other))),
    }
    probe.again(&id).await.map(drop)?;
    let conflict = ClaimRequest::new(&probe.id_of("a", 3)?, LONG).takeover(Takeover::Expired);
    match probe.begin(conflict, start("place_order", "1")).await? {
        ClaimOutcome::Denied(Denied::Conflict) => Ok(()),
        other => probe.failure(format!("expected a conflict, got {}", name(&other))),
    }
}

async fn an_outdated_holder_records_no_step<S: StepStore, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("a")?;
    let stale = probe.again(&id).await?;
    // Its lease is over, and nobody took over: it may go on.
    probe.record(&stale, step("a", "", Some(result(1)))).await?;
    let next = probe.again(&id).await?;
    let late = stale.claim.token();
    probe.is_outdated(&id, late, step("b", "", Some(result(2)))).await?;
    probe.is_outdated(&id, late, step("a", "", Some(result(2)))).await?;
    match probe.store.set_standing(&id, late, Standing::Held).await {
        Err(StoreError::Outdated { .. }) => {}
        _ => return probe.failure("an outdated holder had it held"),
    }
    probe
        .is_outdated(&probe.id("b")?, late, step("b", "", Some(result(2))))
        .await?;
    let kept = vec![step("a", "", Some(result(1)))];
    probe.require(
        probe.steps(&id).await? == Some(kept),
        "what an outdated holder wrote is kept",
    )?;
    // A claim without steps outdates it as well.
    let request = ClaimRequest::new(&id, LONG).takeover(Takeover::Of(next.claim.token()));
    let _other = probe.granted(probe.ok(probe.store.claim(request).await)?)?;
    probe
        .is_outdated(&id, next.claim.token(), step("b", "", Some(result(2))))
        .await
}

async fn one_of_many_goes_on<S: StepStore, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("a")?;
    for attempt in 1..=3 {
        let mut tasks = JoinSet::new();
        let barrier = Arc::new(Barrier::new(CROWD));
        for _ in 0..CROWD {
            let (store, barrier) = (Arc::clone(&probe.store), Arc::clone(&barrier));
            let request = ClaimRequest::new(&id, LONG).takeover(Takeover::Expired);
            tasks.spawn(async move {
                barrier.wait().await;
                store.begin_steps(request, start("place_order", "1")).await
            });
        }
        let mut winners = Vec::new();
        while let Some(outcome) = tasks.join_next().await {
            let outcome = outcome.unwrap_or_else(|panic| Err(StoreError::unavailable(panic)));
            match probe.ok(outcome)? {
                ClaimOutcome::Granted(begun) => winners.push(begun),
                ClaimOutcome::Denied(Denied::InProgress { .. }) => {}
                other => return probe.failure(format!("a loser was told {}", name(&other))),
            }
        }
        let [winner] = winners.as_slice() else {
            return probe.failure(format!("{} of {CROWD} go on", winners.len()));
        };
        probe.require(winner.claim.attempt() == attempt, "the attempts are not counted")?;
        let expected = attempt as usize - 1;
        probe.require(winner.workflow.steps.len() == expected, "steps are missing")?;
        probe
            .record(winner, step("a", &attempt.to_string(), Some(result(1))))
            .await?;
        let ended = probe.store.end_lease(&id, winner.claim.token(), Duration::ZERO).await;
        probe.ok(ended)?;
    }
    Ok(())
}

async fn another_name_or_version_does_not_go_on<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("a")?;
    let begun = probe.again(&id).await?;
    probe.in_doubt_for(&id, start("place_order", "2")).await?;
    probe.in_doubt_for(&id, start("refund", "1")).await?;
    probe.in_doubt_for(&id, start("", "1")).await?;
    let of = ClaimRequest::new(&id, LONG).takeover(Takeover::Of(begun.claim.token()));
    match probe.begin(of, start("place_order", "2")).await? {
        ClaimOutcome::Denied(Denied::InDoubt { .. }) => {}
        other => return probe.failure(format!("another version took over by token: {}", name(&other))),
    }
    let mut accepts = start("place_order", "3");
    accepts.accepts = vec!["2".to_owned(), "1".to_owned()];
    let request = ClaimRequest::new(&id, Duration::ZERO).takeover(Takeover::Expired);
    let next = probe.begun(request, accepts).await?;
    // From now on it is what goes on with it: the code that began it may not know what that does.
    probe.require(
        next.workflow.version == "3",
        "its version is not that of the code that goes on",
    )?;
    let known = probe.ok(probe.store.load_steps(&id).await)?;
    probe.require(known.as_ref() == Some(&next.workflow), "another version is kept")?;
    probe.in_doubt_for(&id, start("place_order", "1")).await
}

/// Other code, and the same code on another day, may encode one input in another way.
async fn the_input_that_it_was_begun_with_goes_on<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("a")?;
    let _begun = probe.again(&id).await?;
    let newer = |by| WorkflowStart {
        version: "2".to_owned(),
        accepts: vec!["1".to_owned()],
        input: result(77),
        by,
        ..start("place_order", "1")
    };
    let otherwise = WorkflowStart {
        input: result(78),
        ..start("place_order", "1")
    };
    let mut asked = vec![otherwise];
    // The second time, it is of the very version of the code that asks, and its input is not.
    asked.extend(
        [
            StartedBy::Caller,
            StartedBy::Caller,
            StartedBy::Completer,
            StartedBy::Caller,
        ]
        .map(newer),
    );
    for (attempt, start) in (2..).zip(asked) {
        let token = probe.ok(probe.store.load_steps(&id).await)?.map(|known| known.token);
        let Some(token) = token else {
            return probe.failure("it is gone");
        };
        let takeover = match start.by {
            StartedBy::Caller => Takeover::Expired,
            StartedBy::Completer => Takeover::Of(token),
        };
        let next = probe
            .begun(ClaimRequest::new(&id, Duration::ZERO).takeover(takeover), start)
            .await?;
        probe.require(next.claim.attempt() == attempt, "the attempts are not counted")?;
        probe.require(next.workflow.input == result(200), "its input is another one")?;
    }
    Ok(())
}

async fn what_was_begun_without_steps_is_not_taken_over<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("a")?;
    let _plain = probe.granted(probe.ask(&id, Duration::ZERO, Takeover::Never).await?)?;
    probe.in_doubt_for(&id, start("place_order", "1")).await?;
    // Nor what was begun with steps, and taken over without them.
    let id = probe.id("b")?;
    let begun = probe.again(&id).await?;
    let of = Takeover::Of(begun.claim.token());
    let _plain = probe.granted(probe.ask(&id, Duration::ZERO, of).await?)?;
    probe.in_doubt_for(&id, start("place_order", "1")).await?;
    probe.require(probe.steps(&id).await?.is_none(), "stale steps are loaded")?;
    let listed = probe.unfinished(UnfinishedQuery::all(10)).await?;
    probe.require(
        listed.is_empty(),
        "what was begun without steps is listed as unfinished",
    )
}

async fn what_is_held_is_not_gone_on_with<S: StepStore, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("a")?;
    let begun = probe.again(&id).await?;
    probe.record(&begun, step("a", "", Some(result(1)))).await?;
    if let Ok(doubtful) = probe.store.in_doubt(10, None).await {
        probe.require(doubtful.is_empty(), "what goes on is listed as in doubt")?;
    }
    probe.set(&begun, Standing::Held).await?;
    probe.in_doubt_for(&id, start("place_order", "1")).await?;
    let of = ClaimRequest::new(&id, LONG).takeover(Takeover::Of(begun.claim.token()));
    match probe.begin(of, start("place_order", "1")).await? {
        ClaimOutcome::Denied(Denied::InDoubt { .. }) => {}
        other => return probe.failure(format!("what is held was taken over by token: {}", name(&other))),
    }
    if let Ok(doubtful) = probe.store.in_doubt(10, None).await {
        probe.require(doubtful.len() == 1, "what is held is not listed as in doubt")?;
    }
    let listed = probe.unfinished(UnfinishedQuery::all(10)).await?;
    probe.require(matches!(&listed[..], [one] if one.held), "what is held is not listed")?;
    probe.set(&begun, Standing::Resumed).await?;
    let next = probe.again(&id).await?;
    probe.require(
        !next.workflow.held && next.workflow.steps.len() == 1,
        "it did not go on as it was",
    )
}

async fn a_completer_starts_nothing_and_takes_over_by_token<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let completer = || WorkflowStart {
        by: StartedBy::Completer,
        ..start("place_order", "1")
    };
    let take = |id: &RequestIdentity, token| ClaimRequest::new(id, Duration::ZERO).takeover(Takeover::Of(token));
    let id = probe.id("a")?;
    match probe.begin(take(&id, FencingToken::new(1)), completer()).await? {
        ClaimOutcome::Denied(_) => {}
        ClaimOutcome::Granted(_) => return probe.failure("a completer started a mutation"),
    }
    probe.require(
        probe.ok(probe.store.load(&id).await)?.is_none(),
        "a completer left a record",
    )?;
    let begun = probe.again(&id).await?;
    let stale = begun.claim.token();
    let next = probe.again(&id).await?;
    match probe.begin(take(&id, stale), completer()).await? {
        ClaimOutcome::Denied(Denied::InDoubt { .. }) => {}
        other => return probe.failure(format!("it was taken over by a stale token: {}", name(&other))),
    }
    probe.require(next.workflow.tries == 0, "a call counts as a completer's try")?;
    let first = probe.begun(take(&id, next.claim.token()), completer()).await?;
    probe.require(first.workflow.tries == 1, "the first try is not counted")?;
    probe.require(first.workflow.input == result(200), "a completer changed the input")?;
    let second = probe.begun(take(&id, first.claim.token()), completer()).await?;
    probe.require(second.workflow.tries == 2, "the second try is not counted")?;
    probe.set(&second, Standing::HandedBack).await?;
    let third = probe.begun(take(&id, second.claim.token()), completer()).await?;
    probe.require(third.workflow.tries == 2, "what was handed back counts as a try")?;
    probe.set(&third, Standing::Resumed).await?;
    let known = probe.ok(probe.store.load_steps(&id).await)?;
    probe.require(
        known.is_some_and(|known| known.tries == 0),
        "the tries are not counted anew",
    )
}

/// The answer to its first question may have been lost.
async fn a_completer_that_asks_again_gets_the_same_claim<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("a")?;
    let begun = probe.again(&id).await?;
    probe.record(&begun, step("a", "", Some(result(1)))).await?;
    let completer = || WorkflowStart {
        by: StartedBy::Completer,
        ..start("place_order", "1")
    };
    let of = ClaimRequest::new(&id, LONG).takeover(Takeover::Of(begun.claim.token()));
    let request = of.holder(HolderId::random());
    let first = probe.begun(request.clone(), completer()).await?;
    let again = probe.begun(request, completer()).await?;
    probe.require(again.claim.token() == first.claim.token(), "it is another claim")?;
    probe.require(again.workflow == first.workflow, "it comes with something else")
}

async fn a_step_is_settled_by_a_person_while_nobody_has_the_mutation<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("a")?;
    let begun = probe.again(&id).await?;
    let token = begun.claim.token();
    let too_large = RecordedResult::too_large(9, 8);
    let all = [
        step("fax", "1", None),
        step("fax", "2", Some(result(2))),
        step("fax", "3", None),
        step("fax", "4", Some(too_large)),
    ];
    for step in &all {
        probe.record(&begun, step.clone()).await?;
    }
    let settle = async |token, key: &str, answer| {
        probe
            .store
            .settle_step(&id, token, &StepId::new("fax", key), answer)
            .await
    };
    let is_outdated = |settled, what| match settled {
        Err(StoreError::Outdated { .. }) => Ok(()),
        Err(source) => probe.ok(Err(source)),
        Ok(()) => probe.failure(what),
    };
    is_outdated(settle(token, "1", None).await, "a step was settled of what is not held")?;
    probe.set(&begun, Standing::Held).await?;
    // A holder that was taken for dead has come back.
    probe.ok(probe.store.renew(&id, token, LONG).await)?;
    let what = "a step was settled whose holder may be about to tell";
    is_outdated(settle(token, "1", None).await, what)?;
    is_outdated(settle(token, "1", Some(result(7))).await, what)?;
    probe.require(
        probe.steps(&id).await?.as_deref() == Some(&all[..]),
        "what was refused was done",
    )?;
    probe.ok(probe.store.end_lease(&id, token, Duration::ZERO).await)?;
    for (key, answer) in [
        ("1", None),
        ("2", None),
        ("3", Some(result(3))),
        ("4", Some(result(4))),
        ("5", None),
        ("6", Some(result(6))),
    ] {
        probe.ok(settle(token, key, answer).await)?;
    }
    let settled = vec![
        step("fax", "2", Some(result(2))),
        step("fax", "3", Some(result(3))),
        step("fax", "4", Some(result(4))),
    ];
    probe.require(
        probe.steps(&id).await? == Some(settled),
        "the steps are not as they were settled",
    )?;
    probe.set(&begun, Standing::Resumed).await?;
    let next = probe.again(&id).await?;
    probe.record(&next, step("fax", "1", None)).await?;
    probe.set(&next, Standing::Held).await?;
    is_outdated(
        settle(token, "1", None).await,
        "an outdated holder had a step forgotten",
    )?;
    probe.require(
        probe.steps(&id).await?.is_some_and(|steps| steps.len() == 4),
        "what an outdated holder asked for was done",
    )
}

async fn it_is_given_up_only_while_nobody_has_it<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("a")?;
    let begun = probe.again(&id).await?;
    let token = begun.claim.token();
    // Listed as unfinished, and then its holder came back.
    probe.ok(probe.store.renew(&id, token, LONG).await)?;
    match probe.store.set_standing(&id, token, Standing::GivenUp).await {
        Err(StoreError::Outdated { .. }) => {}
        Err(source) => return probe.ok(Err(source)),
        Ok(()) => return probe.failure("it was given up under its holder"),
    }
    let known = probe.ok(probe.store.load_steps(&id).await)?;
    probe.require(known.is_some_and(|known| !known.held), "it is held under its holder")?;
    probe.ok(probe.store.end_lease(&id, token, Duration::ZERO).await)?;
    probe.set(&begun, Standing::GivenUp).await?;
    match probe.store.set_standing(&id, token, Standing::GivenUp).await {
        Err(StoreError::Outdated { .. }) => {}
        Err(source) => return probe.ok(Err(source)),
        Ok(()) => return probe.failure("it was given up twice"),
    }
    probe.in_doubt_for(&id, start("place_order", "1")).await
}

/// An operator settles a request in two operations. What breaks off between them is left for a person.
async fn what_is_taken_over_to_be_resolved_keeps_its_steps<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let resolve = |id: &RequestIdentity, token| {
        let request = ClaimRequest::new(id, Duration::ZERO).takeover(Takeover::Of(token));
        request.purpose(Purpose::Resolve)
    };
    for key in ["completed", "released", "resumed"] {
        let id = probe.id(key)?;
        let begun = probe.again(&id).await?;
        probe.record(&begun, step("a", "", Some(result(1)))).await?;
        let stale = begun.claim.token();
        let first = probe.granted(probe.ok(probe.store.claim(resolve(&id, stale)).await)?)?;
        probe.require(first.token() > stale, "its token is not larger")?;
        probe.is_outdated(&id, stale, step("b", "", Some(result(2)))).await?;
        // Nobody goes on meanwhile, and it is there to be resolved again.
        probe.in_doubt_for(&id, start("place_order", "1")).await?;
        let known = probe.ok(probe.store.load_steps(&id).await)?;
        let Some(known) = known else {
            return probe.failure("its steps are gone");
        };
        let is_same = known.input == result(200) && known.version == "1" && known.steps.len() == 1;
        probe.require(is_same, "it is not what it was")?;
        probe.require(
            known.held && known.token == first.token(),
            "it is not held under the new token",
        )?;
        let listed = probe.unfinished(UnfinishedQuery::all(10)).await?;
        probe.require(
            listed.iter().any(|it| it.id.key() == key && it.held),
            "it is not listed",
        )?;
        let again = probe.granted(probe.ok(probe.store.claim(resolve(&id, first.token())).await)?)?;
        match key {
            "completed" => {
                probe.ok(probe.store.complete(again, result(9), LONG).await)?;
                let known = probe.ok(probe.store.load_steps(&id).await)?;
                let is_there = known.is_some_and(|known| known.steps.len() == 1 && !known.held);
                probe.require(is_there, "what is completed has not its steps, or waits for a person")?;
            }
            "released" => {
                probe.ok(probe.store.release(again).await)?;
                probe.require(probe.steps(&id).await?.is_none(), "what is free has steps")?;
            }
            _ => {
                let resumed = probe.store.set_standing(&id, again.token(), Standing::Resumed).await;
                probe.ok(resumed)?;
                let next = probe.again(&id).await?;
                probe.require(next.workflow.steps.len() == 1, "it did not go on as it was")?;
            }
        }
    }
    // What has no steps is resolved like any other, and what runs is left alone.
    let id = probe.id("plain")?;
    let plain = probe.granted(probe.ask(&id, Duration::ZERO, Takeover::Never).await?)?;
    let _claim = probe.granted(probe.ok(probe.store.claim(resolve(&id, plain.token())).await)?)?;
    probe.require(probe.steps(&id).await?.is_none(), "what has no steps has some")?;
    let id = probe.id("running")?;
    let runs = probe
        .begun(ClaimRequest::new(&id, LONG), start("place_order", "1"))
        .await?;
    match probe.ok(probe.store.claim(resolve(&id, runs.claim.token())).await)? {
        ClaimOutcome::Denied(Denied::InProgress { .. }) => Ok(()),
        other => probe.failure(format!("expected in progress, got {}", name(&other))),
    }
}

async fn what_is_unfinished_is_listed<S: StepStore, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let own = || vec![("place_order".to_owned(), vec!["1".to_owned(), "2".to_owned()])];
    let short = probe.short();
    let query = |kinds, limit| UnfinishedQuery {
        kinds: Some(kinds),
        first_pause: short,
        longest_pause: LONG,
        limit,
    };
    let running = probe.id("running")?;
    let _held = probe
        .begun(ClaimRequest::new(&running, LONG), start("place_order", "1"))
        .await?;
    for (key, name, version) in [
        ("one", "place_order", "1"),
        ("two", "place_order", "2"),
        ("three", "place_order", "3"),
        ("refund", "refund", "1"),
        ("unnamed", "", "1"),
    ] {
        let id = probe.id_of(key, 5)?;
        let _over = probe
            .begun(ClaimRequest::new(&id, Duration::ZERO), start(name, version))
            .await?;
    }
    let keys = |listed: &[UnfinishedSteps]| {
        let mut keys: Vec<_> = listed.iter().map(|it| it.id.key().to_owned()).collect();
        keys.sort();
        keys
    };
    let listed = probe.unfinished(query(own(), 10)).await?;
    probe.require(
        keys(&listed) == ["one", "two"],
        "other names or versions are listed, or a lease that runs",
    )?;
    let fingerprint = Fingerprint::from_digest([5; 32]);
    let has_all = |it: &UnfinishedSteps| {
        it.id.fingerprint() == Some(fingerprint) && it.name == "place_order" && it.tries == 0 && !it.held
    };
    probe.require(listed.iter().all(has_all), "what is listed is not what was begun")?;
    probe.require(
        probe.unfinished(query(own(), 1)).await?.len() == 1,
        "more is listed than was asked for",
    )?;
    probe.require(
        probe.unfinished(query(Vec::new(), 10)).await?.is_empty(),
        "what nobody asked for is listed",
    )?;
    let all = probe.unfinished(UnfinishedQuery::all(10)).await?;
    probe.require(all.len() == 5, "not all are listed that are unfinished")?;
    // After a try, one is left alone for a while.
    probe.pass(short / 4).await;
    let one = listed.iter().find(|it| it.id.key() == "one");
    let Some(one) = one else {
        return probe.failure("it is gone");
    };
    let take = ClaimRequest::new(&one.id, Duration::ZERO).takeover(Takeover::Of(one.token));
    // It begins now.
    let short = probe.short();
    let by = StartedBy::Completer;
    let taken = probe
        .begun(
            take,
            WorkflowStart {
                by,
                ..start("place_order", "1")
            },
        )
        .await?;
    let listed = probe.unfinished(query(own(), 10)).await?;
    probe.require(keys(&listed) == ["two"], "after a try it is not left alone")?;
    probe.pass(probe.later()).await;
    let listed = probe.unfinished(query(own(), 10)).await?;
    probe.require(keys(&listed) == ["one", "two"], "after the pause it is not listed")?;
    let tried = listed.iter().find(|it| it.id.key() == "one");
    let is_last = tried.is_some_and(|it| it.tries == 1 && it.token == taken.claim.token() && it.since >= short);
    probe.require(is_last, "its tries, its token or its time are not told")?;
    probe.require(
        listed.first().is_some_and(|it| it.id.key() == "two"),
        "the longest is not the first",
    )?;
    let completed = probe.store.complete(taken.claim, result(1), LONG).await;
    probe.ok(completed)?;
    let listed = probe.unfinished(query(own(), 10)).await?;
    probe.require(keys(&listed) == ["two"], "what is completed is listed")
}

async fn nothing_is_recorded_of_what_is_completed<S: StepStore, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("a")?;
    let begun = probe.again(&id).await?;
    probe.record(&begun, step("a", "", Some(result(1)))).await?;
    let token = begun.claim.token();
    probe.ok(probe.store.complete(begun.claim, result(2), LONG).await)?;
    probe.is_outdated(&id, token, step("b", "", Some(result(1)))).await?;
    let request = ClaimRequest::new(&id, LONG).takeover(Takeover::Expired);
    match probe.begin(request, start("place_order", "1")).await? {
        ClaimOutcome::Denied(Denied::Completed(record)) if record.result() == Some(&result(2)) => {}
        other => return probe.failure(format!("expected its result, got {}", name(&other))),
    }
    // A person may look at what was done.
    probe.require(
        probe.steps(&id).await?.is_some_and(|steps| steps.len() == 1),
        "its steps are gone",
    )
}

async fn after_retention_there_are_new_steps<S: StepStore, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("a")?;
    let begun = probe.again(&id).await?;
    probe.record(&begun, step("a", "", Some(result(1)))).await?;
    probe.ok(probe.store.complete(begun.claim, result(2), probe.short()).await)?;
    probe.pass(probe.later()).await;
    let new = probe
        .begun(ClaimRequest::new(&id, LONG), start("place_order", "9"))
        .await?;
    probe.require(new.claim.attempt() == 1, "it is no first attempt")?;
    probe.require(
        new.workflow.steps.is_empty(),
        "it has the steps of the mutation before it",
    )?;
    probe.require(new.workflow.version == "9", "it is of the version before it")?;
    probe.record(&new, step("a", "", Some(result(7)))).await?;
    let kept = vec![step("a", "", Some(result(7)))];
    probe.require(probe.steps(&id).await? == Some(kept), "its step is not recorded")
}

async fn steps_go_with_their_record<S: StepStore, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    for key in ["purged", "released"] {
        let id = probe.id(key)?;
        let begun = probe.again(&id).await?;
        probe.record(&begun, step("a", "", Some(result(1)))).await?;
        match key {
            "purged" => {
                probe.ok(probe.store.complete(begun.claim, result(2), probe.short()).await)?;
                probe.pass(probe.later()).await;
                probe.ok(probe.store.purge(10).await)?;
            }
            _ => probe.ok(probe.store.release(begun.claim).await)?,
        }
        probe.require(
            probe.steps(&id).await?.is_none(),
            &format!("the steps of what is {key} are there"),
        )?;
        let new = probe
            .begun(ClaimRequest::new(&id, LONG), start("place_order", "1"))
            .await?;
        probe.require(
            new.workflow.steps.is_empty(),
            &format!("what is {key} has steps when it is new"),
        )?;
    }
    Ok(())
}

async fn a_fork_has_its_steps_from_the_start<S: StepStore, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("a")?;
    let steps = vec![
        StepRecord {
            input: Some(Fingerprint::of("input")),
            ..step("b'\"\\", "é", Some(result(1)))
        },
        step("a", "", None),
    ];
    let fork = WorkflowStart {
        steps: steps.clone(),
        ..start("place_order", "1")
    };
    let begun = probe.begun(ClaimRequest::new(&id, Duration::ZERO), fork).await?;
    probe.require(begun.workflow.steps == steps, "the claim comes without them")?;
    probe.record(&begun, step("c", "", Some(result(3)))).await?;
    let next = probe.again(&id).await?;
    let names: Vec<_> = next.workflow.steps.iter().map(|step| step.id.name()).collect();
    probe.require(names == ["b'\"\\", "a", "c"], "they are not there, or in another order")
}
