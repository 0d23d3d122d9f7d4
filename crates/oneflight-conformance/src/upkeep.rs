//! What a store must do for an operator who looks into it: the checks, one function a promise, named after it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::failure::{Failure, name};
use super::probe::{LONG, Probe, result, run_check};
use oneflight::correlation::CorrelationId;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, Decoded, FencingToken, RecordedResult, Verdict};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Denied, Erase, Erased, Finding, Purpose, RecordCursor, RecordEntry, RecordQuery,
    RecordState, Soundness, Store, StoreError, Takeover, Upkeep,
};

pub(super) mod steps;

/// More pages than any check has records, in a store that scans.
const MOST_PAGES: usize = 100_000;

type Checked = Result<(), Failure>;

/// Runs the suite of what [`Upkeep`] promises against a store whose time passes by itself. `make` returns an empty store.
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_upkeep<S: Upkeep>(make: impl AsyncFn() -> S) -> Result<(), Failure> {
    run_upkeep_with(make, async |duration| tokio::time::sleep(duration).await).await
}

/// Runs the suite of what [`Upkeep`] promises against a store whose time the test moves.
///
/// # Errors
///
/// Returns the first promise that is not kept.
pub async fn run_upkeep_with<S: Upkeep>(
    make: impl AsyncFn() -> S,
    pass: impl AsyncFn(Duration),
) -> Result<(), Failure> {
    macro_rules! check {
        ($($name:ident),* $(,)?) => {$(
            run_check!(make, pass, $name, $name);
        )*};
    }
    check!(
        all_records_are_listed_in_pages,
        a_record_is_listed_with_what_is_known_of_it,
        records_are_found_by_each_condition,
        what_is_past_its_retention_is_not_listed,
        a_cursor_of_another_store_is_an_error,
        what_is_erased_is_new,
        what_has_no_answer_any_more_was_done_all_the_same,
        of_an_answer_of_http_its_status_stays,
        one_record_or_its_answer_is_erased_alone,
        what_is_held_is_taken_over_by_no_policy,
        what_is_held_is_settled_by_its_token,
        a_hold_waits_for_the_end_of_the_lease,
        a_hold_ends_with_the_record,
        a_takeover_keeps_the_id_of_a_request_until_there_is_another,
        every_finding_that_is_not_sound_has_advice,
    );
    Ok(())
}

