//! Promises 11, 18, 19 and 20: a completed request is replayed, byte for byte, until its retention ends; never to
//! another payload or scope; what ran is not run again because its result could not be kept; and every reply says whether it
//! was executed, collapsed or replayed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use oneflight::idempotency::{
    CodecError, Effect, Error, ErrorKind, Idempotency, IdempotencyBuilder, MissingFingerprint, Origin, Recovery, Reply,
    Resolution, Unknown,
};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{Decoded, RecordedResult};
use oneflight::store::{ClaimOutcome, ClaimRequest, ManualClock, MemoryStore, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    number: u64,
    item: String,
    price: f64,
}

fn order() -> Order {
    Order {
        number: u64::MAX,
        item: "tea, \"green\" \u{1F375}\0".to_owned(),
        price: 0.1 + 0.2,
    }
}

#[tokio::test]
async fn a_replay_is_the_same_byte_for_byte() {
    let store = MemoryStore::new();
    let idem = Idempotency::builder(store.clone()).build();
    let first = idem.run(id("replay"), |_| async { order() }).await.unwrap();
    assert_eq!((first.origin(), first.is_cached()), (Origin::Executed, false));
    for idem in [idem, Idempotency::builder(store).build()] {
        let again: Reply<Order> = idem
            .run(id("replay"), |_| async { panic!("called again") })
            .await
            .unwrap();
        assert_eq!((again.origin(), again.is_cached()), (Origin::Replayed, true));
        assert_eq!(again.recorded().as_bytes(), first.recorded().as_bytes());
        assert_eq!((again.value(), again.value()), (first.value(), &order()));
    }
}

#[tokio::test(start_paused = true)]
async fn callers_at_the_same_time_share_one_execution_and_one_value() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let executions = Arc::new(AtomicU32::new(0));
    let calls = (0..1_000).map(|_| {
        let executions = Arc::clone(&executions);
        idem.run(id("share"), move |_| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            executions.fetch_add(1, Ordering::SeqCst);
            order()
        })
    });
    let replies: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(executions.load(Ordering::SeqCst), 1);
    let count = |source| replies.iter().filter(|it| it.origin() == source).count();
    assert_eq!((count(Origin::Executed), count(Origin::Collapsed)), (1, 999));
    let first = replies[0].clone().into_shared();
    assert!(replies.iter().all(|it| Arc::ptr_eq(&it.clone().into_shared(), &first)));
}

#[tokio::test]
async fn what_the_work_answers_is_recorded_failures_too() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let declined = |_| async { Err::<u32, String>("card declined".to_owned()) };
    let first = idem.run(id("declined"), declined).await.unwrap();
    let again = idem
        .run(id("declined"), |_| async { Ok::<u32, String>(1) })
        .await
        .unwrap();
    assert_eq!(again.origin(), Origin::Replayed);
    assert_eq!(
        (first.value(), again.value()),
        (&Err("card declined".to_owned()), first.value())
    );
}

#[tokio::test(start_paused = true)]
async fn another_payload_is_a_conflict_in_flight_and_recorded() {
    let store = MemoryStore::new();
    let idem = Idempotency::builder(store.clone()).build();
    let elsewhere = Idempotency::builder(store).build();
    let one = id("payload").with_fingerprint("one");
    let slow = |_| async {
        tokio::time::sleep(Duration::from_millis(40)).await;
        1
    };
    let running = tokio::spawn({
        let (idem, one) = (idem.clone(), one.clone());
        async move { idem.run(one, slow).await }
    });
    while idem.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    for phase in ["in flight", "recorded"] {
        for idem in [&idem, &elsewhere] {
            for other in [id("payload").with_fingerprint("two"), id("payload")] {
                let error = idem.run(other, |_| async { 2 }).await.unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::Conflict), "{phase}: {error:?}");
                assert_eq!(error.effect(), Effect::Nothing);
            }
        }
        if phase == "in flight" {
            idem.drain().await;
        }
    }
    assert_eq!(*running.await.unwrap().unwrap(), 1);
    assert_eq!(*elsewhere.run(one, |_| async { 2 }).await.unwrap(), 1);
}

