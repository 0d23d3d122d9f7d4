//! The checks: one function a promise, named after it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::failure::{Failure, name};
use super::probe::{LONG, Probe, result};
use oneflight::identity::RequestIdentity;
use oneflight::record::HolderId;
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Denied, Store, StoreError, Takeover};

const CROWD: usize = 64;
/// The time within which a notification is not late, on a slow machine.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

type Checked = Result<(), Failure>;

/// Claims from many tasks at once, and returns the outcomes.
async fn crowd<S: Store>(
    store: &Arc<S>,
    id: &RequestIdentity,
    takeover: Takeover,
) -> Vec<Result<ClaimOutcome, StoreError>> {
    let mut tasks = JoinSet::new();
    let start = Arc::new(tokio::sync::Barrier::new(CROWD));
    for _ in 0..CROWD {
        let (store, id, start) = (Arc::clone(store), id.clone(), Arc::clone(&start));
        tasks.spawn(async move {
            start.wait().await;
            let request = ClaimRequest::new(&id, LONG).takeover(takeover);
            store.claim(request).await
        });
    }
    let mut outcomes = Vec::with_capacity(CROWD);
    while let Some(outcome) = tasks.join_next().await {
        // A task that panicked is a store that panicked.
        outcomes.push(outcome.unwrap_or_else(|panic| Err(StoreError::unavailable(panic))));
    }
    outcomes
}

/// Of a crowd, one holds the claim and all others learn that it is held.
async fn one_wins<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
    id: &RequestIdentity,
    takeover: Takeover,
) -> Result<Claim, Failure> {
    let mut winners = Vec::new();
    for outcome in crowd(&probe.store, id, takeover).await {
        match probe.ok(outcome)? {
            ClaimOutcome::Granted(claim) => winners.push(claim),
            ClaimOutcome::Denied(Denied::InProgress { .. }) => {}
            other => return probe.failure(format!("a loser was told {}", name(&other))),
        }
    }
    match (winners.pop(), winners.len()) {
        (Some(claim), 0) => Ok(claim),
        (_, more) => probe.failure(format!("{} of {CROWD} got the claim", more + 1)),
    }
}

pub(super) async fn a_new_identity_is_granted<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("new")?;
    let known = probe.ok(probe.store.load(&id).await)?;
    probe.require(known.is_none(), "an unknown identity has a record")?;
    let claim = probe.claim(&id, LONG).await?;
    probe.require(
        claim.id() == &id && claim.attempt() == 1 && claim.took_over().is_none(),
        "the claim is not that of a first attempt at this identity",
    )?;
    let record = probe.ok(probe.store.load(&id).await)?;
    let consistent = record.is_some_and(|record| {
        record.token == claim.token()
            && record
                .lease_remaining()
                .is_some_and(|left| !left.is_zero() && left <= LONG)
    });
    probe.require(consistent, "the record does not show the claim and its lease")
}

pub(super) async fn one_of_many_gets_the_claim<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    for round in 0..4 {
        let id = probe.id(&format!("crowd-{round}"))?;
        let claim = one_wins(probe, &id, Takeover::Never).await?;
        probe.complete(claim, &result(round), LONG).await?;
        for outcome in crowd(&probe.store, &id, Takeover::Expired).await {
            let ClaimOutcome::Denied(Denied::Completed(record)) = probe.ok(outcome)? else {
                return probe.failure("a claim after completion was not a replay");
            };
            probe.require(record.result() == Some(&result(round)), "a replay is another result")?;
        }
    }
    Ok(())
}

