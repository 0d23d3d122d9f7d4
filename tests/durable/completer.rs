//! Promise 16: somebody goes on with a mutation of steps although no client comes back, and only where it is allowed to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::idempotency::{Completer, CompleterBuilder, StepError, Steps, Stopped, Workflow};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Denied, ManualClock, Standing, StartedBy, StepId, StepRecord, StepStore,
    StepsClaim, Store, StoreError, UnfinishedQuery, UnfinishedSteps, WorkflowRecord, WorkflowStart,
};
use oneflight::{ErrorKind, Idempotency, MemoryStore, RequestIdentity, Scope};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

pub(super) const SOON: Duration = Duration::from_millis(5);

pub(super) fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

/// A mutation that was begun, has finished its first step, and stopped.
pub(super) async fn left_behind<S: StepStore>(idem: &Idempotency<S>, key: &str, workflow: Workflow) {
    let begun = idem.with_workflow(workflow);
    let stopped = begun.run_steps(id(key), &key.to_owned(), |steps| async move {
        steps.run("first", |_| async { Ok::<_, io::Error>(1) }).await?;
        Err::<(), _>(Stopped::because("its client never comes back"))
    });
    stopped.await.unwrap_err();
}

pub(super) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = timeout(Duration::from_secs(20), async {
        while !is_so().await {
            sleep(SOON).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

pub(super) async fn is_completed<S: StepStore>(idem: &Idempotency<S>, key: &str) -> bool {
    let record = idem.status(&id(key)).await.unwrap();
    record.is_some_and(|record| record.result().is_some())
}

/// What the second attempt is given.
pub(super) type Seen = Arc<Mutex<Vec<(String, u32)>>>;

pub(super) fn quick<S: StepStore>(idem: &Idempotency<S>) -> CompleterBuilder<S> {
    idem.completer().every(SOON).pauses(Duration::from_millis(1), SOON)
}

pub(super) fn finishing<S: StepStore>(builder: CompleterBuilder<S>, workflow: Workflow, seen: &Seen) -> Completer {
    let seen = Arc::clone(seen);
    let builder = builder.handler(workflow, move |input: String, steps: Steps<S>| {
        let seen = Arc::clone(&seen);
        async move {
            let first = steps.run("first", |_| async { Ok::<_, io::Error>(2) }).await?;
            seen.lock().push((input, first));
            Ok(())
        }
    });
    builder.spawn().unwrap()
}

#[tokio::test]
async fn what_nobody_asks_for_is_finished_with_its_recorded_input_and_steps() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let seen = Seen::default();
    let completer = finishing(quick(&idem), Workflow::new("place_order"), &seen);
    left_behind(&idem, "a", Workflow::new("place_order")).await;
    eventually("it is finished", async || is_completed(&idem, "a").await).await;
    assert_eq!(*seen.lock(), [("a".to_owned(), 1)]);
    // A client that comes back after all gets that result.
    let again = idem.with_workflow("place_order");
    let reply = again.run_steps(id("a"), &"a".to_owned(), |_| async { Ok(()) }).await;
    assert!(reply.unwrap().is_cached());
    completer.stop().await;
}

#[tokio::test]
async fn what_it_does_not_know_is_left_alone() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    left_behind(&idem, "unnamed", Workflow::default()).await;
    left_behind(&idem, "other", Workflow::new("refund")).await;
    left_behind(&idem, "old", Workflow::new("place_order").version("0")).await;
    left_behind(&idem, "accepted", Workflow::new("place_order").version("1")).await;
    left_behind(&idem, "own", Workflow::new("place_order").version("2")).await;
    let before: HashMap<_, _> = unfinished(&idem).await;
    let seen = Seen::default();
    let workflow = Workflow::new("place_order").version("2").accepts("1");
    let completer = finishing(quick(&idem), workflow, &seen);
    for key in ["own", "accepted"] {
        eventually(key, async || is_completed(&idem, key).await).await;
    }
    sleep(SOON * 20).await;
    completer.stop().await;
    let after = unfinished(&idem).await;
    assert_eq!(after.len(), 3);
    for (key, token) in after {
        assert_eq!(before[&key], token, "{key} was claimed");
    }
    assert_eq!(seen.lock().len(), 2);
}

pub(super) async fn unfinished(idem: &Idempotency<MemoryStore>) -> HashMap<String, FencingToken> {
    let found = idem.unfinished_steps(100).await.unwrap();
    found.into_iter().map(|it| (it.id.key().to_owned(), it.token)).collect()
}

#[tokio::test]
async fn tries_are_limited_and_then_a_person_decides() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    left_behind(&idem, "a", Workflow::new("place_order")).await;
    let (tries, mended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, is_mended) = (Arc::clone(&tries), Arc::clone(&mended));
    let builder = quick(&idem).max_tries(3);
    let completer = builder.handler("place_order", move |_: String, steps: Steps<MemoryStore>| {
        let (count, is_mended) = (Arc::clone(&count), Arc::clone(&is_mended));
        async move {
            steps.run("first", |_| async { Ok::<_, io::Error>(2) }).await?;
            count.fetch_add(1, SeqCst);
            match is_mended.load(SeqCst) {
                true => Ok(()),
                false => Err(Stopped::because("poisonous")),
            }
        }
    });
    let completer = completer.spawn().unwrap();
    eventually("it is held", async || idem.unfinished_steps(1).await.unwrap()[0].held).await;
    assert_eq!(tries.load(SeqCst), 3);
    // It is in doubt now, for clients too.
    assert_eq!(idem.in_doubt(10, None).await.unwrap()[0].id, id("a"));
    let again = idem.with_workflow("place_order");
    let error = again.run_steps(id("a"), &"a".to_owned(), |_| async { Ok(()) }).await;
    assert!(matches!(error.unwrap_err().kind(), ErrorKind::InDoubt { .. }));
    sleep(SOON * 10).await;
    assert_eq!(tries.load(SeqCst), 3);

    mended.store(true, SeqCst);
    assert!(idem.resume_steps(&id("a")).await.unwrap());
    eventually("it is finished", async || is_completed(&idem, "a").await).await;
    assert_eq!(tries.load(SeqCst), 4);
    completer.stop().await;
}

