//! Promises 13 and 14, of a store that does not answer, or panics: no call waits for it for ever, what it may have done
//! is found out, and the key is not lost to it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::scripted::{Fault, Op, Scripted};
use oneflight::idempotency::{
    Context, Effect, Error, ErrorKind, Idempotency, MissingFingerprint, NotDone, Origin, Recovery, Reply, Resolution,
};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store, StoreError};
use tokio::time::{Instant, timeout};

const WAIT: Duration = Duration::from_secs(10);
/// By when a caller is told at the latest, in the time of a clock that runs only while every task waits.
const TOLD: Duration = Duration::from_secs(12);
/// For ever, by the same clock.
const EVER: Duration = Duration::from_secs(100_000);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

fn process(store: &Scripted) -> Idempotency<Scripted> {
    Idempotency::builder(store.clone()).wait(WAIT).build()
}

async fn answered<T>(call: impl Future<Output = T>) -> T {
    timeout(EVER, call).await.expect("it waits for ever")
}

/// What became of a call of a key that nothing is known of.
async fn attempt(idem: &Idempotency<Scripted>, key: &str) -> Result<Reply<u32>, Error> {
    answered(idem.run(id(key), |context: Context| async move { context.attempt() })).await
}

async fn die(store: &Scripted, key: &str) {
    let request = id(key);
    let claimed = store.inner.claim(ClaimRequest::new(&request, Duration::ZERO)).await;
    assert!(matches!(claimed, Ok(ClaimOutcome::Granted(_))));
}