impl<S: Upkeep, P: AsyncFn(Duration)> Probe<'_, S, P> {
    fn id_in(&self, scope: Scope, key: &str) -> Result<RequestIdentity, Failure> {
        RequestIdentity::new(scope, key).or_else(|_| self.failure("the suite made an invalid identity"))
    }

    fn correlation(&self, text: &str) -> Result<CorrelationId, Failure> {
        CorrelationId::new(text).or_else(|_| self.failure("the suite made an invalid correlation id"))
    }

    /// Returns all that is listed, by scope and key, and how often it was.
    async fn listed(&self, query: RecordQuery) -> Result<BTreeMap<(String, String), (usize, RecordEntry)>, Failure> {
        let mut listed = BTreeMap::new();
        let (mut query, limit) = (query.clone(), query.limit);
        for _ in 0..MOST_PAGES {
            let page = self.ok(self.store.records(query.clone()).await)?;
            self.require(page.entries.len() <= limit, "a page has more than was asked for")?;
            self.require(page.unreadable == 0, "a record of the suite could not be read")?;
            for entry in page.entries {
                let place = (entry.id.scope().to_owned(), entry.id.key().to_owned());
                let (times, last) = listed.entry(place).or_insert((0, entry.clone()));
                (*times, *last) = (*times + 1, entry);
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(listed),
            }
        }
        self.failure("the pages have no end")
    }

    async fn entry(&self, id: &RequestIdentity) -> Result<RecordEntry, Failure> {
        let query = RecordQuery {
            scope: Some(id.scope().to_owned()),
            key: Some(id.key().to_owned()),
            ..RecordQuery::all(10)
        };
        match self.listed(query).await?.into_values().next() {
            Some((_, entry)) => Ok(entry),
            None => self.failure("a record is not listed"),
        }
    }

    async fn keys(&self, query: RecordQuery) -> Result<Vec<String>, Failure> {
        let listed = self.listed(query).await?;
        Ok(listed
            .into_keys()
            .map(|(scope, key)| format!("{scope} {key}"))
            .collect())
    }

    async fn done(&self, id: &RequestIdentity, result: &RecordedResult) -> Result<FencingToken, Failure> {
        let claim = self.claim(id, LONG).await?;
        let token = claim.token();
        self.complete(claim, result, LONG).await?;
        Ok(token)
    }

    /// Claims with a lease that is over at once, and holds.
    async fn held(&self, id: &RequestIdentity) -> Result<Claim, Failure> {
        let claim = self.claim(id, Duration::ZERO).await?;
        self.hold(id, claim.token()).await?;
        Ok(claim)
    }

    async fn hold(&self, id: &RequestIdentity, token: FencingToken) -> Checked {
        let is_held = self.ok(self.store.hold(id, token).await)?;
        self.require(is_held, "a request that is in progress is not held")
    }

    /// Requires that nobody takes it over for the mere reason that its lease is over.
    async fn is_left_alone(&self, id: &RequestIdentity) -> Checked {
        match self.ask(id, LONG, Takeover::Expired).await? {
            ClaimOutcome::Denied(Denied::InDoubt { .. }) => Ok(()),
            other => self.failure(format!("a claim of what is held is {}", name(&other))),
        }
    }

    async fn erase(&self, scope: &str, what: Erase) -> Result<Erased, Failure> {
        self.ok(self.store.erase(scope, what, None, 100).await)
    }
}

async fn all_records_are_listed_in_pages<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let none = probe.listed(RecordQuery::all(3)).await?;
    probe.require(none.is_empty(), "an empty store lists records")?;
    let mut expected = Vec::new();
    for number in 0..10 {
        for scope in ["a", "a|b", "b"] {
            let id = probe.id_in(Scope::new(scope), &format!("{number}"))?;
            match number {
                0 => drop(probe.claim(&id, LONG).await?),
                1 => drop(probe.claim(&id, Duration::ZERO).await?),
                _ => drop(probe.done(&id, &result(number)).await?),
            }
            expected.push((id.scope().to_owned(), id.key().to_owned()));
        }
    }
    expected.sort();
    for limit in [1, 3, 1000] {
        let listed = probe.listed(RecordQuery::all(limit)).await?;
        let places: Vec<_> = listed.into_keys().collect();
        probe.require(places == expected, "the pages have not what there is")?;
    }
    let nothing = probe.ok(probe.store.records(RecordQuery::all(0)).await)?;
    probe.require(nothing.entries.is_empty(), "a page of none has some")
}

async fn a_record_is_listed_with_what_is_known_of_it<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Upkeep,
    P: AsyncFn(Duration),
{
    let id = probe.id_of("known", 7)?;
    let correlation = probe.correlation("edge-5f2c")?;
    let request = ClaimRequest::new(&id, LONG).correlation_id(Some(correlation.clone()));
    let claim = probe.granted(probe.ok(probe.store.claim(request).await)?)?;
    let token = claim.token();
    let entry = probe.entry(&id).await?;
    probe.require(
        entry.id.fingerprint() == id.fingerprint() && entry.record.fingerprint == id.fingerprint(),
        "it is listed with another fingerprint",
    )?;
    let is_it = entry.record.token == token && entry.record.attempt == 1 && entry.state == RecordState::InProgress;
    probe.require(is_it, "what is in progress is listed as something else")?;
    probe.require(!entry.record.held, "it is listed as held")?;
    probe.complete(claim, &result(3), LONG).await?;
    let entry = probe.entry(&id).await?;
    let is_it = entry.state == RecordState::Completed && entry.record.result() == Some(&result(3));
    probe.require(
        is_it && entry.record.token == token,
        "what is completed is listed without its result",
    )?;
    probe.require(
        entry.correlation_id == Some(correlation),
        "the id of the request that claimed is not listed",
    )?;
    let loaded = probe.ok(probe.store.load(&id).await)?;
    let is_same = loaded.is_some_and(|loaded| loaded.state == entry.record.state);
    probe.require(is_same, "the record is another one than the one that is loaded")
}