#[tokio::test]
async fn a_mutation_is_left_alone_for_longer_after_each_try_but_not_by_its_client() {
    let clock = ManualClock::new();
    let idem = Idempotency::builder(MemoryStore::with_clock(clock.clone())).build();
    left_behind(&idem, "a", Workflow::new("place_order")).await;
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let builder = idem.completer().every(SOON);
    let builder = builder.pauses(Duration::from_secs(10), Duration::from_secs(30));
    let builder = builder.handler("place_order", move |_: String, _: Steps<MemoryStore>| {
        count.fetch_add(1, SeqCst);
        async { Err::<(), _>(Stopped::because("not now")) }
    });
    let completer = builder.spawn().unwrap();
    for (seconds, expected) in [(0, 1), (9, 1), (1, 2), (19, 2), (1, 3), (29, 3), (1, 4), (30, 5)] {
        clock.advance(Duration::from_secs(seconds));
        eventually("tried", async || tries.load(SeqCst) >= expected).await;
        sleep(SOON * 6).await;
        assert_eq!(tries.load(SeqCst), expected, "after {seconds} s");
    }
    let again = idem.with_workflow("place_order");
    let reply = again.run_steps(id("a"), &"a".to_owned(), |steps| async move {
        steps.run("first", |_| async { Ok::<_, io::Error>(2) }).await
    });
    assert_eq!(*reply.await.unwrap(), 1);
    completer.stop().await;
}

