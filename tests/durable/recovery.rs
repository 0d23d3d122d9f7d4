//! Promises 13 and 14: work that died with its process is in doubt, and never silently guessed; and a lost
//! acknowledgement is not a lost result.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../common/crash.rs"]
mod crash;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crash::crash;
use oneflight::idempotency::{
    Effect, Error, ErrorKind, Idempotency, NotDone, Origin, Recovery, Reply, Resolution, Resolved, Unknown,
};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, ManualClock, MemoryStore, Store, StoreError};
use tokio::runtime::Runtime;

use super::paused;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

fn after_crash(key: &'static str) -> (MemoryStore, ManualClock, String) {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let downstream = crash(&store, Duration::from_secs(30), key);
    (store, clock, downstream)
}

#[test]
fn until_its_lease_ends_a_dead_holder_counts_as_alive() {
    let (store, _clock, _) = after_crash("dead");
    Runtime::new().unwrap().block_on(async {
        let idem = Idempotency::builder(store)
            .wait(Duration::ZERO)
            .recovery(Recovery::Rerun)
            .build();
        let error = idem.run(id("dead"), |_| async { String::new() }).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InProgress { .. }), "{error:?}");
    });
}

#[test]
fn refused_until_somebody_decides_which_is_the_default() {
    let (store, clock, _) = after_crash("hold");
    clock.advance(Duration::from_secs(30));
    Runtime::new().unwrap().block_on(async {
        let idem = Idempotency::builder(store).build();
        for _ in 0..3 {
            let error = idem.run(id("hold"), |_| async { String::new() }).await.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
                "{error:?}"
            );
            assert_eq!(error.effect(), Effect::Unknown);
        }
        // Undecided stays in doubt.
        let resolved = idem.resolve(&id("hold"), Resolution::Hold).await.unwrap();
        assert_eq!(resolved, Resolved::Held);
        assert!(idem.run(id("hold"), |_| async { String::new() }).await.is_err());
        // It was done: here is what it came to.
        let answer = Resolution::completed("charge 7").unwrap();
        let resolved = idem.resolve(&id("hold"), answer).await.unwrap();
        assert_eq!(resolved, Resolved::Recorded);
        let reply = idem.run(id("hold"), |_| async { String::new() }).await.unwrap();
        assert_eq!((reply.as_str(), reply.origin()), ("charge 7", Origin::Replayed));
        assert_eq!(reply.attempt(), 2, "what is found out counts as an attempt");
        // What is settled stays settled.
        for resolution in [
            Resolution::Rerun,
            Resolution::Hold,
            Resolution::completed("other").unwrap(),
        ] {
            let another = id("hold").with_fingerprint("another");
            for id in [id("hold"), another] {
                let resolved = idem.resolve(&id, resolution.clone()).await.unwrap();
                assert_eq!(resolved, Resolved::AlreadyCompleted);
            }
        }
        assert_eq!(
            *idem.run(id("hold"), |_| async { String::new() }).await.unwrap(),
            "charge 7"
        );
    });
}

#[tokio::test]
async fn who_resolves_need_not_know_the_payload_but_must_not_know_another() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let request = id("payload").with_fingerprint("body");
    let error = idem
        .run(request.clone(), |_| async { panic!("died") })
        .await
        .map(|it: Reply<u32>| *it);
    assert!(matches!(
        error.as_ref().map_err(Error::kind),
        Err(ErrorKind::Panicked(_))
    ));
    let other = id("payload").with_fingerprint("other");
    let error = idem
        .resolve(&other, Resolution::completed(&7).unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Conflict), "{error:?}");
    idem.resolve(&id("payload"), Resolution::completed(&7).unwrap())
        .await
        .unwrap();
    assert_eq!(*idem.run(request, |_| async { 8 }).await.unwrap(), 7);
}