pub(super) async fn identities_do_not_disturb_each_other<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    // Equal keys in other scopes, a scope and key that run into the same text, and what a collation takes for equal.
    let pairs = [
        ("a", "bc"),
        ("ab", "c"),
        ("a", "c"),
        ("ab", "bc"),
        ("A", "bc"),
        ("a", "BC"),
    ];
    let mut claims = Vec::new();
    for (scope, key) in pairs {
        let Ok(id) = RequestIdentity::new(oneflight::identity::Scope::new(scope), key) else {
            return probe.failure("the suite made an invalid identity");
        };
        claims.push((probe.claim(&id, LONG).await?, id));
    }
    for (seed, (claim, _)) in (0..).zip(&claims) {
        let again = Claim::new(claim.id().clone(), claim.token(), 1, None);
        probe.complete(again, &result(seed), LONG).await?;
    }
    for (seed, (_, id)) in (0..).zip(&claims) {
        let record = probe.completed(id).await?;
        probe.require(
            record.result() == Some(&result(seed)),
            "an identity has the result of another",
        )?;
    }
    Ok(())
}

pub(super) async fn the_same_holder_gets_the_same_claim<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("holder")?;
    let holder = HolderId::random();
    let first = probe.granted(probe.ask_as(&id, holder).await?)?;
    let second = probe.granted(probe.ask_as(&id, holder).await?)?;
    probe.require(
        first.token() == second.token() && first.attempt() == second.attempt(),
        "a holder that asks again gets another claim",
    )?;
    match probe.ask_as(&id, HolderId::random()).await? {
        ClaimOutcome::Denied(Denied::InProgress { .. }) => Ok(()),
        other => probe.failure(format!("another holder was told {}", name(&other))),
    }
}

pub(super) async fn a_holder_that_asks_again_too_late_gets_a_lease_that_runs<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Store,
    P: AsyncFn(Duration),
{
    let id = probe.id("late-holder")?;
    let holder = HolderId::random();
    let first = probe.granted(probe.ask_as(&id, holder).await?)?;
    probe.ok(probe.store.end_lease(&id, first.token(), Duration::ZERO).await)?;
    let second = probe.granted(probe.ask_as(&id, holder).await?)?;
    probe.require(
        second.attempt() == first.attempt() && second.took_over().is_none(),
        "a holder that asks again took over from itself",
    )?;
    match probe.ask(&id, LONG, Takeover::Expired).await? {
        ClaimOutcome::Denied(Denied::InProgress { .. }) => Ok(()),
        other => probe.failure(format!("another holder was told {}", name(&other))),
    }
}

pub(super) async fn another_fingerprint_is_a_conflict<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id_of("payload", 1)?;
    let others = [probe.id_of("payload", 2)?, probe.id("payload")?];
    let claim = probe.claim(&id, LONG).await?;
    for phase in ["in progress", "completed"] {
        for other in &others {
            match probe.ask(other, LONG, Takeover::Expired).await? {
                ClaimOutcome::Denied(Denied::Conflict) => {}
                outcome => {
                    return probe.failure(format!("{phase}: another payload is {}", name(&outcome)));
                }
            }
        }
        if phase == "in progress" {
            let again = Claim::new(id.clone(), claim.token(), 1, None);
            probe.complete(again, &result(1), LONG).await?;
        }
    }
    probe.completed(&id).await?;
    // One side without a fingerprint is a conflict whichever side it is.
    let bare = probe.id("bare")?;
    probe.claim(&bare, LONG).await.map(drop)?;
    match probe.ask(&probe.id_of("bare", 1)?, LONG, Takeover::Never).await? {
        ClaimOutcome::Denied(Denied::Conflict) => Ok(()),
        outcome => probe.failure(format!("a payload against none is {}", name(&outcome))),
    }
}

pub(super) async fn a_completed_result_is_replayed_byte_for_byte<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Store,
    P: AsyncFn(Duration),
{
    let id = probe.id_of("replay", 7)?;
    let claim = probe.claim(&id, LONG).await?;
    let token = claim.token();
    probe.complete(claim, &result(0), LONG).await?;
    for _ in 0..3 {
        let record = probe.completed(&id).await?;
        let same = record.result().map(|it| it.as_bytes().to_vec()) == Some(result(0).as_bytes().to_vec());
        probe.require(same, "the bytes are not those that were recorded")?;
        probe.require(
            record.token == token && record.fingerprint == id.fingerprint(),
            "the record has another token or fingerprint",
        )?;
    }
    let loaded = probe.ok(probe.store.load(&id).await)?;
    let same = loaded.is_some_and(|record| record.result() == Some(&result(0)));
    probe.require(same, "`load` knows another result than `claim`")
}