async fn records_are_found_by_each_condition<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let wide = || Scope::new("tenant-7");
    let scopes = [
        wide(),
        wide().route("POST /orders"),
        wide().route("POST /orders").user("u1"),
        Scope::new("tenant-70"),
        Scope::new("tenant-7-b"),
        Scope::new("tenant-7}"),
        Scope::new("Tenant-7"),
    ];
    let correlation = probe.correlation("c-1")?;
    for (number, scope) in scopes.into_iter().enumerate() {
        for key in ["k", "K", "other"] {
            let id = probe.id_in(scope.clone(), key)?;
            let lease = if key == "K" { Duration::ZERO } else { LONG };
            let of = (number == 1).then(|| correlation.clone());
            let request = ClaimRequest::new(&id, lease).correlation_id(of);
            let claim = probe.granted(probe.ok(probe.store.claim(request).await)?)?;
            if key == "other" {
                probe.complete(claim, &result(1), LONG).await?;
            }
        }
    }
    let all = || RecordQuery::all(2);
    let in_scope = |scope: &str| RecordQuery {
        scope: Some(scope.to_owned()),
        ..all()
    };
    let expected = |scopes: &[&str], keys: &[&str]| {
        let mut all: Vec<(&str, &str)> = scopes
            .iter()
            .flat_map(|scope| keys.iter().map(move |key| (*scope, *key)))
            .collect();
        all.sort_unstable();
        all.into_iter()
            .map(|(scope, key)| format!("{scope} {key}"))
            .collect::<Vec<_>>()
    };
    let (orders, user) = ("tenant-7|route=POST /orders", "tenant-7|route=POST /orders|user=u1");
    let everything = [
        "tenant-7",
        orders,
        user,
        "tenant-70",
        "tenant-7-b",
        "tenant-7}",
        "Tenant-7",
    ];
    let keys = ["k", "K", "other"];
    let cases = [
        (
            in_scope("tenant-7"),
            expected(&["tenant-7", orders, user], &keys),
            "a scope",
        ),
        (in_scope(orders), expected(&[orders, user], &keys), "a narrower scope"),
        (in_scope("tenant"), Vec::new(), "a part of a scope"),
        (in_scope(""), Vec::new(), "an empty scope"),
        (
            RecordQuery {
                key: Some("k".to_owned()),
                ..all()
            },
            expected(&everything, &["k"]),
            "a key",
        ),
        (
            RecordQuery {
                key: Some("K".to_owned()),
                ..in_scope(orders)
            },
            expected(&[orders, user], &["K"]),
            "a key in a scope",
        ),
        (
            RecordQuery {
                state: Some(RecordState::InProgress),
                ..in_scope("tenant-7")
            },
            expected(&["tenant-7", orders, user], &["k"]),
            "what is in progress in a scope",
        ),
        (
            RecordQuery {
                state: Some(RecordState::InDoubt),
                ..all()
            },
            expected(&everything, &["K"]),
            "what is in doubt",
        ),
        (
            RecordQuery {
                state: Some(RecordState::Completed),
                ..all()
            },
            expected(&everything, &["other"]),
            "what is completed",
        ),
        (
            RecordQuery {
                correlation_id: Some(correlation),
                ..all()
            },
            expected(&[orders], &keys),
            "an id of a request",
        ),
    ];
    for (query, expected, what) in cases {
        let found = probe.keys(query).await?;
        if found != expected {
            return probe.failure(format!("by {what} there is {found:?}, not {expected:?}"));
        }
    }
    Ok(())
}