#[test]
fn resolved_as_not_done_it_is_new() {
    let (store, clock, _) = after_crash("new");
    Runtime::new().unwrap().block_on(async {
        let idem = Idempotency::builder(store).build();
        let error = idem.resolve(&id("new"), Resolution::Rerun).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::InProgress { .. }),
            "the holder may be alive: {error:?}"
        );
        clock.advance(Duration::from_secs(30));
        for expected in [Resolved::Freed, Resolved::Absent] {
            let resolved = idem.resolve(&id("new"), Resolution::Rerun).await.unwrap();
            assert_eq!(resolved, expected);
        }
        let reply = idem
            .run(id("new"), |context| async move { context.attempt() })
            .await
            .unwrap();
        assert_eq!((*reply, reply.origin()), (1, Origin::Executed));
    });
}

#[test]
fn run_again_under_the_same_downstream_key() {
    let (store, clock, downstream) = after_crash("rerun");
    clock.advance(Duration::from_secs(30));
    Runtime::new().unwrap().block_on(async {
        let idem = Idempotency::builder(store).recovery(Recovery::Rerun).build();
        let work = |context: oneflight::idempotency::Context| async move {
            (
                context.attempt(),
                context.downstream_key("charge"),
                context.downstream_key("mail"),
            )
        };
        let reply = idem.run(id("rerun"), work).await.unwrap();
        assert_eq!((reply.0, reply.attempt(), reply.origin()), (2, 2, Origin::Executed));
        assert_eq!(reply.1, downstream);
        assert_eq!(downstream.len(), 64);
        assert_ne!(reply.1, reply.2, "each step has its own");
        let other = idem
            .run(id("other"), |context| async move { context.downstream_key("charge") })
            .await
            .unwrap();
        assert_ne!(*other, downstream, "each request has its own");
    });
}

#[test]
fn asked_the_user_may_know_the_result() {
    let (store, clock, downstream) = after_crash("ask");
    clock.advance(Duration::from_secs(30));
    Runtime::new().unwrap().block_on(async {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        let recovery = Recovery::ask(move |doubt| {
            counted.fetch_add(1, Ordering::SeqCst);
            let known = doubt.downstream_key("charge") == downstream && doubt.attempt == 1;
            async move {
                assert!(known);
                Resolution::completed("found").unwrap()
            }
        });
        let idem = Idempotency::builder(store).recovery(recovery).build();
        // The attempt in doubt, then the one that the finding was recorded as.
        for attempt in [1, 2] {
            let reply: Reply<String> = idem.run(id("ask"), |_| async { panic!("run again") }).await.unwrap();
            assert_eq!((reply.as_str(), reply.origin()), ("found", Origin::Replayed));
            assert_eq!(reply.attempt(), attempt);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn asked_the_user_may_have_it_run_again_or_refused() {
    let (store, clock, _) = after_crash("again");
    clock.advance(Duration::from_secs(30));
    Runtime::new().unwrap().block_on(async {
        let undecided = Recovery::ask(|_| async { Resolution::Hold });
        let idem = Idempotency::builder(store.clone()).recovery(undecided).build();
        let error = idem.run(id("again"), |_| async { 0 }).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InDoubt { .. }), "{error:?}");

        let decided = Recovery::ask(|_| async { Resolution::Rerun });
        let idem = Idempotency::builder(store).recovery(decided).build();
        let reply = idem
            .run(id("again"), |context| async move { context.attempt() })
            .await
            .unwrap();
        assert_eq!((*reply, reply.origin()), (2, Origin::Executed));
    });
}

#[test]
fn many_heirs_run_it_again_once() {
    let (store, clock, _) = after_crash("heirs");
    clock.advance(Duration::from_secs(30));
    Runtime::new().unwrap().block_on(async {
        let executions = Arc::new(AtomicU32::new(0));
        let calls = (0..16).map(|n| {
            let recovery = match n % 2 {
                0 => Recovery::Rerun,
                _ => Recovery::ask(|_| async { Resolution::Rerun }),
            };
            let idem = Idempotency::builder(store.clone()).recovery(recovery).build();
            let executions = Arc::clone(&executions);
            tokio::spawn(async move {
                let work = |_| async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    executions.fetch_add(1, Ordering::SeqCst) + 1
                };
                *idem.run(id("heirs"), work).await.unwrap()
            })
        });
        for value in futures::future::join_all(calls).await {
            assert_eq!(value.unwrap(), 1);
        }
    });
}

#[tokio::test]
async fn a_panic_reaches_every_caller_and_is_in_doubt_at_once() {
    let store = MemoryStore::new();
    let idem = Idempotency::builder(store.clone()).build();
    let calls = (0..10).map(|_| {
        idem.run(id("panic"), |_| async {
            tokio::task::yield_now().await;
            if true {
                panic!("out of paper");
            }
        })
    });
    for error in futures::future::join_all(calls)
        .await
        .into_iter()
        .map(Result::unwrap_err)
    {
        let ErrorKind::Panicked(panic) = error.kind() else {
            panic!("{error:?}")
        };
        assert_eq!((panic.message(), error.effect()), ("out of paper", Effect::Unknown));
    }
    assert_eq!(idem.in_flight(), 0);
    // No lease to wait for, and no guess.
    let error = idem.run(id("panic"), |_| async {}).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
        "{error:?}"
    );
    let bold = Idempotency::builder(store).recovery(Recovery::Rerun).build();
    let reply = bold
        .run(id("panic"), |context| async move { context.attempt() })
        .await
        .unwrap();
    assert_eq!(*reply, 2);
}