pub(super) async fn completing_again_changes_nothing<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("again")?;
    let claim = probe.claim(&id, LONG).await?;
    let again = Claim::new(id.clone(), claim.token(), claim.attempt(), None);
    probe.complete(claim, &result(1), LONG).await?;
    probe.complete(again, &result(2), LONG).await?;
    let record = probe.completed(&id).await?;
    probe.require(record.result() == Some(&result(1)), "a recorded result was overwritten")
}

pub(super) async fn a_released_identity_is_new<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id_of("released", 1)?;
    let claim = probe.claim(&id, LONG).await?;
    let token = claim.token();
    let again = Claim::new(id.clone(), token, 1, None);
    probe.ok(probe.store.release(claim).await)?;
    let known = probe.ok(probe.store.load(&id).await)?;
    probe.require(known.is_none(), "a released identity has a record")?;
    let answer = probe.store.release(again).await;
    probe.outdated(answer, token, "releasing twice")?;
    // Nothing was done, so another payload is welcome.
    let claim = probe.claim(&probe.id_of("released", 2)?, LONG).await?;
    probe.require(claim.attempt() == 1, "the attempts were not counted anew")?;
    probe.require(claim.token() > token, "the token did not grow")
}

pub(super) async fn a_lease_runs_out_and_is_in_doubt<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("lease")?;
    let short = probe.short();
    let claim = probe.claim(&id, short).await?;
    match probe.ask(&id, LONG, Takeover::Expired).await? {
        ClaimOutcome::Denied(Denied::InProgress { lease_remaining, .. }) if lease_remaining <= short => {}
        other => return probe.failure(format!("during the lease: {}", name(&other))),
    }
    probe.pass(probe.later()).await;
    match probe.ask(&id, LONG, Takeover::Never).await? {
        ClaimOutcome::Denied(Denied::InDoubt { token, attempt }) => probe.require(
            token == claim.token() && attempt == 1,
            "the doubt is about another holder",
        ),
        other => probe.failure(format!("after the lease: {}", name(&other))),
    }
}

pub(super) async fn a_renewed_lease_lasts<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("renew")?;
    let claim = probe.claim(&id, probe.short()).await?;
    probe.ok(probe.store.renew(&id, claim.token(), LONG).await)?;
    probe.pass(probe.later()).await;
    match probe.ask(&id, LONG, Takeover::Expired).await? {
        ClaimOutcome::Denied(Denied::InProgress { .. }) => Ok(()),
        other => probe.failure(format!("during a renewed lease: {}", name(&other))),
    }
}

pub(super) async fn a_renewal_never_shortens_a_lease<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("late-renewal")?;
    let claim = probe.claim(&id, LONG).await?;
    for late in [probe.short(), Duration::ZERO] {
        probe.ok(probe.store.renew(&id, claim.token(), late).await)?;
    }
    probe.pass(probe.later()).await;
    match probe.ask(&id, LONG, Takeover::Expired).await? {
        ClaimOutcome::Denied(Denied::InProgress { lease_remaining, .. }) if lease_remaining > LONG / 2 => {}
        other => return probe.failure(format!("after a renewal for a shorter time: {}", name(&other))),
    }
    // To end it before its time is another operation.
    let short = probe.short();
    probe.ok(probe.store.end_lease(&id, claim.token(), short).await)?;
    match probe.ask(&id, LONG, Takeover::Never).await? {
        ClaimOutcome::Denied(Denied::InProgress { lease_remaining, .. }) if lease_remaining <= short => {}
        other => return probe.failure(format!("until the end that was set: {}", name(&other))),
    }
    probe.pass(probe.later()).await;
    match probe.ask(&id, LONG, Takeover::Never).await? {
        ClaimOutcome::Denied(Denied::InDoubt { .. }) => Ok(()),
        other => probe.failure(format!("after the end that was set: {}", name(&other))),
    }
}