#[tokio::test]
async fn a_stop_ends_at_the_next_step_and_counts_as_no_try() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    left_behind(&idem, "a", Workflow::new("place_order")).await;
    let (in_step, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (says, waits) = (Arc::clone(&in_step), Arc::clone(&go_on));
    let builder = quick(&idem).handler("place_order", move |_: String, steps: Steps<MemoryStore>| {
        let (says, waits) = (Arc::clone(&says), Arc::clone(&waits));
        async move {
            steps.run("first", |_| async { Ok::<_, io::Error>(2) }).await?;
            let second = steps.run("second", |_| async move {
                says.notify_one();
                waits.notified().await;
                Ok::<_, io::Error>(2)
            });
            second.await?;
            let third = steps.run("third", |_| async { Ok::<_, io::Error>(3) }).await;
            assert!(matches!(third.as_ref().unwrap_err().reason(), StepError::Stopping));
            third
        }
    });
    let completer = builder.spawn().unwrap();
    in_step.notified().await;
    let stopping = tokio::spawn(completer.stop());
    sleep(SOON * 4).await;
    assert!(!stopping.is_finished(), "a step is not interrupted");
    go_on.notify_one();
    stopping.await.unwrap();
    let known = idem.recorded_steps(&id("a")).await.unwrap().unwrap();
    let names: Vec<_> = known.steps.iter().map(|step| step.id.name()).collect();
    assert_eq!((names, known.tries), (vec!["first", "second"], 0));
    // It is free at once.
    assert_eq!(idem.unfinished_steps(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn of_many_completers_one_runs_each_mutation() {
    let store = MemoryStore::new();
    let make = || Idempotency::builder(store.clone()).build();
    let idem = make();
    for key in 0..50 {
        left_behind(&idem, &key.to_string(), Workflow::new("place_order")).await;
    }
    let seen = Seen::default();
    let completers: Vec<_> = (0..8)
        .map(|_| finishing(quick(&make()), Workflow::new("place_order"), &seen))
        .collect();
    eventually("all are finished", async || {
        idem.unfinished_steps(1).await.unwrap().is_empty() && seen.lock().len() >= 50
    })
    .await;
    for completer in completers {
        completer.stop().await;
    }
    let mut inputs: Vec<_> = seen.lock().iter().map(|(input, _)| input.clone()).collect();
    inputs.sort();
    inputs.dedup();
    assert_eq!((inputs.len(), seen.lock().len()), (50, 50));
}

/// A store whose list is as old as the test wants, or that does not answer.
pub(super) struct Stale {
    pub(super) store: MemoryStore,
    pub(super) listed: Mutex<Option<Vec<UnfinishedSteps>>>,
    pub(super) is_away: AtomicBool,
    /// It lists, and grants nothing: it is read-only.
    pub(super) refuses: AtomicBool,
    pub(super) polls: AtomicUsize,
    /// It grants no completer what has a key that begins like this.
    pub(super) denies: Mutex<Option<&'static str>>,
    /// It takes claims, and ends none.
    pub(super) is_cut: AtomicBool,
    /// Told when it is asked what is unfinished, and waited for before it is answered.
    pub(super) list_gate: Mutex<Option<(Arc<Notify>, Arc<Notify>)>>,
    /// Told when a completer asks for a claim, and waited for before it is answered.
    pub(super) gate: Mutex<Option<(Arc<Notify>, Arc<Notify>)>>,
}

impl Store for Stale {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        self.store.claim(request).await
    }
    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.store.renew(id, token, lease).await
    }
    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.store.end_lease(id, token, left).await
    }
    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.store.complete(claim, result, retention).await
    }
    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        if self.is_cut.load(SeqCst) {
            return Err(StoreError::unavailable("the connection is cut"));
        }
        self.store.release(claim).await
    }
    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        self.store.load(id).await
    }
    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.store.purge(limit).await
    }
}

impl StepStore for Stale {
    async fn begin_steps(
        &self,
        request: ClaimRequest,
        start: WorkflowStart,
    ) -> Result<ClaimOutcome<StepsClaim>, StoreError> {
        if self.refuses.load(SeqCst) {
            return Err(StoreError::unavailable("the server is read-only"));
        }
        let denies = *self.denies.lock();
        if let (Some(beginning), StartedBy::Completer) = (denies, start.by)
            && request.id.key().starts_with(beginning)
        {
            let (lease_remaining, attempt) = (Duration::from_secs(1), 1);
            let denied = Denied::InProgress {
                lease_remaining,
                attempt,
            };
            return Ok(ClaimOutcome::Denied(denied));
        }
        let gate = self.gate.lock().clone();
        if let (Some((asked, answers)), StartedBy::Completer) = (gate, start.by) {
            asked.notify_one();
            answers.notified().await;
        }
        self.store.begin_steps(request, start).await
    }
    async fn record_step(&self, id: &RequestIdentity, token: FencingToken, step: StepRecord) -> Result<(), StoreError> {
        self.store.record_step(id, token, step).await
    }
    async fn settle_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: &StepId,
        answer: Option<RecordedResult>,
    ) -> Result<(), StoreError> {
        self.store.settle_step(id, token, step, answer).await
    }
    async fn load_steps(&self, id: &RequestIdentity) -> Result<Option<WorkflowRecord>, StoreError> {
        self.store.load_steps(id).await
    }
    async fn unfinished_steps(&self, query: UnfinishedQuery) -> Result<Vec<UnfinishedSteps>, StoreError> {
        self.polls.fetch_add(1, SeqCst);
        if self.is_away.load(SeqCst) {
            return Err(StoreError::unavailable("the server is restarted"));
        }
        let gate = self.list_gate.lock().clone();
        if let Some((asked, answers)) = gate {
            asked.notify_one();
            answers.notified().await;
        }
        let stale = self.listed.lock().clone();
        match stale {
            Some(stale) => Ok(stale),
            None => self.store.unfinished_steps(query).await,
        }
    }
    async fn set_standing(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        standing: Standing,
    ) -> Result<(), StoreError> {
        self.store.set_standing(id, token, standing).await
    }
}