/// The key is free, with no more ado than waiting a little.
async fn is_free(idem: &Idempotency<Scripted>, key: &str, why: Fault) {
    let reply = attempt(idem, key).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Executed), "{why:?}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_not_answered_is_given_up_at_the_deadline_and_given_back() {
    for fault in [Fault::Hangs, Fault::DoneAndHangs, Fault::LandsAfter(WAIT * 3 / 2)] {
        let store = Scripted::new();
        let idem = process(&store);
        store.next(Op::Claim, &[fault]);
        let asked = Instant::now();
        let error = attempt(&idem, "key").await.unwrap_err();
        // What may have been granted is not given back so far.
        assert_eq!(error.effect(), Effect::Unknown, "{fault:?}: {error:?}");
        assert!(matches!(error.kind(), ErrorKind::Store(_)), "{fault:?}: {error:?}");
        assert!(
            asked.elapsed() >= WAIT && asked.elapsed() < TOLD,
            "{fault:?}: {:?}",
            asked.elapsed()
        );
        // What was asked for may be granted later; it is given back then.
        answered(idem.drain()).await;
        assert!(store.inner.is_empty(), "{fault:?}");
        is_free(&idem, "key", fault).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_over_a_claim_is_asked_again_as_the_same_holder() {
    for fault in [Fault::Panics, Fault::DoneAndPanics, Fault::AnswerLost] {
        let store = Scripted::new();
        store.next(Op::Claim, &[fault, fault]);
        is_free(&process(&store), "key", fault).await;
        assert_eq!(store.calls(Op::Claim), 3);
    }
}

/// The first answer was lost and what followed did nothing: that says nothing of the first.
#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_given_back_whatever_came_after_it() {
    for (last, tries) in [
        (Fault::NoConnection, 2),
        (Fault::Busy, 2),
        (Fault::Fails, 3),
        (Fault::Panics, 3),
        (Fault::Hangs, 2),
    ] {
        let store = Scripted::new();
        store.next(Op::Claim, &[Fault::AnswerLost, last, last][..tries]);
        // Even if it cannot be looked up at first, or be given back.
        store.next(Op::Load, &[Fault::Fails, Fault::Hangs, Fault::Panics]);
        store.next(Op::Release, &[Fault::Fails, Fault::Hangs, Fault::Panics]);
        let idem = process(&store);
        let error = attempt(&idem, "key").await.unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown, "{last:?}: {error:?}");
        // The graver of the two errors.
        let ErrorKind::Store(source) = error.kind() else {
            panic!("{last:?}: {error:?}")
        };
        assert!(matches!(source, StoreError::Unavailable { .. }), "{last:?}: {error:?}");
        answered(idem.drain()).await;
        assert!(store.inner.is_empty(), "{last:?}: a claim was left behind");
        is_free(&idem, "key", last).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_is_recorded_although_the_store_does_not_answer_once() {
    for fault in [
        Fault::Hangs,
        Fault::DoneAndHangs,
        Fault::Panics,
        Fault::DoneAndPanics,
        Fault::AnswerLost,
    ] {
        for look in [Fault::None, Fault::Hangs, Fault::Panics] {
            let store = Scripted::new();
            store.next(Op::Complete, &[fault]);
            store.next(Op::Load, &[look]);
            let idem = process(&store);
            is_free(&idem, "key", fault).await;
            let replay = attempt(&idem, "key").await.unwrap();
            assert_eq!(replay.origin(), Origin::Replayed, "{fault:?}, {look:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_again_leaves_it_in_doubt_and_says_that_it_was_done() {
    for fault in [Fault::Hangs, Fault::Panics] {
        let store = Scripted::new();
        store.always(Op::Complete, fault);
        store.always(Op::Load, fault);
        let error = attempt(&process(&store), "key").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unrecorded(_)), "{fault:?}: {error:?}");
        assert_eq!(error.effect(), Effect::Done);
    }
}

/// Of all that went wrong while a result was recorded, the caller hears what says most of it.
#[tokio::test(start_paused = true)]
async fn that_a_result_may_be_recorded_outweighs_that_nothing_was_at_last() {
    let store = Scripted::new();
    store.next(Op::Complete, &[Fault::AnswerLost]);
    store.always(Op::Complete, Fault::NoConnection);
    store.always(Op::Load, Fault::NoConnection);
    let error = attempt(&process(&store), "key").await.unwrap_err();
    let ErrorKind::Unrecorded(source) = error.kind() else {
        panic!("{error:?}")
    };
    assert!(matches!(source, StoreError::Unavailable { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn what_did_nothing_is_given_back_although_the_store_does_not_answer_once() {
    for fault in [Fault::Hangs, Fault::DoneAndHangs, Fault::Panics, Fault::AnswerLost] {
        let store = Scripted::new();
        store.next(Op::Release, &[fault]);
        let idem = process(&store);
        let call = idem.try_run(id("key"), |_| async { Err::<u32, _>(NotDone::because("busy").into()) });
        let error = answered(call).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NotDone(_)), "{error:?}");
        answered(idem.drain()).await;
        is_free(&idem, "key", fault).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_work_is_told_although_the_store_does_not_answer() {
    let store = Scripted::new();
    store.always(Op::Renew, Fault::Hangs);
    let idem = process(&store);
    let call = idem.run(id("key"), |_| async {
        if true {
            panic!("out of paper")
        }
    });
    let error = answered(call).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Panicked(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_not_answered_is_done_without() {
    for fault in [Fault::Hangs, Fault::Panics] {
        let store = Scripted::new();
        store.always(Op::Watch, fault);
        let request = id("key");
        let held = store
            .inner
            .claim(ClaimRequest::new(&request, Duration::from_secs(600)))
            .await;
        assert!(matches!(held, Ok(ClaimOutcome::Granted(_))));
        let asked = Instant::now();
        let error = attempt(&process(&store), "key").await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::InProgress { .. }),
            "{fault:?}: {error:?}"
        );
        assert!(asked.elapsed() >= WAIT && asked.elapsed() < TOLD);
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_not_begun_is_given_up_at_the_deadline() {
    for fault in [Fault::Hangs, Fault::Panics] {
        let store = Scripted::new();
        store.next(Op::Begin, &[fault]);
        let idem = process(&store);
        let asked = Instant::now();
        let call = idem.run_in_tx(id("key"), |_| async { Ok(1) });
        let error = answered(call).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Store(_)), "{fault:?}: {error:?}");
        assert_eq!(error.effect(), Effect::Nothing, "{fault:?}");
        assert!(asked.elapsed() < TOLD);
        is_free(&idem, "key", fault).await;
    }
}

#[tokio::test(start_paused = true)]
async fn how_a_transaction_ended_that_is_not_answered_is_not_known() {
    for fault in [Fault::Hangs, Fault::DoneAndHangs, Fault::Panics, Fault::DoneAndPanics] {
        let store = Scripted::new();
        store.next(Op::End, &[fault]);
        let idem = process(&store);
        let call = idem.run_in_tx(id("key"), |_| async {
            // Work has no limit.
            tokio::time::sleep(WAIT * 100).await;
            Ok(1)
        });
        let error = answered(call).await.unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown, "{fault:?}: {error:?}");
        assert_eq!(idem.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_resolves_is_answered_although_the_store_is_not() {
    for fault in [Fault::Hangs, Fault::Panics] {
        for op in [Op::Load, Op::Claim, Op::Release] {
            let store = Scripted::new();
            die(&store, "key").await;
            store.next(op, &[fault]);
            let idem = process(&store);
            let error = answered(idem.resolve(&id("key"), Resolution::Rerun)).await.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Store(_)),
                "{op:?}, {fault:?}: {error:?}"
            );
            answered(idem.resolve(&id("key"), Resolution::Rerun)).await.unwrap();
            is_free(&idem, "key", fault).await;
        }
        let store = Scripted::new();
        die(&store, "key").await;
        store.next(Op::Complete, &[fault]);
        let idem = process(&store);
        answered(idem.resolve(&id("key"), Resolution::completed(&7).unwrap()))
            .await
            .unwrap();
        assert_eq!(*attempt(&idem, "key").await.unwrap(), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_knows_the_result_is_heard_although_the_store_does_not_answer_once() {
    for (op, faults) in [
        (Op::Complete, &[Fault::Hangs][..]),
        (Op::Complete, &[Fault::DoneAndPanics]),
        (Op::Claim, &[Fault::None, Fault::Panics]),
        (Op::Claim, &[Fault::None, Fault::DoneAndPanics]),
    ] {
        let store = Scripted::new();
        die(&store, "key").await;
        store.next(op, faults);
        let idem = Idempotency::builder(store)
            .wait(WAIT)
            .recovery(Recovery::ask(|_| async { Resolution::completed(&7).unwrap() }))
            .build();
        let reply = attempt(&idem, "key").await.unwrap();
        assert_eq!((*reply, reply.origin()), (7, Origin::Replayed), "{op:?}, {faults:?}");
    }
}

/// Whether two payloads are the same is told by the record, which is looked at before the wait goes on.
#[tokio::test(start_paused = true)]
async fn a_look_for_a_missing_fingerprint_is_given_up_at_the_deadline() {
    const SHORT: Duration = Duration::from_secs(2);
    let store = Scripted::new();
    let request = id("key").with_fingerprint("body");
    let held = store.inner.claim(ClaimRequest::new(&request, EVER)).await;
    assert!(matches!(held, Ok(ClaimOutcome::Granted(_))));
    store.always(Op::Load, Fault::Hangs);
    let idem = Idempotency::builder(store)
        .missing_fingerprint(MissingFingerprint::Accept)
        .wait(SHORT)
        .build();
    let asked = Instant::now();
    let error = attempt(&idem, "key").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error:?}");
    assert!(
        asked.elapsed() <= SHORT + Duration::from_millis(50),
        "{:?}",
        asked.elapsed()
    );
}

/// The claim was long under way, so its lease is renewed before the work begins; it has not ended.
#[tokio::test(start_paused = true)]
async fn a_renewal_before_the_work_is_not_waited_for_longer_than_the_caller_waits() {
    let store = Scripted::new();
    store.next(Op::Claim, &[Fault::AnsweredAfter(WAIT - Duration::from_secs(1))]);
    store.next(Op::Renew, &[Fault::Hangs]);
    let idem = Idempotency::builder(store.clone())
        .wait(WAIT)
        .lease(Duration::from_secs(20))
        .build();
    let asked = Instant::now();
    let begun = Arc::new(OnceLock::new());
    let work = Arc::clone(&begun);
    let call = idem.run(id("key"), move |_| async move { work.set(Instant::now()).unwrap() });
    let _ = answered(call).await.unwrap();
    assert!(store.calls(Op::Renew) > 0);
    let begun = *begun.get().unwrap() - asked;
    assert!(begun <= TOLD, "{begun:?}");
}