pub(super) async fn a_lease_that_is_ended_later_lasts_until_then<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("settles")?;
    let claim = probe.claim(&id, probe.short()).await?;
    probe.ok(probe.store.end_lease(&id, claim.token(), LONG).await)?;
    probe.pass(probe.later()).await;
    match probe.ask(&id, LONG, Takeover::Expired).await? {
        ClaimOutcome::Denied(Denied::InProgress { lease_remaining, .. }) if lease_remaining > LONG / 2 => Ok(()),
        other => probe.failure(format!(
            "until an end that is later than the lease's own: {}",
            name(&other)
        )),
    }
}

pub(super) async fn a_lease_that_is_over_is_renewed_while_nobody_took_over<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("renewed-late")?;
    let claim = probe.claim(&id, Duration::ZERO).await?;
    probe.ok(probe.store.renew(&id, claim.token(), LONG).await)?;
    match probe.ask(&id, LONG, Takeover::Expired).await? {
        ClaimOutcome::Denied(Denied::InProgress { .. }) => {}
        other => return probe.failure(format!("after a renewal of a lease that was over: {}", name(&other))),
    }
    // And may be given back as late.
    let id = probe.id("released-late")?;
    let claim = probe.claim(&id, Duration::ZERO).await?;
    probe.ok(probe.store.release(claim).await)?;
    probe.claim(&id, LONG).await.map(drop)
}

pub(super) async fn what_was_released_is_not_completed<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("released")?;
    let claim = probe.claim(&id, LONG).await?;
    let (token, late) = (claim.token(), Claim::new(id.clone(), claim.token(), 1, None));
    probe.ok(probe.store.release(claim).await)?;
    let answer = probe.store.complete(late, result(1), LONG).await;
    probe.outdated(answer, token, "a holder completes what it released")?;
    let known = probe.ok(probe.store.load(&id).await)?;
    probe.require(known.is_none(), "what was released is known")
}

pub(super) async fn a_lease_that_is_ended_is_over<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("given-up")?;
    let claim = probe.claim(&id, LONG).await?;
    probe.ok(probe.store.end_lease(&id, claim.token(), Duration::ZERO).await)?;
    match probe.ask(&id, LONG, Takeover::Never).await? {
        ClaimOutcome::Denied(Denied::InDoubt { .. }) => {}
        other => return probe.failure(format!("after the lease was given up: {}", name(&other))),
    }
    let claim = probe.granted(probe.ask(&id, LONG, Takeover::Expired).await?)?;
    probe.require(claim.attempt() == 2, "the second attempt is not counted")
}

pub(super) async fn one_of_many_takes_over<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id_of("takeover", 1)?;
    let dead = probe.claim(&id, LONG).await?;
    probe.ok(probe.store.end_lease(&id, dead.token(), Duration::ZERO).await)?;
    let heir = one_wins(probe, &id, Takeover::Expired).await?;
    probe.require(
        heir.token() > dead.token() && heir.attempt() == 2,
        "the heir's token or attempt did not grow",
    )?;
    probe.require(
        heir.took_over() == Some(dead.token()),
        "the claim does not say whom it took over",
    )
}

pub(super) async fn a_takeover_from_somebody_else_is_refused<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id("decided")?;
    let first = probe.claim(&id, Duration::ZERO).await?;
    let of_first = Takeover::Of(first.token());
    let second = probe.granted(probe.ask(&id, Duration::ZERO, of_first).await?)?;
    // A decision about the first holder is none about the second.
    match probe.ask(&id, LONG, of_first).await? {
        ClaimOutcome::Denied(Denied::InDoubt { token, .. }) if token == second.token() => Ok(()),
        other => probe.failure(format!("an outdated decision was {}", name(&other))),
    }
}

