//! Promise 10: a claim is atomic in the store. Of any number of processes one holds a valid lease; a holder whose
//! claim was taken over can no longer complete, and learns it. Several `Idempotency` over one store stand for
//! several processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use oneflight::idempotency::{Effect, ErrorKind, Idempotency, IdempotencyBuilder, NotDone, Origin, Recovery};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{MemoryStore, Store};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::paused;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

fn process(store: &MemoryStore) -> IdempotencyBuilder<MemoryStore> {
    Idempotency::builder(store.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_execute_once() {
    let store = MemoryStore::new();
    let executions = Arc::new(AtomicU32::new(0));
    let processes: Vec<_> = (0..8).map(|_| process(&store).build()).collect();
    let calls = (0..200).map(|n| {
        let (process, executions) = (processes[n % 8].clone(), Arc::clone(&executions));
        tokio::spawn(async move {
            let work = move |_| async move {
                sleep(Duration::from_millis(30)).await;
                executions.fetch_add(1, Ordering::SeqCst) + 1
            };
            process.run(id("many"), work).await.unwrap()
        })
    });
    let replies: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();

    assert_eq!(executions.load(Ordering::SeqCst), 1);
    assert!(replies.iter().all(|reply| **reply == 1));
    let executed = replies.iter().filter(|it| it.origin() == Origin::Executed).count();
    assert_eq!(executed, 1);
    assert!(replies.iter().any(|it| it.origin() == Origin::Collapsed));
    assert!(replies.iter().any(|it| it.origin() == Origin::Replayed));
}

#[tokio::test]
async fn a_claim_held_elsewhere_is_waited_for_and_then_replayed() {
    let store = MemoryStore::new();
    let (there, here) = (process(&store).build(), process(&store).build());
    let finish = Arc::new(Notify::new());
    let holder = tokio::spawn({
        let finish = Arc::clone(&finish);
        async move {
            let work = |_| async move {
                finish.notified().await;
                String::from("theirs")
            };
            there.run(id("wait"), work).await
        }
    });
    while store.is_empty() {
        tokio::task::yield_now().await;
    }
    let waiter = tokio::spawn(async move { here.run(id("wait"), |_| async { String::from("ours") }).await });
    sleep(Duration::from_millis(50)).await;
    assert!(!waiter.is_finished());
    finish.notify_one();
    assert_eq!(*holder.await.unwrap().unwrap(), "theirs");
    let reply = waiter.await.unwrap().unwrap();
    assert_eq!((reply.as_str(), reply.origin()), ("theirs", Origin::Replayed));
}

#[tokio::test(start_paused = true)]
async fn a_claim_held_for_longer_than_the_wait_is_in_progress() {
    let store = paused::store();
    let there = process(&store).build();
    let holder = tokio::spawn(async move { there.run(id("slow"), |_| std::future::pending::<()>()).await });
    while store.is_empty() {
        tokio::task::yield_now().await;
    }
    let here = process(&store).wait(Duration::from_millis(80)).build();
    let asked = Instant::now();
    let error = here.run(id("slow"), |_| async {}).await.unwrap_err();
    let ErrorKind::InProgress { retry_after, .. } = error.kind() else {
        panic!("{error:?}")
    };
    assert!(*retry_after > Duration::ZERO && *retry_after <= Duration::from_secs(30));
    assert!(asked.elapsed() >= Duration::from_millis(80) && asked.elapsed() < Duration::from_secs(2));
    assert!(
        error.to_string().contains(&id("slow").redacted().to_string()),
        "{error}"
    );

    let impatient = process(&store).wait(Duration::ZERO).build();
    let asked = Instant::now();
    let error = impatient.run(id("slow"), |_| async {}).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InProgress { .. }));
    assert!(asked.elapsed() < Duration::from_millis(50));
    holder.abort();
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_while_the_work_runs() {
    let store = paused::store();
    let lease = Duration::from_millis(120);
    let there = process(&store).lease(lease).build();
    let holder = tokio::spawn(async move {
        let work = move |_| async move {
            sleep(lease * 5).await;
            1
        };
        there.run(id("long"), work).await
    });
    while store.is_empty() {
        tokio::task::yield_now().await;
    }
    // Eager to take over, and given no chance.
    let heir = process(&store).recovery(Recovery::Rerun).build();
    let reply = heir.run(id("long"), |_| async { 2 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
    let reply = holder.await.unwrap().unwrap();
    assert_eq!((reply.origin(), reply.attempt()), (Origin::Executed, 1));
}

/// A store whose renewals do not arrive.
#[derive(Clone)]
struct Unrenewed(MemoryStore);

impl Store for Unrenewed {
    async fn claim(
        &self,
        request: oneflight::store::ClaimRequest,
    ) -> Result<oneflight::store::ClaimOutcome, oneflight::store::StoreError> {
        self.0.claim(request).await
    }
    async fn renew(
        &self,
        _: &RequestIdentity,
        _: oneflight::record::FencingToken,
        _: Duration,
    ) -> Result<(), oneflight::store::StoreError> {
        Err(oneflight::store::StoreError::unavailable("the network is down"))
    }
    async fn end_lease(
        &self,
        _: &RequestIdentity,
        _: oneflight::record::FencingToken,
        _: Duration,
    ) -> Result<(), oneflight::store::StoreError> {
        Err(oneflight::store::StoreError::unavailable("the network is down"))
    }
    async fn complete(
        &self,
        claim: oneflight::store::Claim,
        result: oneflight::record::RecordedResult,
        retention: Duration,
    ) -> Result<(), oneflight::store::StoreError> {
        self.0.complete(claim, result, retention).await
    }
    async fn release(&self, claim: oneflight::store::Claim) -> Result<(), oneflight::store::StoreError> {
        self.0.release(claim).await
    }
    async fn load(
        &self,
        id: &RequestIdentity,
    ) -> Result<Option<oneflight::record::Record>, oneflight::store::StoreError> {
        self.0.load(id).await
    }
    async fn purge(&self, limit: usize) -> Result<usize, oneflight::store::StoreError> {
        self.0.purge(limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_taken_over_is_refused_and_learns_it() {
    let store = paused::store();
    let lease = Duration::from_millis(60);
    let cut_off = Idempotency::builder(Unrenewed(store.clone())).lease(lease).build();
    let finish = Arc::new(Notify::new());
    let (learns, learnt) = tokio::sync::oneshot::channel();
    let outdated = tokio::spawn({
        let finish = Arc::clone(&finish);
        async move {
            let work = |context: oneflight::idempotency::Context| async move {
                assert!(!context.is_lease_lost());
                context.lease_lost().await;
                learns.send(context.is_lease_lost()).unwrap();
                finish.notified().await;
                "outdated"
            };
            cut_off
                .run(id("fence"), |context| async move { work(context).await.to_owned() })
                .await
        }
    });
    assert!(learnt.await.unwrap(), "the work is told that its lease is lost");

    let heir = process(&store).recovery(Recovery::Rerun).build();
    let reply = heir
        .run(id("fence"), |context| async move {
            format!("heir, attempt {}", context.attempt())
        })
        .await
        .unwrap();
    assert_eq!((reply.as_str(), reply.attempt()), ("heir, attempt 2", 2));

    finish.notify_one();
    let error = outdated.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::LeaseLost), "{error:?}");
    assert_eq!(error.effect(), Effect::Done);
    // The outdated result was not kept.
    let reply = heir.run(id("fence"), |_| async { String::new() }).await.unwrap();
    assert_eq!((reply.as_str(), reply.origin()), ("heir, attempt 2", Origin::Replayed));
}

#[tokio::test(start_paused = true)]
async fn a_late_holder_whom_nobody_took_over_is_heard() {
    let store = paused::store();
    let lease = Duration::from_millis(30);
    let cut_off = Idempotency::builder(Unrenewed(store.clone())).lease(lease).build();
    let work = move |_| async move {
        sleep(lease * 4).await;
        1
    };
    let reply = cut_off.run(id("late"), work).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Executed));
}

#[tokio::test]
async fn work_that_did_nothing_frees_the_claim_and_all_callers_hear_why() {
    let idem = process(&MemoryStore::new()).build();
    let busy = || NotDone::because(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    let calls = (0..10).map(|_| {
        idem.try_run(id("busy"), move |_| async move {
            tokio::task::yield_now().await;
            Err::<u32, _>(busy().into())
        })
    });
    for error in join_all(calls).await.into_iter().map(Result::unwrap_err) {
        assert!(matches!(error.kind(), ErrorKind::NotDone(_)), "{error:?}");
        assert!(error.cause::<std::io::Error>().is_some());
        assert_eq!(error.effect(), Effect::Nothing);
    }
    assert!(idem.status(&id("busy")).await.unwrap().is_none());
    // Nothing was done, so another payload is welcome, and is a first attempt.
    let reply = idem
        .try_run(id("busy").with_fingerprint("other"), |context| async move {
            Ok(context.attempt())
        })
        .await
        .unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Executed));
}

#[tokio::test]
async fn a_call_whose_callers_all_left_is_executed_and_recorded() {
    let store = MemoryStore::new();
    let idem = process(&store).build();
    let call = idem.run(id("left"), |_| async {
        sleep(Duration::from_millis(50)).await;
        1
    });
    let left = tokio::time::timeout(Duration::from_millis(10), call).await;
    assert!(left.is_err());
    idem.drain().await;
    let reply = process(&store).build().run(id("left"), |_| async { 2 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
}

#[tokio::test]
async fn a_request_that_asks_for_itself_is_refused() {
    let idem = process(&MemoryStore::new()).build();
    let again = idem.clone();
    let reply = idem
        .run(id("circle"), move |_| async move {
            match again.run(id("circle"), |_| async { false }).await {
                Err(error) => matches!(error.kind(), ErrorKind::Flight(oneflight::FlightError::Reentrant)),
                Ok(_) => false,
            }
        })
        .await
        .unwrap();
    assert!(*reply);
}

#[tokio::test]
async fn a_closed_one_finishes_what_it_has_and_begins_nothing() {
    let idem = process(&MemoryStore::new()).build();
    let running = tokio::spawn({
        let idem = idem.clone();
        async move {
            let work = |_| async {
                sleep(Duration::from_millis(30)).await;
                1
            };
            idem.run(id("running"), work).await
        }
    });
    while idem.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    idem.close();
    let error = idem.run(id("new"), |_| async { 1 }).await.unwrap_err();
    assert!(matches!(
        error.kind(),
        ErrorKind::Flight(oneflight::FlightError::Closed)
    ));
    idem.drain().await;
    assert_eq!(*running.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn durations_beyond_measure_are_for_ever() {
    let idem = process(&MemoryStore::new())
        .wait(Duration::MAX)
        .lease(Duration::MAX)
        .retention(Duration::MAX)
        .build();
    assert_eq!(*idem.run(id("long"), |_| async { 1 }).await.unwrap(), 1);
    assert_eq!(*idem.run(id("long"), |_| async { 2 }).await.unwrap(), 1);
}