async fn what_is_past_its_retention_is_not_listed<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("short")?;
    let claim = probe.claim(&id, LONG).await?;
    probe.complete(claim, &result(1), probe.short()).await?;
    probe.pass(probe.later()).await;
    for state in [None, Some(RecordState::Completed)] {
        let query = RecordQuery {
            state,
            ..RecordQuery::all(10)
        };
        let listed = probe.listed(query).await?;
        probe.require(listed.is_empty(), "what is past its retention is listed")?;
    }
    Ok(())
}

async fn a_cursor_of_another_store_is_an_error<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let query = RecordQuery {
        after: Some(RecordCursor::new("another store's")),
        ..RecordQuery::all(10)
    };
    match probe.store.records(query).await {
        Err(StoreError::Unsupported { .. }) => Ok(()),
        Err(source) => probe.ok(Err(source)),
        Ok(_) => probe.failure("a page was returned"),
    }
}

async fn what_is_erased_is_new<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let (scope, other) = (Scope::new("erased"), Scope::new("erased-not"));
    let (running, doubtful) = (
        probe.id_in(scope.clone(), "running")?,
        probe.id_in(scope.clone(), "doubtful")?,
    );
    let running_claim = probe.claim(&running, LONG).await?;
    let doubtful_claim = probe.claim(&doubtful, Duration::ZERO).await?;
    let kept = probe.id_in(other, "done")?;
    probe.done(&kept, &result(9)).await?;
    let mut ids = Vec::new();
    for number in 0..5 {
        let scope = scope.clone().route(format!("POST /{}", number % 2));
        let id = probe.id_in(scope, &format!("done-{number}"))?;
        ids.push((probe.done(&id, &result(1)).await?, id));
    }
    let (mut erased, mut after) = (0, None);
    for batch in 0.. {
        let batch_of = probe.store.erase("erased", Erase::Records, after, 2);
        let Erased { erased: some, next, .. } = probe.ok(batch_of.await)?;
        probe.require(some <= 2, "more was erased than was asked for")?;
        erased += some;
        if next.is_none() {
            break;
        }
        after = next;
        probe.require(batch < MOST_PAGES, "there is always more to erase")?;
    }
    probe.require(erased == 5, "it was not said how many were erased")?;
    for (token, id) in &ids {
        let loaded = probe.ok(probe.store.load(id).await)?;
        probe.require(loaded.is_none(), "what was erased is known")?;
        let claim = probe.claim(id, LONG).await?;
        probe.require(
            claim.attempt() == 1 && claim.took_over().is_none() && claim.token() > *token,
            "what was erased is not new",
        )?;
    }
    for (id, claim) in [(&running, running_claim), (&doubtful, doubtful_claim)] {
        let loaded = probe.ok(probe.store.load(id).await)?;
        let is_there = loaded.is_some_and(|record| record.token == claim.token());
        probe.require(is_there, "what was in progress was erased")?;
    }
    probe.completed(&kept).await.map(drop)
}