pub(super) async fn an_outdated_holder_is_refused<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("fence")?;
    let old = probe.claim(&id, Duration::ZERO).await?;
    let token = old.token();
    let releasing = Claim::new(id.clone(), token, 1, None);
    let late = Claim::new(id.clone(), token, 1, None);
    let new = probe.granted(probe.ask(&id, LONG, Takeover::Expired).await?)?;

    let answer = probe.store.renew(&id, token, LONG).await;
    probe.outdated(answer, token, "an outdated holder renews")?;
    let answer = probe.store.end_lease(&id, token, Duration::ZERO).await;
    probe.outdated(answer, token, "an outdated holder ends a lease")?;
    let answer = probe.store.release(releasing).await;
    probe.outdated(answer, token, "an outdated holder releases")?;
    let answer = probe.store.complete(old, result(1), LONG).await;
    probe.outdated(answer, token, "an outdated holder completes")?;

    probe.complete(new, &result(2), LONG).await?;
    let answer = probe.store.complete(late, result(1), LONG).await;
    probe.outdated(answer, token, "an outdated holder completes what is completed")?;
    let record = probe.completed(&id).await?;
    probe.require(
        record.result() == Some(&result(2)),
        "the outdated holder's result was kept",
    )?;
    let answer = probe.store.renew(&id, record.token, LONG).await;
    probe.outdated(answer, record.token, "renewing what is completed")
}

pub(super) async fn a_late_holder_that_nobody_took_over_may_complete<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Store,
    P: AsyncFn(Duration),
{
    let id = probe.id("late")?;
    let claim = probe.claim(&id, Duration::ZERO).await?;
    match probe.ask(&id, LONG, Takeover::Never).await? {
        ClaimOutcome::Denied(Denied::InDoubt { .. }) => {}
        other => return probe.failure(format!("without a lease: {}", name(&other))),
    }
    probe.complete(claim, &result(1), LONG).await?;
    probe.completed(&id).await.map(drop)
}

pub(super) async fn after_retention_an_identity_is_new<S: Store, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let id = probe.id_of("retention", 1)?;
    let claim = probe.claim(&id, LONG).await?;
    let token = claim.token();
    probe.complete(claim, &result(1), probe.short()).await?;
    probe.completed(&id).await?;
    probe.pass(probe.later()).await;
    let known = probe.ok(probe.store.load(&id).await)?;
    probe.require(known.is_none(), "a record is known after its retention")?;
    let new = probe.claim(&probe.id_of("retention", 2)?, LONG).await?;
    probe.require(
        new.attempt() == 1 && new.token() > token && new.took_over().is_none(),
        "a claim after retention is not a first one with a larger token",
    )
}

pub(super) async fn purging_deletes_what_is_past_retention_only<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Store,
    P: AsyncFn(Duration),
{
    for n in 0..5 {
        let claim = probe.claim(&probe.id(&format!("old-{n}"))?, LONG).await?;
        probe.complete(claim, &result(n), Duration::ZERO).await?;
    }
    let kept = probe.id("kept")?;
    let claim = probe.claim(&kept, LONG).await?;
    probe.complete(claim, &result(9), LONG).await?;
    let running = probe.id("running")?;
    let running_claim = probe.claim(&running, LONG).await?;
    let doubtful = probe.id("doubtful")?;
    let dead = probe.claim(&doubtful, Duration::ZERO).await?;
    // An identity that was used again after its retention must not be purged for its past.
    let reused = probe.id("old-0")?;
    let reused_claim = probe.claim(&reused, LONG).await?;
    probe.pass(Duration::from_millis(2)).await;

    let mut batches = Vec::new();
    for _ in 0..4 {
        batches.push(probe.ok(probe.store.purge(3).await)?);
    }
    // A store that purges by itself has nothing left to delete.
    probe.require(
        batches == [3, 1, 0, 0] || batches == [0; 4],
        "purging in batches of 3 did not delete 3, then 1, then nothing; nor nothing at all",
    )?;
    probe.completed(&kept).await?;
    for (id, token) in [(&running, &running_claim), (&doubtful, &dead), (&reused, &reused_claim)] {
        let record = probe.ok(probe.store.load(id).await)?;
        let there = record.is_some_and(|record| record.token == token.token());
        probe.require(there, "what is in progress or in doubt was purged")?;
    }
    Ok(())
}