#[tokio::test]
async fn a_panic_before_the_first_await_is_no_different() {
    let idem = Idempotency::builder(MemoryStore::new())
        .recovery(Recovery::Rerun)
        .settle(Duration::ZERO)
        .build();
    let closure = |_: oneflight::idempotency::Context| -> std::future::Ready<u32> { panic!("in the closure") };
    let error = idem.run(id("early"), closure).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Panicked(_)), "{error:?}");
    assert_eq!(*idem.run(id("early"), |_| async { 1 }).await.unwrap(), 1);
}

/// A memory store whose answers get lost.
#[derive(Clone)]
struct Faulty {
    store: MemoryStore,
    /// How many of the next answers are lost after the operation was done.
    lost: Arc<AtomicU32>,
    /// How many of the next operations fail before they do anything.
    failing: Arc<AtomicU32>,
    completions: Arc<AtomicU32>,
}

impl Faulty {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            lost: Arc::default(),
            failing: Arc::default(),
            completions: Arc::default(),
        }
    }

    fn take(from: &AtomicU32) -> bool {
        from.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
    }

    fn fault() -> StoreError {
        StoreError::unavailable("connection reset")
    }

    fn before(&self) -> Result<(), StoreError> {
        if Self::take(&self.failing) {
            Err(Self::fault())
        } else {
            Ok(())
        }
    }

    fn after<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if Self::take(&self.lost) {
            Err(Self::fault())
        } else {
            answer
        }
    }
}

impl Store for Faulty {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        self.before()?;
        self.after(self.store.claim(request).await)
    }
    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.before()?;
        self.after(self.store.renew(id, token, lease).await)
    }
    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.before()?;
        self.after(self.store.end_lease(id, token, left).await)
    }
    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.before()?;
        self.completions.fetch_add(1, Ordering::SeqCst);
        self.after(self.store.complete(claim, result, retention).await)
    }
    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.before()?;
        self.after(self.store.release(claim).await)
    }
    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        self.before()?;
        self.store.load(id).await
    }
    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.store.purge(limit).await
    }
}

#[tokio::test]
async fn a_lost_acknowledgement_of_completion_is_looked_up_and_not_repeated() {
    let store = Faulty::new();
    let idem = Idempotency::builder(store.clone()).build();
    let lost = Arc::clone(&store.lost);
    let work = |_| async move {
        lost.store(1, Ordering::SeqCst);
        1
    };
    let reply = idem.run(id("ack"), work).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Executed));
    assert_eq!(store.completions.load(Ordering::SeqCst), 1, "looked up, not repeated");
    assert_eq!(*idem.run(id("ack"), |_| async { 2 }).await.unwrap(), 1);
}