#[tokio::test]
async fn no_scope_reads_the_answer_of_another() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let scopes = [
        Scope::new("a"),
        Scope::new("b"),
        Scope::new("a").route("POST /orders"),
        Scope::new("a").user("u1"),
        Scope::new("a").route("POST /orders").user("u1"),
    ];
    for (number, scope) in (0..).zip(scopes) {
        let id = RequestIdentity::new(scope, "the same key").unwrap();
        let reply = idem.run(id, move |_| async move { number }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (number, Origin::Executed));
    }
}

#[tokio::test]
async fn retention_counts_from_completion_and_then_the_key_is_new() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let hour = Duration::from_secs(3600);
    let idem = Idempotency::builder(store.clone()).build();
    let worked = clock.clone();
    // The work takes two hours: they do not count.
    let work = move |_| async move {
        worked.advance(hour * 2);
        1
    };
    let _ = idem.run(id("kept"), work).await.unwrap();
    clock.advance(hour * 24 - Duration::from_millis(1));
    // A replay does not prolong.
    assert_eq!(*idem.run(id("kept"), |_| async { 2 }).await.unwrap(), 1);
    clock.advance(Duration::from_millis(1));
    // New, although it was not purged; and for another payload as well.
    assert_eq!(store.len(), 1);
    assert!(idem.status(&id("kept")).await.unwrap().is_none());
    let other = id("kept").with_fingerprint("other");
    let reply = idem.run(other, |_| async { 3 }).await.unwrap();
    assert_eq!((*reply, reply.origin(), reply.attempt()), (3, Origin::Executed, 1));
    // The new record is not purged for the old one's age.
    assert_eq!(store.purge(10).await.unwrap(), 0);
    clock.advance(hour * 24);
    assert_eq!(store.purge(10).await.unwrap(), 1);
    assert!(store.is_empty());
}

#[tokio::test]
async fn calls_may_have_another_retention() {
    let clock = ManualClock::new();
    let idem = Idempotency::builder(MemoryStore::with_clock(clock.clone())).build();
    let day = Duration::from_secs(24 * 3600);
    let (hours, week) = (idem.with_retention(day / 12), idem.with_retention(day * 7));
    for (key, idem) in [("hours", &hours), ("day", &idem), ("week", &week)] {
        assert_eq!(*idem.run(id(key), |_| async { 1 }).await.unwrap(), 1);
    }
    let mut known = Vec::new();
    for age in [Duration::ZERO, day / 12, day * 11 / 12, day * 6] {
        clock.advance(age);
        let mut count = 0;
        for key in ["hours", "day", "week"] {
            count += usize::from(idem.status(&id(key)).await.unwrap().is_some());
        }
        known.push(count);
    }
    assert_eq!(known, [3, 2, 1, 0]);
    // Flights are shared: one execution, for as long as the retention of the caller that executes.
    let (one, other): (_, Result<Reply<()>, _>) = tokio::join!(
        week.run(id("shared"), |_| async { tokio::task::yield_now().await }),
        idem.run(id("shared"), |_| async { panic!("called as well") }),
    );
    assert_eq!(
        (one.unwrap().origin(), other.unwrap().origin()),
        (Origin::Executed, Origin::Collapsed)
    );
    clock.advance(day * 2);
    assert!(idem.status(&id("shared")).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_in_doubt_outlasts_retention() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let request = id("doubt");
    let claimed = store.claim(ClaimRequest::new(&request, Duration::from_secs(1))).await;
    assert!(matches!(claimed, Ok(ClaimOutcome::Granted(_))));
    clock.advance(Duration::from_secs(3600 * 24 * 365));
    assert_eq!(store.purge(10).await.unwrap(), 0);
    let idem = Idempotency::builder(store).build();
    let error = idem.run(request, |_| async { 1 }).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_result_that_is_too_large_is_done_once_and_says_so_to_everyone() {
    let store = MemoryStore::new();
    let idem = Idempotency::builder(store.clone()).max_result_bytes(100).build();
    let executions = Arc::new(AtomicU32::new(0));
    let call = |idem: &Idempotency<MemoryStore>| {
        let (idem, executions) = (idem.clone(), Arc::clone(&executions));
        async move {
            let work = move |_| async move {
                executions.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                "x".repeat(99)
            };
            idem.run(id("large"), work).await
        }
    };
    let mut results = join_all([call(&idem), call(&idem)]).await;
    results.push(call(&idem).await);
    results.push(call(&Idempotency::builder(store).build()).await);
    for error in results.into_iter().map(Result::unwrap_err) {
        let ErrorKind::ResultTooLarge { size: 101, .. } = error.kind() else {
            panic!("{error:?}")
        };
        assert_eq!(error.effect(), Effect::Done);
        assert!(error.to_string().contains("the work was done"), "{error}");
    }
    assert_eq!(executions.load(Ordering::SeqCst), 1);
    // The limit itself fits.
    let reply = idem.run(id("fits"), |_| async { "x".repeat(98) }).await.unwrap();
    assert_eq!(reply.len(), 98);
}

/// Cannot be written as JSON.
#[derive(Debug, Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no form"))
    }
}

