//! Promise 10, of the wait: each caller waits as long as it said, whichever callers it shares its flight with.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::scripted::{Fault, Op, Scripted};
use futures::future::join_all;
use oneflight::idempotency::{Error, ErrorKind, Idempotency, IdempotencyBuilder, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Store};
use oneflight::{Drive, Effect, MemoryStore, OnAbandon, Recovery, Reply};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// Of a clock that runs only while every task waits.
const MOMENT: Duration = Duration::from_millis(300);
const WAIT: Duration = Duration::from_secs(3);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

fn process(store: &Scripted) -> IdempotencyBuilder<Scripted> {
    Idempotency::builder(store.clone()).wait(WAIT)
}

/// Another process has the request.
async fn hold(store: &Scripted) -> Claim {
    let request = id("key");
    let claimed = store
        .inner
        .claim(ClaimRequest::new(&request, Duration::from_secs(600)))
        .await;
    let Ok(ClaimOutcome::Granted(claim)) = claimed else {
        panic!("{claimed:?}")
    };
    claim
}

/// A call, and how long it took.
async fn call(idem: Idempotency<Scripted>) -> (Duration, Result<Origin, Error>) {
    let asked = Instant::now();
    let reply = idem.run(id("key"), |_| async { 1 }).await;
    (asked.elapsed(), reply.map(|reply| reply.origin()))
}