#[tokio::test]
async fn a_completion_that_did_not_arrive_is_repeated_and_the_work_is_not() {
    let store = Faulty::new();
    let idem = Idempotency::builder(store.clone()).build();
    let executions = Arc::new(AtomicU32::new(0));
    let (failing, executed) = (Arc::clone(&store.failing), Arc::clone(&executions));
    // Both the completion and the look-up after it fail, twice.
    let work = |_| async move {
        failing.store(4, Ordering::SeqCst);
        executed.fetch_add(1, Ordering::SeqCst) + 1
    };
    let reply = idem.run(id("retry"), work).await.unwrap();
    assert_eq!((*reply, executions.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(store.completions.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_leaves_it_in_doubt_and_says_that_it_was_done() {
    let store = Faulty::new();
    let idem = Idempotency::builder(store.clone()).build();
    let failing = Arc::clone(&store.failing);
    let work = |_| async move {
        failing.store(u32::MAX, Ordering::SeqCst);
        1
    };
    let error = idem.run(id("away"), work).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unrecorded(_)), "{error:?}");
    assert_eq!(error.effect(), Effect::Done);
}

#[tokio::test]
async fn a_lost_answer_to_a_claim_finds_the_claim() {
    let store = Faulty::new();
    store.lost.store(1, Ordering::SeqCst);
    let idem = Idempotency::builder(store.clone()).build();
    let reply = idem
        .run(id("claim"), |context| async move { context.attempt() })
        .await
        .unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Executed));
}

#[tokio::test]
async fn a_lost_answer_to_a_release_still_frees() {
    let store = Faulty::new();
    let idem = Idempotency::builder(store.clone()).build();
    let lost = Arc::clone(&store.lost);
    let work = |_| async move {
        lost.store(1, Ordering::SeqCst);
        Err::<u32, _>(NotDone::because("busy").into())
    };
    let error = idem.try_run(id("release"), work).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotDone(_)), "{error:?}");
    assert_eq!(*idem.run(id("release"), |_| async { 1 }).await.unwrap(), 1);
}

#[tokio::test]
async fn a_store_that_answers_nothing_runs_nothing_and_may_have_been_claimed() {
    let store = Faulty::new();
    store.failing.store(u32::MAX, Ordering::SeqCst);
    let idem = Idempotency::builder(store.clone()).build();
    let error = idem
        .run(id("down"), |_| async { panic!("called") })
        .await
        .map(|it: oneflight::idempotency::Reply<u32>| *it)
        .unwrap_err();
    // The work was not called; but it cannot be told from a claim whose answer was lost, which is in doubt later.
    assert!(
        matches!(error.kind(), ErrorKind::Store(_)) && error.effect() == Effect::Unknown,
        "{error:?}"
    );
    store.failing.store(0, Ordering::SeqCst);
    assert_eq!(*idem.run(id("down"), |_| async { 1 }).await.unwrap(), 1);
}

/// Another service, which does what it was asked for 300 ms later, whether the caller is still there or not.
#[derive(Clone, Default)]
struct Elsewhere {
    calls: Arc<AtomicU32>,
    landed: Arc<AtomicU32>,
}