/// Panics when written.
#[derive(Debug, Deserialize)]
struct Explosive;

impl Serialize for Explosive {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("boom")
    }
}

#[tokio::test]
async fn a_result_that_cannot_be_encoded_is_done_once_and_says_so() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let first = idem.run(id("unwritable"), |_| async { Unwritable }).await.unwrap_err();
    assert!(
        matches!(first.kind(), ErrorKind::Codec(CodecError::Encode(_))) && first.effect() == Effect::Done,
        "{first:?}"
    );
    let again = idem.run(id("unwritable"), |_| async { Unwritable }).await.unwrap_err();
    assert!(
        matches!(again.kind(), ErrorKind::Codec(CodecError::NotRecorded)) && again.effect() == Effect::Done,
        "{again:?}"
    );
    let panicked = idem.run(id("explosive"), |_| async { Explosive }).await.unwrap_err();
    assert!(
        matches!(panicked.kind(), ErrorKind::Codec(CodecError::Encode(_))),
        "{panicked:?}"
    );
}

#[tokio::test]
async fn a_follower_who_asks_for_another_type_gets_the_recorded_value_as_that() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let leader = idem.run(id("types"), |_| async {
        tokio::task::yield_now().await;
        order()
    });
    let follower = idem.run(id("types"), |_| async { serde_json::Value::Null });
    let stranger = idem.run(id("types"), |_| async { 7_u32 });
    let (leader, follower, stranger) = tokio::join!(leader, follower, stranger);
    assert_eq!(leader.unwrap().origin(), Origin::Executed);
    let follower = follower.unwrap();
    assert_eq!(follower.origin(), Origin::Collapsed);
    assert_eq!(follower["number"], u64::MAX);
    let error = stranger.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Codec(CodecError::Decode(_))),
        "{error:?}"
    );
    // Neither message nor sources tell the payload. The message tells the request, as a log may show it.
    let mut chain = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = next {
        chain += &error.to_string();
        next = error.source();
    }
    let request = id("types").redacted().to_string();
    assert!(!chain.contains("tea") && chain.contains(&request), "{chain}");
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_an_error_and_not_executed_again() {
    let store = MemoryStore::new();
    let request = id("newer");
    let ClaimOutcome::Granted(claim) = store
        .claim(ClaimRequest::new(&request, Duration::from_secs(1)))
        .await
        .unwrap()
    else {
        panic!("not granted")
    };
    let newer = RecordedResult::from_stored(vec![2, 0, 0, b'1']);
    store.complete(claim, newer, Duration::from_secs(60)).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let error = idem.run(request, |_| async { 1 }).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Codec(CodecError::Layout(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn nothing_prints_the_payload() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let reply = idem.run(id("secret"), |_| async { "hush".to_owned() }).await.unwrap();
    let record = idem.status(&id("secret")).await.unwrap().unwrap();
    let decoded = record.result().unwrap().decode().unwrap();
    assert!(matches!(
        decoded,
        Decoded::Value {
            payload: b"\"hush\"",
            ..
        }
    ));
    let printed = format!("{reply:?} {record:?} {decoded:?} {idem:?}");
    assert!(!printed.contains("hush"), "{printed}");
}

/// The version that adds fingerprints, while the one before is about to end.
fn deployed<S: Store>(store: S) -> IdempotencyBuilder<S> {
    Idempotency::builder(store).missing_fingerprint(MissingFingerprint::Accept)
}

#[tokio::test]
async fn a_fingerprint_on_one_side_only_is_accepted_where_that_is_said() {
    let store = MemoryStore::new();
    let (without, with) = (id("before"), id("after").with_fingerprint("body"));
    let before = Idempotency::builder(store.clone()).build();
    let deployed = deployed(store).build();
    let _ = before.run(without.clone(), |_| async { 1 }).await.unwrap();
    let _ = deployed.run(with.clone(), |_| async { 2 }).await.unwrap();

    // Kept safe unless it is said.
    let error = before.run(id("before").with_fingerprint("body"), |_| async { 3 }).await;
    assert!(
        matches!(error.as_ref().map_err(Error::kind), Err(ErrorKind::Conflict)),
        "{error:?}"
    );
    for (known, value) in [(id("before").with_fingerprint("body"), 1), (id("after"), 2)] {
        let reply = deployed.run(known, |_| async { 3 }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (value, Origin::Replayed));
    }
    // Another payload is another request.
    let error = deployed
        .run(id("after").with_fingerprint("other"), |_| async { 3 })
        .await;
    assert!(
        matches!(error.as_ref().map_err(Error::kind), Err(ErrorKind::Conflict)),
        "{error:?}"
    );
    // Records are as they were made.
    let record = deployed.status(&without).await.unwrap().unwrap();
    assert_eq!(record.fingerprint, None);
    let record = deployed.status(&without_fingerprint(&with)).await.unwrap().unwrap();
    assert_eq!(record.fingerprint, with.fingerprint());
}

fn without_fingerprint(of: &RequestIdentity) -> RequestIdentity {
    RequestIdentity::from_stored(of.scope(), of.key()).unwrap()
}

#[tokio::test]
async fn in_flight_a_fingerprint_on_one_side_only_is_accepted_where_that_is_said() {
    let store = MemoryStore::new();
    let (here, there) = (deployed(store.clone()).build(), deployed(store).build());
    for (key, leaders) in [("leads without", None), ("leads with", Some("body"))] {
        let of = |payload: Option<&str>| match payload {
            Some(payload) => id(key).with_fingerprint(payload),
            None => id(key),
        };
        let finish = Arc::new(Notify::new());
        let leader = tokio::spawn({
            let (here, id, finish) = (here.clone(), of(leaders), Arc::clone(&finish));
            async move {
                let work = move |_| async move {
                    finish.notified().await;
                    1
                };
                here.run(id, work).await
            }
        });
        while here.status(&of(leaders)).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        let joined = here.stats().joined;
        let calls = [
            // In the same process, and in another one.
            (here.clone(), None),
            (here.clone(), Some("body")),
            (there.clone(), None),
            (there.clone(), Some("body")),
        ]
        .map(|(idem, payload)| {
            let of = of(payload);
            tokio::spawn(async move { idem.run(of, |_| async { 2 }).await })
        });
        let other = tokio::spawn({
            let (here, other) = (here.clone(), of(Some("other")));
            async move { here.run(other, |_| async { 3 }).await }
        });
        let all_joined = async {
            while here.stats().joined < joined + 3 {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), all_joined).await;
        assert!(
            in_time.is_ok(),
            "{key}: the calls of this process do not share the flight"
        );
        finish.notify_one();
        assert_eq!(*leader.await.unwrap().unwrap(), 1);
        for call in calls {
            assert_eq!(*call.await.unwrap().unwrap(), 1, "{key}");
        }
        let other = other.await.unwrap();
        let is_told_apart = matches!(other.as_ref().map_err(Error::kind), Err(ErrorKind::Conflict));
        assert_eq!(is_told_apart, leaders.is_some(), "{key}: {other:?}");
    }
}

#[tokio::test]
async fn what_is_in_doubt_without_a_fingerprint_is_settled_by_who_has_one() {
    let store = MemoryStore::new();
    let before = Idempotency::builder(store.clone()).build();
    for key in ["rerun", "resolved"] {
        let work = |_| async { Err::<u32, _>(Unknown::because("no answer").into()) };
        assert!(before.try_run(id(key), work).await.is_err());
    }
    let after = deployed(store).recovery(Recovery::Rerun).build();
    let work = |context: oneflight::idempotency::Context| async move { context.attempt() };
    let reply = after.run(id("rerun").with_fingerprint("body"), work).await.unwrap();
    assert_eq!((*reply, reply.origin()), (2, Origin::Executed));
    let resolved = id("resolved").with_fingerprint("body");
    after
        .resolve(&resolved, Resolution::completed(&7).unwrap())
        .await
        .unwrap();
    assert_eq!(*after.run(resolved, work).await.unwrap(), 7);
}