pub(super) async fn tokens_never_go_backwards<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let mut last = None;
    for n in 0..12_u8 {
        let id = probe.id(["x", "y"][usize::from(n % 2)])?;
        let claim = probe.granted(probe.ask(&id, LONG, Takeover::Expired).await?)?;
        let token = claim.token();
        probe.require(
            last.is_none_or(|last| token > last),
            "a token is not larger than one before it",
        )?;
        last = Some(token);
        match n % 3 {
            0 => probe.ok(probe.store.release(claim).await)?,
            1 => {
                probe.complete(claim, &result(n), Duration::ZERO).await?;
                probe.pass(Duration::from_millis(2)).await;
                probe.ok(probe.store.purge(100).await).map(drop)?;
            }
            _ => probe.ok(probe.store.end_lease(&id, token, Duration::ZERO).await)?,
        }
    }
    Ok(())
}

pub(super) async fn what_is_in_doubt_is_listed<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    match probe.store.in_doubt(1, None).await {
        // It does not say that it can.
        Err(StoreError::Unsupported { .. }) => return Ok(()),
        answered => probe.require(probe.ok(answered)?.is_empty(), "an empty store has something in doubt")?,
    }
    let mut doubtful = Vec::new();
    for (digest, key) in (1..).zip(["one", "two", "three"]) {
        let id = probe.id_of(key, digest)?;
        let claim = probe.claim(&id, LONG).await?;
        probe.ok(probe.store.end_lease(&id, claim.token(), Duration::ZERO).await)?;
        doubtful.push((id, claim));
    }
    // Neither of these is.
    probe.claim(&probe.id("alive")?, LONG).await.map(drop)?;
    let done = probe.claim(&probe.id("done")?, Duration::ZERO).await?;
    probe.complete(done, &result(0), LONG).await?;

    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = probe.ok(probe.store.in_doubt(2, after).await)?;
        probe.require(page.len() <= 2, "a page is longer than asked for")?;
        let Some(last) = page.last() else { break };
        probe.require(after.is_none_or(|after| last.token > after), "a page begins anew")?;
        after = Some(last.token);
        listed.extend(page);
    }
    let same = listed.len() == doubtful.len()
        && listed.iter().zip(&doubtful).all(|(listed, (id, claim))| {
            listed.id == *id
                && listed.id.fingerprint() == id.fingerprint()
                && listed.token == claim.token()
                && listed.attempt == 1
        });
    probe.require(same, "the list is not what is in doubt, in the order of the tokens")
}

pub(super) async fn who_watches_hears_of_every_end<S: Store, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    for end in ["completed", "released", "given up"] {
        let id = probe.id(end)?;
        let claim = probe.claim(&id, LONG).await?;
        // The first subscription may be what makes a store begin to listen.
        let mut watch = probe.store.watch(&id).await;
        for _ in 0..200 {
            if !watch.is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            watch = probe.store.watch(&id).await;
        }
        if watch.is_none() {
            // It does not say that it notifies.
            return Ok(());
        }
        match end {
            "completed" => probe.complete(claim, &result(0), LONG).await?,
            "released" => probe.ok(probe.store.release(claim).await)?,
            _ => probe.ok(probe.store.end_lease(&id, claim.token(), Duration::ZERO).await)?,
        }
        let heard = tokio::time::timeout(HEARD_WITHIN, watch.changed()).await;
        probe.require(
            heard.is_ok() && !watch.is_none(),
            &format!("nobody is told of what is {end}"),
        )?;
    }
    Ok(())
}