async fn what_has_no_answer_any_more_was_done_all_the_same<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Upkeep,
    P: AsyncFn(Duration),
{
    let (scope, other) = (Scope::new("erased"), Scope::new("erased2"));
    let kept = probe.id_in(other, "done")?;
    probe.done(&kept, &result(9)).await?;
    let running = probe.id_in(scope.clone(), "running")?;
    let claim = probe.claim(&running, LONG).await?;
    let mut tokens = Vec::new();
    for number in 0..5 {
        let id = probe.id_in(scope.clone(), &format!("done-{number}"))?;
        tokens.push((probe.done(&id, &result(number)).await?, id));
    }
    let (mut erased, mut after) = (0, None);
    for batch in 0.. {
        let batch_of = probe.store.erase("erased", Erase::Answers, after, 2);
        let Erased { erased: some, next, .. } = probe.ok(batch_of.await)?;
        probe.require(some <= 2, "more answers were erased than was asked for")?;
        erased += some;
        if next.is_none() {
            break;
        }
        after = next;
        probe.require(batch < MOST_PAGES, "there is always more to erase")?;
    }
    probe.require(erased == 5, "it was not said how many answers were erased")?;
    let again = probe.erase("erased", Erase::Answers).await?;
    probe.require(again == Erased::default(), "what was erased is erased again")?;
    for (token, id) in tokens {
        let record = probe.completed(&id).await?;
        probe.require(record.token == token, "an erased answer is of another claim")?;
        match record.result().map(RecordedResult::decode) {
            Some(Ok(Decoded::TooLarge { size: 256, limit: 0 })) => {}
            other => return probe.failure(format!("what is left of an erased answer is {other:?}")),
        }
    }
    let record = probe.completed(&kept).await?;
    probe.require(
        record.result() == Some(&result(9)),
        "an answer of another scope was erased",
    )?;
    probe.complete(claim, &result(7), LONG).await?;
    let record = probe.completed(&running).await?;
    probe.require(
        record.result() == Some(&result(7)),
        "what was in progress lost its answer",
    )
}

async fn of_an_answer_of_http_its_status_stays<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("http")?;
    let Some(http) = CodecId::named("oneflight.http") else {
        return probe.failure("the suite named an invalid codec");
    };
    // Status 201, a date, no header lines, a body of six bytes.
    let outcome = b"\x01\xc9\x01\xe8\xd9\xc8\xb8\xed\x32";
    let payload = [&outcome[..], b"\x00\x01\x06secret\x00"].concat();
    probe
        .done(&id, &RecordedResult::value(Verdict::Performed, http, &payload))
        .await?;
    let erased = probe.erase(id.scope(), Erase::Answers).await?;
    probe.require(erased.erased == 1, "the answer was not erased")?;
    let record = probe.completed(&id).await?;
    let left = record.result().map(RecordedResult::decode);
    match left {
        Some(Ok(Decoded::Value { payload, .. }))
            if payload.starts_with(outcome) && !payload.windows(6).any(|it| it == b"secret") => {}
        other => return probe.failure(format!("what is left of an erased answer is {other:?}")),
    }
    let again = probe.erase(id.scope(), Erase::Answers).await?;
    probe.require(again == Erased::default(), "what was erased is erased again")
}

async fn one_record_or_its_answer_is_erased_alone<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let scope = Scope::new("one");
    let [id, other, narrower] = [
        probe.id_in(scope.clone(), "k")?,
        probe.id_in(scope.clone(), "k2")?,
        probe.id_in(scope.route("POST /"), "k")?,
    ];
    let erase = async |id: &RequestIdentity, token, what| probe.ok(probe.store.erase_one(id, token, what).await);
    let token = probe.done(&id, &result(7)).await?;
    let others = [
        probe.done(&other, &result(8)).await?,
        probe.done(&narrower, &result(9)).await?,
    ];
    for what in [Erase::Answers, Erase::Records] {
        for token in others {
            let is_erased = erase(&id, token, what).await?;
            probe.require(!is_erased, "what was completed under another token is erased")?;
        }
    }
    let record = probe.completed(&id).await?;
    probe.require(
        record.result() == Some(&result(7)),
        "what was not erased is another result",
    )?;
    for times in ["once", "twice"] {
        let is_erased = erase(&id, token, Erase::Answers).await?;
        probe.require(is_erased, &format!("an answer is not erased {times}"))?;
        let record = probe.completed(&id).await?;
        let left = record.result().map(RecordedResult::decode);
        let is_left = matches!(left, Some(Ok(Decoded::TooLarge { limit: 0, .. })));
        probe.require(
            is_left && record.token == token,
            "an erased answer leaves something else",
        )?;
    }
    let is_erased = erase(&id, token, Erase::Records).await?;
    probe.require(is_erased, "a record is not erased")?;
    let loaded = probe.ok(probe.store.load(&id).await)?;
    probe.require(loaded.is_none(), "a record that was erased is known")?;
    for what in [Erase::Answers, Erase::Records] {
        let is_erased = erase(&id, token, what).await?;
        probe.require(!is_erased, "what is gone is erased")?;
    }
    // A new one is another one, and what runs or is in doubt is none that was completed.
    for lease in [LONG, Duration::ZERO] {
        let claim = probe.claim(&id, lease).await?;
        for token in [token, claim.token()] {
            let is_erased = erase(&id, token, Erase::Records).await?;
            probe.require(!is_erased, "what is in progress or in doubt is erased")?;
        }
        probe.ok(probe.store.release(claim).await)?;
    }
    for (id, value) in [(&other, 8), (&narrower, 9)] {
        let record = probe.completed(id).await?;
        probe.require(
            record.result() == Some(&result(value)),
            "another record was erased as well",
        )?;
    }
    Ok(())
}