impl Elsewhere {
    async fn call(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let landed = Arc::clone(&self.landed);
        let call = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            landed.fetch_add(1, Ordering::SeqCst);
        });
        let _ = call.await;
    }

    fn look(&self) -> Recovery {
        let landed = Arc::clone(&self.landed);
        Recovery::ask(move |_| {
            let found = landed.load(Ordering::SeqCst) > 0;
            async move {
                match found {
                    true => Resolution::completed("found").unwrap(),
                    false => Resolution::Rerun,
                }
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_panic_left_has_its_time_before_the_policy_is_asked() {
    let elsewhere = Elsewhere::default();
    let idem = Idempotency::builder(paused::store())
        .lease(Duration::from_secs(3))
        .recovery(elsewhere.look())
        .build();
    let call = || {
        let elsewhere = elsewhere.clone();
        idem.run(id("late"), move |_| async move {
            let answered = tokio::time::timeout(Duration::from_millis(100), elsewhere.call()).await;
            answered.expect("the call downstream timed out");
            String::from("done")
        })
    };
    let error = call().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Panicked(_)), "{error:?}");
    for _ in 0..2 {
        let reply = call().await.unwrap();
        assert_eq!((reply.as_str(), reply.origin()), ("found", Origin::Replayed));
    }
    assert_eq!(elsewhere.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn until_it_has_settled_a_panic_is_in_progress_and_says_for_how_long() {
    let store = paused::store();
    let idem = Idempotency::builder(store.clone())
        .recovery(Recovery::Rerun)
        .settle(Duration::from_secs(3))
        .lease(Duration::from_secs(60))
        .wait(Duration::ZERO)
        .build();
    let closure = |_: oneflight::idempotency::Context| -> std::future::Ready<u32> { panic!("in the closure") };
    assert!(idem.run(id("settling"), closure).await.is_err());
    let error = idem.run(id("settling"), |_| async { 1 }).await.unwrap_err();
    let ErrorKind::InProgress { retry_after, .. } = error.kind() else {
        panic!("{error:?}")
    };
    assert!(
        *retry_after <= Duration::from_secs(3),
        "not the lease, but {retry_after:?}"
    );
    // Nor is an operator to settle it before.
    let error = idem.resolve(&id("settling"), Resolution::Rerun).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InProgress { .. }), "{error:?}");
    let patient = Idempotency::builder(store).recovery(Recovery::Rerun).build();
    assert_eq!(patient.run(id("settling"), |_| async { 1 }).await.unwrap().attempt(), 2);
}

#[tokio::test]
async fn work_that_does_not_know_says_so_to_every_caller_and_is_in_doubt() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let calls = (0..10).map(|_| {
        idem.try_run(id("unknown"), |_| async {
            tokio::task::yield_now().await;
            Err::<u32, _>(Unknown::because(std::io::Error::from(std::io::ErrorKind::TimedOut)).into())
        })
    });
    for error in futures::future::join_all(calls)
        .await
        .into_iter()
        .map(Result::unwrap_err)
    {
        assert!(matches!(error.kind(), ErrorKind::Unknown(_)), "{error:?}");
        assert!(error.cause::<std::io::Error>().is_some());
        assert_eq!(error.effect(), Effect::Unknown);
    }
    // The default asks no policy, so there is nothing to wait for.
    let error = idem.run(id("unknown"), |_| async { 1 }).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
        "{error:?}"
    );
    idem.resolve(&id("unknown"), Resolution::completed(&7).unwrap())
        .await
        .unwrap();
    assert_eq!(*idem.run(id("unknown"), |_| async { 1 }).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn what_work_that_does_not_know_left_has_its_time_before_the_policy_is_asked() {
    let elsewhere = Elsewhere::default();
    let idem = Idempotency::builder(paused::store())
        .settle(Duration::from_secs(3))
        .recovery(elsewhere.look())
        .build();
    let call = || {
        let elsewhere = elsewhere.clone();
        idem.try_run(id("late"), move |_| async move {
            let answered = tokio::time::timeout(Duration::from_millis(100), elsewhere.call()).await;
            answered.map_err(Unknown::because)?;
            Ok(String::from("done"))
        })
    };
    let error = call().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unknown(_)), "{error:?}");
    let again = error.retry_after().expect("it is known when the policy is asked");
    assert!(
        again > Duration::from_secs(2) && again <= Duration::from_secs(3),
        "{again:?}"
    );
    // A client is told the same.
    assert_eq!(oneflight::http::Problem::from(error).retry_after(), Some(again));
    for _ in 0..2 {
        let reply = call().await.unwrap();
        assert_eq!((reply.as_str(), reply.origin()), ("found", Origin::Replayed));
    }
    assert_eq!(elsewhere.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_later_attempt_that_does_not_know_is_run_again_by_policy() {
    let idem = Idempotency::builder(MemoryStore::new())
        .recovery(Recovery::Rerun)
        .settle(Duration::ZERO)
        .build();
    for attempt in 1..=3 {
        let work = move |context: oneflight::idempotency::Context| async move {
            assert_eq!(context.attempt(), attempt);
            match attempt {
                3 => Ok(context.attempt()),
                _ => Err(Unknown::because("no answer").into()),
            }
        };
        let called = idem.try_run(id("again"), work).await;
        assert_eq!(called.is_ok(), attempt == 3, "{called:?}");
    }
}