pub(super) fn stale() -> Stale {
    Stale {
        store: MemoryStore::new(),
        listed: Mutex::default(),
        is_away: AtomicBool::new(false),
        refuses: AtomicBool::new(false),
        polls: AtomicUsize::new(0),
        denies: Mutex::default(),
        is_cut: AtomicBool::new(false),
        list_gate: Mutex::default(),
        gate: Mutex::default(),
    }
}

#[tokio::test]
async fn a_stale_list_runs_nothing_that_another_one_went_on_with() {
    let idem = Idempotency::builder(stale()).build();
    left_behind(&idem, "a", Workflow::new("place_order")).await;
    let list = idem.unfinished_steps(10).await.unwrap();
    *idem.store().listed.lock() = Some(list.clone());
    // Somebody went on since, and stopped as well: its lease is over again, under another token.
    let again = idem.with_workflow("place_order");
    let stopped = again.run_steps(id("a"), &"a".to_owned(), |_| async {
        Err::<(), _>(Stopped::because("again"))
    });
    stopped.await.unwrap_err();
    let seen = Seen::default();
    let completer = finishing(quick(&idem).max_tries(1), Workflow::new("place_order"), &seen);
    let polls = idem.store().polls.load(SeqCst);
    eventually("it was asked", async || idem.store().polls.load(SeqCst) > polls + 5).await;
    assert_eq!(seen.lock().len(), 0);
    // Nor is it held by what the list says of its tries.
    let mut tried = list;
    tried[0].tries = 9;
    *idem.store().listed.lock() = Some(tried);
    let polls = idem.store().polls.load(SeqCst);
    eventually("it was asked", async || idem.store().polls.load(SeqCst) > polls + 5).await;
    assert!(!idem.recorded_steps(&id("a")).await.unwrap().unwrap().held);
    *idem.store().listed.lock() = None;
    eventually("it is finished", async || is_completed(&idem, "a").await).await;
    completer.stop().await;
}

#[tokio::test]
async fn it_comes_back_after_the_store_was_away() {
    let idem = Idempotency::builder(stale()).build();
    idem.store().is_away.store(true, SeqCst);
    let seen = Seen::default();
    let completer = finishing(quick(&idem), Workflow::new("place_order"), &seen);
    left_behind(&idem, "a", Workflow::new("place_order")).await;
    eventually("it asks again", async || idem.store().polls.load(SeqCst) > 2).await;
    idem.store().is_away.store(false, SeqCst);
    eventually("it is finished", async || is_completed(&idem, "a").await).await;
    completer.stop().await;
}

#[tokio::test]
async fn one_that_is_dropped_stops() {
    let idem = Idempotency::builder(stale()).build();
    let seen = Seen::default();
    let completer = finishing(quick(&idem), Workflow::new("place_order"), &seen);
    eventually("it runs", async || idem.store().polls.load(SeqCst) > 0).await;
    drop(completer);
    sleep(SOON * 4).await;
    let polls = idem.store().polls.load(SeqCst);
    sleep(SOON * 10).await;
    assert_eq!(idem.store().polls.load(SeqCst), polls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completer_without_a_limit_goes_on_with_what_it_finds() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    left_behind(&idem, "k", "place_order".into()).await;
    let seen = Seen::default();
    let completer = finishing(quick(&idem).concurrency(usize::MAX), "place_order".into(), &seen);
    eventually("it is completed", async || is_completed(&idem, "k").await).await;
    completer.stop().await;
}