async fn what_is_held_is_taken_over_by_no_policy<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id_of("held", 3)?;
    let claim = probe.claim(&id, Duration::ZERO).await?;
    let (token, another) = (claim.token(), FencingToken::new(claim.token().get() + 1));
    for (id, token) in [(&id, another), (&probe.id("unknown")?, token)] {
        let is_held = probe.ok(probe.store.hold(id, token).await)?;
        probe.require(!is_held, "what another holder has is held")?;
    }
    probe.hold(&id, token).await?;
    // Once more changes nothing.
    probe.hold(&id, token).await?;
    probe.is_left_alone(&id).await?;
    let loaded = probe.ok(probe.store.load(&id).await)?;
    probe.require(
        loaded.is_some_and(|record| record.held),
        "the record does not say that it is held",
    )?;
    let entry = probe.entry(&id).await?;
    probe.require(
        entry.record.held && entry.state == RecordState::InDoubt,
        "what is held is listed as something else",
    )?;
    let doubtful = probe.ok(probe.store.in_doubt(10, None).await)?;
    let is_it = doubtful
        .iter()
        .any(|doubtful| doubtful.id == id && doubtful.token == token);
    probe.require(is_it, "what is held is not listed as in doubt")?;
    // A holder that asks again does not get it either: its claim waits for a decision.
    match probe.ask(&id, LONG, Takeover::Never).await? {
        ClaimOutcome::Denied(Denied::InDoubt { .. }) => Ok(()),
        other => probe.failure(format!("a claim of what is held is {}", name(&other))),
    }
}

async fn what_is_held_is_settled_by_its_token<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    for settles in ["completes", "releases"] {
        let id = probe.id(settles)?;
        let first = probe.held(&id).await?;
        let of = |token| {
            let request = ClaimRequest::new(&id, Duration::ZERO).takeover(Takeover::Of(token));
            request.purpose(Purpose::Resolve)
        };
        let claim = probe.granted(probe.ok(probe.store.claim(of(first.token())).await)?)?;
        // What breaks off here waits for a decision as before.
        probe.is_left_alone(&id).await?;
        let claim = probe.granted(probe.ok(probe.store.claim(of(claim.token())).await)?)?;
        match settles {
            "completes" => {
                probe.complete(claim, &result(1), LONG).await?;
                let record = probe.completed(&id).await?;
                probe.require(!record.held, "what is completed is held")?;
            }
            _ => {
                probe.ok(probe.store.release(claim).await)?;
                probe.claim(&id, LONG).await.map(drop)?;
            }
        }
    }
    Ok(())
}