fn gave_up_in_time((took, answer): (Duration, Result<Origin, Error>)) {
    assert!(
        matches!(answer.as_ref().map_err(Error::kind), Err(ErrorKind::InProgress { .. })),
        "{answer:?}"
    );
    assert!(took >= WAIT && took < WAIT + MOMENT, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn each_caller_waits_as_long_as_it_said_whoever_leads() {
    for drive in [Drive::InPlace, Drive::Spawned] {
        let store = Scripted::new();
        let _held = hold(&store).await;
        let idem = process(&store).drive(drive).build();
        let mut calls = Vec::new();
        for _ in 0..4 {
            calls.push(tokio::spawn(call(idem.clone())));
            sleep(WAIT * 3 / 4).await;
        }
        for call in calls {
            gave_up_in_time(call.await.unwrap());
        }
        assert_eq!(idem.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_goes_on_waiting_when_the_leader_has_given_up() {
    let store = Scripted::new();
    let held = hold(&store).await;
    let idem = process(&store).build();
    let leader = tokio::spawn(call(idem.clone()));
    sleep(WAIT - MOMENT).await;
    let follower = tokio::spawn(call(idem.with_retention(Duration::from_secs(60))));
    gave_up_in_time(leader.await.unwrap());
    assert!(!follower.is_finished());
    store.release(held).await.unwrap();
    let (took, answer) = follower.await.unwrap();
    assert!(answer.is_ok() && took < WAIT, "{took:?}: {answer:?}");
}

/// The same where it is the store that keeps silent, and then does not any more.
#[tokio::test(start_paused = true)]
async fn a_follower_has_its_own_time_for_a_store_that_is_silent() {
    let store = Scripted::new();
    store.next(Op::Claim, &[Fault::Hangs]);
    let idem = process(&store).build();
    let leader = tokio::spawn(call(idem.clone()));
    sleep(WAIT - MOMENT).await;
    let follower = tokio::spawn(call(idem.clone()));
    let (took, answer) = leader.await.unwrap();
    // It had its time. That it shares the execution which comes of it is as well.
    assert!(
        took >= WAIT && took < WAIT + Duration::from_secs(2),
        "{took:?}: {answer:?}"
    );
    let (took, answer) = follower.await.unwrap();
    assert!(answer.is_ok() && took < WAIT, "{took:?}: {answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_is_waited_for_as_long_as_was_said_and_a_holder_elsewhere_for_the_whole_wait() {
    const PATIENCE: Duration = Duration::from_millis(800);
    let store = Scripted::new();
    store.next(Op::Claim, &[Fault::Hangs; 8]);
    let idem = process(&store).wait(WAIT * 20).store_patience(PATIENCE).build();
    let (took, answer) = call(idem.clone()).await;
    assert!(
        matches!(answer.as_ref().map_err(Error::kind), Err(ErrorKind::Store(_))),
        "{answer:?}"
    );
    // To give back what may have been granted takes up to a second.
    let longest = PATIENCE + Duration::from_secs(1) + MOMENT;
    assert!(took >= PATIENCE && took < longest, "{took:?}");

    let store = Scripted::new();
    let _held = hold(&store).await;
    gave_up_in_time(call(process(&store).store_patience(PATIENCE).build()).await);
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_dropped_does_not_lengthen_the_wait_of_others() {
    for policy in [OnAbandon::Cancel, OnAbandon::Finish] {
        let store = Scripted::new();
        let _held = hold(&store).await;
        let idem = process(&store).on_abandon(policy).build();
        let leader = tokio::spawn(call(idem.clone()));
        sleep(WAIT - MOMENT).await;
        assert!(timeout(MOMENT / 2, call(idem.clone())).await.is_err());
        gave_up_in_time(leader.await.unwrap());
        idem.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_joins_work_that_runs_waits_for_as_long_as_it_takes() {
    let store = Scripted::new();
    let idem = process(&store).build();
    let (begins, begun) = oneshot::channel();
    let leader = tokio::spawn({
        let idem = idem.clone();
        async move {
            let work = |_| async move {
                begins.send(()).unwrap();
                sleep(WAIT * 10).await;
                1
            };
            idem.run(id("key"), work).await.map(|reply| *reply)
        }
    });
    begun.await.unwrap();
    let (took, answer) = call(idem).await;
    assert_eq!(answer.unwrap(), Origin::Collapsed);
    assert!(took > WAIT * 9);
    assert_eq!(leader.await.unwrap().unwrap(), 1);
}

/// What the store has said of the lease is told to every caller, also to one that leaves the flight to others.
#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_is_told_when_asking_again_is_worthwhile() {
    let store = Scripted::new();
    let request = id("key");
    // By the store's own clock, which stands still here.
    let held = ClaimRequest::new(&request, Duration::from_secs(4));
    assert!(matches!(store.inner.claim(held).await, Ok(ClaimOutcome::Granted(_))));
    let idem = process(&store).build();
    let first = tokio::spawn(call(idem.clone()));
    sleep(WAIT / 2).await;
    let _second = tokio::spawn(call(idem));
    let (_, answer) = first.await.unwrap();
    let told = answer.unwrap_err().retry_after().expect("it is in progress");
    assert!(
        told > Duration::from_secs(2) && told <= Duration::from_secs(4),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_still_shares_a_claim_that_is_being_asked_for() {
    for fault in [Fault::None, Fault::AnsweredAfter(MOMENT)] {
        let store = Scripted::new();
        store.next(Op::Claim, &[fault]);
        let idem = process(&store).wait(Duration::ZERO).build();
        let mut calls = Vec::new();
        for _ in 0..5 {
            calls.push(tokio::spawn(call(idem.clone())));
            sleep(MOMENT / 10).await;
        }
        for shared in join_all(calls).await {
            shared.unwrap().1.unwrap();
        }
    }
    let store = Scripted::new();
    let _held = hold(&store).await;
    let idem = process(&store).wait(Duration::ZERO).build();
    let (took, answer) = call(idem).await;
    assert!(
        matches!(answer.as_ref().map_err(Error::kind), Err(ErrorKind::InProgress { .. })) && took < MOMENT,
        "{took:?}"
    );
}

#[tokio::test]
async fn a_policy_that_never_answers_keeps_no_caller_beyond_its_wait() {
    let policy = Recovery::ask(|_| std::future::pending());
    let idem = Idempotency::builder(MemoryStore::new())
        .settle(Duration::ZERO)
        .recovery(policy);
    let idem = idem.wait(Duration::from_millis(300)).build();
    let died = idem.run(id("k"), |_| async { panic!("on purpose") }).await;
    assert!(died.map(|reply: Reply<()>| drop(reply)).is_err());
    let calls = join_all((0..2).map(|_| idem.run(id("k"), |_| async { 1 })));
    let answers = timeout(Duration::from_secs(9), calls)
        .await
        .expect("each is answered within its wait");
    for error in answers.into_iter().map(Result::unwrap_err) {
        let told = matches!(
            error.kind(),
            ErrorKind::InDoubt { attempt: 1 } | ErrorKind::InProgress { .. }
        );
        assert!(told && error.effect() == Effect::Unknown, "{error:?}");
    }
    timeout(Duration::from_secs(9), idem.drain())
        .await
        .expect("nothing is in flight any more");
}
