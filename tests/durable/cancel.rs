//! Promise 13, of calls that are cancelled: what leaves a request in doubt is work that has begun, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::lines::Lines;
use crate::scripted::{Fault, Op, Scripted};
use oneflight::OnAbandon;
use oneflight::idempotency::{ErrorKind, Idempotency, NotDone, Origin, Recovery, Resolution, Unknown};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store};
use tokio::time::{sleep, timeout};

use super::paused;

const LEASE: Duration = Duration::from_millis(900);
const MOMENT: Duration = Duration::from_millis(100);
/// Far more than anything here takes.
const EVER: Duration = Duration::from_secs(60);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// Its time is that of a runtime that is paused.
fn scripted() -> Scripted {
    let mut store = Scripted::new();
    store.inner = paused::store();
    store
}

fn process<S: Store>(store: S) -> Idempotency<S> {
    Idempotency::builder(store)
        .lease(LEASE)
        .on_abandon(OnAbandon::Cancel)
        .build()
}

/// Makes a call whose work never ends, and leaves it after a moment.
async fn leave(idem: &Idempotency<Scripted>) {
    let call = idem.run(id("key"), |_| std::future::pending::<()>());
    assert!(timeout(MOMENT, call).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_left_before_it_was_granted_is_given_back() {
    for fault in [
        Fault::LandsAfter(MOMENT * 2),
        Fault::AnsweredAfter(MOMENT * 2),
        Fault::LandsAfter(LEASE * 2),
        Fault::AnsweredAfter(LEASE * 2),
    ] {
        let store = scripted();
        store.next(Op::Claim, &[fault]);
        let idem = process(store.clone());
        leave(&idem).await;
        timeout(EVER, idem.drain()).await.expect("it does not end");
        assert_eq!(store.inner.in_doubt(9, None).await.unwrap(), [], "{fault:?}");
        assert!(store.inner.is_empty(), "{fault:?}: the claim was kept");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_granted_and_left_before_its_work_began_is_given_back() {
    // The answer is so late that the lease is renewed before the work begins; and it is left during that.
    let store = scripted();
    store.next(Op::Claim, &[Fault::AnsweredAfter(LEASE / 2)]);
    store.next(Op::Renew, &[Fault::AnsweredAfter(LEASE / 2)]);
    let idem = process(store.clone());
    let call = idem.run(id("key"), |_| std::future::pending::<()>());
    assert!(timeout(LEASE * 3 / 4, call).await.is_err());
    assert_eq!(store.calls(Op::Renew), 1, "it was left too early");
    timeout(EVER, idem.drain()).await.expect("it does not end");
    assert!(store.inner.is_empty(), "the claim was kept");
}

/// Its first answer was that replicas lack it, and the second one that they have it.
#[tokio::test(start_paused = true)]
async fn a_claim_that_took_two_questions_is_not_given_back_once_its_work_has_begun() {
    for first in [Fault::TooFewReplicas, Fault::AnswerLost] {
        let store = scripted();
        store.next(Op::Claim, &[first]);
        let idem = process(store.clone());
        let call = idem.try_run(id("key"), |_| async {
            Err::<u32, _>(Unknown::because("no answer").into())
        });
        let error = call.await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unknown(_)), "{error:?}");
        timeout(EVER, idem.drain()).await.expect("it does not end");
        assert_eq!(store.calls(Op::Claim), 2);
        assert_eq!(store.inner.in_doubt(9, None).await.unwrap().len(), 1, "{first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_attempt_left_in_doubt_stays_so_and_at_once() {
    let store = scripted();
    let request = id("key");
    let dead = store.inner.claim(ClaimRequest::new(&request, Duration::ZERO)).await;
    assert!(matches!(dead, Ok(ClaimOutcome::Granted(_))));
    store.next(Op::Claim, &[Fault::AnsweredAfter(MOMENT * 2)]);
    let idem = Idempotency::builder(store.clone())
        .lease(Duration::from_secs(600))
        .on_abandon(OnAbandon::Cancel)
        .recovery(Recovery::Rerun)
        .build();
    leave(&idem).await;
    timeout(EVER, idem.drain()).await.expect("it does not end");
    let doubtful = store.inner.in_doubt(9, None).await.unwrap();
    assert_eq!(doubtful.len(), 1, "{doubtful:?}");
}

/// A policy has found out the result, and is left while that is claimed, or recorded.
#[tokio::test(start_paused = true)]
async fn a_claim_under_which_only_a_result_is_recorded_is_let_go_at_once() {
    for op in [Op::Claim, Op::Complete] {
        let store = scripted();
        let request = id("key");
        let dead = store.inner.claim(ClaimRequest::new(&request, Duration::ZERO)).await;
        assert!(matches!(dead, Ok(ClaimOutcome::Granted(_))));
        if op == Op::Claim {
            store.next(op, &[Fault::None, Fault::AnsweredAfter(MOMENT * 2)]);
        } else {
            store.next(op, &[Fault::Hangs]);
        }
        let idem = Idempotency::builder(store.clone())
            .lease(Duration::from_secs(600))
            .on_abandon(OnAbandon::Cancel)
            .recovery(Recovery::ask(|_| async { Resolution::completed(&()).unwrap() }))
            .build();
        leave(&idem).await;
        timeout(EVER, idem.drain()).await.expect("it does not end");
        assert_eq!(store.inner.in_doubt(9, None).await.unwrap().len(), 1, "{op:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_did_nothing_is_given_back_although_nobody_waits_for_that() {
    let store = scripted();
    store.next(Op::Release, &[Fault::Fails, Fault::Fails]);
    store.always(Op::Release, Fault::LandsAfter(MOMENT * 2));
    let idem = process(store.clone());
    let call = idem.try_run(id("key"), |_| async { Err::<(), _>(NotDone::because("busy").into()) });
    assert!(timeout(MOMENT, call).await.is_err());
    timeout(EVER, idem.drain()).await.expect("it does not end");
    assert!(store.inner.is_empty(), "the claim was kept");
}

#[test]
fn what_cannot_be_given_back_for_want_of_a_runtime_has_a_line() {
    let lines = Lines::default();
    let store = Scripted::new();
    store.next(Op::Claim, &[Fault::DoneAndHangs]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let idem = process(store.clone());
    tracing::subscriber::with_default(lines.subscriber(), || {
        runtime.block_on(async {
            tokio::spawn(async move { idem.run(id("key"), |_| async {}).await.map(drop) });
            while store.inner.is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
        });
        drop(runtime);
    });
    assert!(lines.the("could not be given back").contains("WARN"));
}

/// Not that a call which is left is always undone.
#[tokio::test(start_paused = true)]
async fn abandoned_work_is_finished_unless_said_otherwise() {
    let store = scripted();
    store.next(Op::Claim, &[Fault::AnsweredAfter(MOMENT * 2)]);
    let idem = Idempotency::builder(store).build();
    assert!(timeout(MOMENT, idem.run(id("key"), |_| async { 1 })).await.is_err());
    timeout(EVER, idem.drain()).await.expect("it does not end");
    let reply = idem.run(id("key"), |_| async { 2 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
}