async fn a_hold_waits_for_the_end_of_the_lease<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let id = probe.id("running")?;
    let claim = probe.claim(&id, LONG).await?;
    probe.hold(&id, claim.token()).await?;
    let entry = probe.entry(&id).await?;
    probe.require(
        entry.state == RecordState::InProgress,
        "what runs is listed as something else",
    )?;
    match probe.ask(&id, LONG, Takeover::Expired).await? {
        ClaimOutcome::Denied(Denied::InProgress { .. }) => {}
        other => return probe.failure(format!("a claim of what runs is {}", name(&other))),
    }
    probe.ok(probe.store.renew(&id, claim.token(), LONG).await)?;
    probe.ok(probe.store.end_lease(&id, claim.token(), Duration::ZERO).await)?;
    probe.is_left_alone(&id).await?;
    // Its holder is not dead after all.
    probe.complete(claim, &result(1), LONG).await?;
    probe.completed(&id).await.map(drop)
}

async fn a_hold_ends_with_the_record<S: Upkeep, P: AsyncFn(Duration)>(probe: &Probe<'_, S, P>) -> Checked {
    let (released, expired) = (probe.id("released")?, probe.id("expired")?);
    let claim = probe.held(&released).await?;
    probe.ok(probe.store.release(claim).await)?;
    let claim = probe.held(&expired).await?;
    let token = claim.token();
    probe.complete(claim, &result(1), probe.short()).await?;
    let is_held = probe.ok(probe.store.hold(&expired, token).await)?;
    probe.require(!is_held, "what is completed is held")?;
    probe.pass(probe.later()).await;
    for id in [released, expired] {
        probe.claim(&id, Duration::ZERO).await.map(drop)?;
        let outcome = probe.ask(&id, LONG, Takeover::Expired).await?;
        probe.granted(outcome).map(drop)?;
    }
    Ok(())
}

async fn a_takeover_keeps_the_id_of_a_request_until_there_is_another<S, P>(probe: &Probe<'_, S, P>) -> Checked
where
    S: Upkeep,
    P: AsyncFn(Duration),
{
    let id = probe.id("correlated")?;
    let longest = probe.correlation(&"~".repeat(CorrelationId::MAX_BYTES))?;
    let [first, second] = [longest, probe.correlation("2")?].map(Some);
    for (given, expected) in [(&first, &first), (&None, &first), (&second, &second), (&None, &second)] {
        let request = ClaimRequest::new(&id, Duration::ZERO).takeover(Takeover::Expired);
        let request = request.correlation_id(given.clone());
        let _ = probe.granted(probe.ok(probe.store.claim(request).await)?)?;
        let entry = probe.entry(&id).await?;
        probe.require(
            entry.correlation_id == *expected,
            "a takeover has the id of another request",
        )?;
    }
    let token = probe.entry(&id).await?.record.token;
    let again = Claim::new(id.clone(), token, 1, None);
    probe.complete(again, &result(1), probe.short()).await?;
    let entry = probe.entry(&id).await?;
    probe.require(
        entry.correlation_id == second,
        "what is completed has lost the id of its request",
    )?;
    probe.pass(probe.later()).await;
    let _ = probe.claim(&id, LONG).await?;
    let entry = probe.entry(&id).await?;
    probe.require(
        entry.correlation_id.is_none(),
        "a new request has the id of another one",
    )
}

async fn every_finding_that_is_not_sound_has_advice<S: Upkeep, P: AsyncFn(Duration)>(
    probe: &Probe<'_, S, P>,
) -> Checked {
    let findings = probe.ok(probe.store.findings().await)?;
    probe.require(!findings.is_empty(), "nothing was found")?;
    for Finding {
        name,
        verdict,
        found,
        advice,
    } in findings
    {
        let is_told = !name.is_empty() && !found.is_empty();
        let is_advised = match verdict {
            Soundness::Sound | Soundness::Unknown => true,
            Soundness::Remarkable | Soundness::Broken => advice.is_some_and(|advice| advice.ends_with('.')),
        };
        if !is_told || !is_advised {
            return probe.failure(format!("the finding `{name}` says too little"));
        }
    }
    Ok(())
}
