//! Promise 16: a completer that gets nothing done does no harm: it asks seldom, ends, and stands in nobody's way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use oneflight::idempotency::{Step, Steps, Stopped, Workflow};
use oneflight::{Idempotency, MemoryStore, Origin};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::completer::{SOON, Seen, Stale, eventually, finishing, id, is_completed, left_behind, quick, stale};

/// As many as are run at once, and more.
async fn many_left_behind(idem: &Idempotency<Stale>) {
    for key in 0..12 {
        left_behind(idem, &key.to_string(), Workflow::new("place_order")).await;
    }
}

#[tokio::test]
async fn where_nothing_is_granted_it_asks_no_sooner_than_it_would_anyway() {
    const EVERY: Duration = Duration::from_millis(100);

    let idem = Idempotency::builder(stale()).build();
    many_left_behind(&idem).await;
    idem.store().refuses.store(true, SeqCst);
    let seen = Seen::default();
    let begun = Instant::now();
    let completer = finishing(idem.completer().every(EVERY), Workflow::new("place_order"), &seen);
    sleep(EVERY * 6).await;
    let polls = idem.store().polls.load(SeqCst);
    let most = begun.elapsed().as_millis() / EVERY.as_millis();
    // The first one comes at once, and another one looks for what is unknown.
    assert!(
        (2..=most as usize + 3).contains(&polls),
        "{polls} in {:?}",
        begun.elapsed()
    );
    idem.store().refuses.store(false, SeqCst);
    eventually("all are finished", async || seen.lock().len() == 12).await;
    completer.stop().await;
}

#[tokio::test]
async fn that_of_a_service_which_is_closed_ends() {
    let idem = Idempotency::builder(stale()).build();
    many_left_behind(&idem).await;
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (says, waits) = (Arc::clone(&begun), Arc::clone(&go_on));
    let builder = quick(&idem).concurrency(1);
    let completer = builder.handler("place_order", move |_: String, steps: Steps<Stale>| {
        let (says, waits) = (Arc::clone(&says), Arc::clone(&waits));
        async move {
            steps
                .run("first", |_| async { Err::<u32, _>("it is recorded") })
                .await?;
            says.notify_one();
            waits.notified().await;
            Ok(())
        }
    });
    let completer = completer.spawn().unwrap();
    begun.notified().await;
    idem.close();
    let drained = tokio::spawn({
        let idem = idem.clone();
        async move { idem.drain().await }
    });
    sleep(SOON * 4).await;
    assert!(!drained.is_finished(), "what runs is not waited for");
    go_on.notify_one();
    timeout(Duration::from_secs(20), drained).await.unwrap().unwrap();
    sleep(SOON * 4).await;
    let polls = idem.store().polls.load(SeqCst);
    sleep(SOON * 10).await;
    assert_eq!(idem.store().polls.load(SeqCst), polls, "it asks on");
    assert_eq!(idem.unfinished_steps(100).await.unwrap().len(), 11);
    timeout(Duration::from_secs(20), completer.stop()).await.unwrap();
}

type Gate = (Arc<Notify>, Arc<Notify>);

/// Has the store wait before it answers what is unfinished.
fn lists_late(idem: &Idempotency<Stale>) -> Gate {
    let gate = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    *idem.store().list_gate.lock() = Some(gate.clone());
    gate
}

#[tokio::test]
async fn what_is_listed_when_its_service_is_closed_is_not_taken_up() {
    let idem = Idempotency::builder(stale()).build();
    left_behind(&idem, "a", Workflow::new("place_order")).await;
    let (asked, answers) = lists_late(&idem);
    let seen = Seen::default();
    let completer = finishing(quick(&idem), Workflow::new("place_order"), &seen);
    asked.notified().await;
    idem.close();
    timeout(Duration::from_secs(20), idem.drain()).await.unwrap();
    *idem.store().list_gate.lock() = None;
    answers.notify_one();
    sleep(SOON * 20).await;
    assert_eq!(seen.lock().len(), 0, "it was taken up after the drain");
    assert!(!is_completed(&idem, "a").await);
    timeout(Duration::from_secs(20), completer.stop()).await.unwrap();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_store() {
    let idem = Idempotency::builder(stale()).build();
    let (asked, _never) = lists_late(&idem);
    let seen = Seen::default();
    let completer = finishing(quick(&idem), Workflow::new("place_order"), &seen);
    asked.notified().await;
    timeout(Duration::from_secs(5), completer.stop()).await.unwrap();
}

/// What is not granted stays first in the list.
#[tokio::test]
async fn what_is_not_granted_keeps_nobody_else_from_its_turn() {
    let idem = Idempotency::builder(stale()).build();
    for key in 0..12 {
        left_behind(&idem, &format!("stuck {key}"), Workflow::new("place_order")).await;
    }
    sleep(SOON).await;
    left_behind(&idem, "well", Workflow::new("place_order")).await;
    *idem.store().denies.lock() = Some("stuck");
    let seen = Seen::default();
    let completer = finishing(quick(&idem), Workflow::new("place_order"), &seen);
    eventually("it had its turn", async || is_completed(&idem, "well").await).await;
    // Nor is it given up.
    *idem.store().denies.lock() = None;
    eventually("all are finished", async || seen.lock().len() == 13).await;
    completer.stop().await;
}

/// It was listed when its lease was over, with its tries used up. Then its holder came back.
#[tokio::test]
async fn what_somebody_has_is_not_held() {
    let idem = Idempotency::builder(stale()).build();
    left_behind(&idem, "a", Workflow::new("place_order")).await;
    let mut list = idem.unfinished_steps(10).await.unwrap();
    let (in_step, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (says, waits) = (Arc::clone(&in_step), Arc::clone(&go_on));
    let orders = idem.with_workflow("place_order");
    let call = tokio::spawn(async move {
        orders
            .run_steps(id("a"), &"a".to_owned(), |steps| async move {
                steps
                    .run("first", |_| async { Err::<u32, _>("it is recorded") })
                    .await?;
                says.notify_one();
                waits.notified().await;
                Ok(())
            })
            .await
    });
    in_step.notified().await;
    list[0].token = idem.status(&id("a")).await.unwrap().unwrap().token;
    list[0].tries = 9;
    *idem.store().listed.lock() = Some(list);
    let seen = Seen::default();
    let completer = finishing(quick(&idem).max_tries(1), Workflow::new("place_order"), &seen);
    let polls = idem.store().polls.load(SeqCst);
    eventually("it was asked", async || idem.store().polls.load(SeqCst) > polls + 5).await;
    assert!(!idem.recorded_steps(&id("a")).await.unwrap().unwrap().held);
    go_on.notify_one();
    let _ = call.await.unwrap().unwrap();
    completer.stop().await;
}

/// Hung calls must not take all places for good.
#[tokio::test]
async fn a_try_that_hangs_is_dropped_and_counted() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    for key in 0..8 {
        left_behind(&idem, &format!("hung {key}"), Workflow::new("place_order")).await;
    }
    left_behind(&idem, "well", Workflow::new("place_order")).await;
    let builder = quick(&idem).attempt_limit(Duration::from_millis(50)).max_tries(2);
    let completer = builder.handler(
        "place_order",
        move |key: String, steps: Steps<MemoryStore>| async move {
            steps
                .run("first", |_| async { Err::<u32, _>("it is recorded") })
                .await?;
            match key.as_str() {
                "well" => Ok(()),
                "hung 0" => {
                    let fax = Step::new("fax").at_most_once();
                    steps.run(fax, |_| pending::<Result<(), std::io::Error>>()).await
                }
                _ => pending().await,
            }
        },
    );
    let completer = completer.spawn().unwrap();
    eventually("it had its turn", async || is_completed(&idem, "well").await).await;
    eventually("all others are held", async || {
        let left = idem.unfinished_steps(100).await.unwrap();
        left.len() == 8 && left.iter().all(|it| it.held)
    })
    .await;
    for left in idem.unfinished_steps(100).await.unwrap() {
        // A step that may run once was begun, so nobody may try that one again.
        let expected = if left.id.key() == "hung 0" { 1 } else { 2 };
        assert_eq!(left.tries, expected, "{}", left.id.key());
    }
    timeout(Duration::from_secs(20), completer.stop()).await.unwrap();
}

/// A completer may take over from one holder only, and is refused here. A call is not.
#[tokio::test]
async fn a_call_is_not_told_what_a_completer_is_told() {
    let idem = Idempotency::builder(stale()).build();
    left_behind(&idem, "a", Workflow::new("place_order")).await;
    let list = idem.unfinished_steps(10).await.unwrap();
    *idem.store().listed.lock() = Some(list);
    let orders = idem.with_workflow("place_order");
    let stopped = orders.run_steps(id("a"), &"a".to_owned(), |_| async {
        Err::<(), _>(Stopped::because("again"))
    });
    stopped.await.unwrap_err();
    let (asked, answers) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    *idem.store().gate.lock() = Some((Arc::clone(&asked), Arc::clone(&answers)));
    let seen = Seen::default();
    let completer = finishing(quick(&idem), Workflow::new("place_order"), &seen);
    asked.notified().await;
    let call = tokio::spawn({
        let orders = orders.clone();
        async move {
            orders
                .run_steps(id("a"), &"a".to_owned(), |steps| async move {
                    steps.run("first", |_| async { Err::<u32, _>("it is recorded") }).await
                })
                .await
        }
    });
    sleep(SOON * 4).await;
    *idem.store().gate.lock() = None;
    answers.notify_one();
    let reply = call.await.unwrap().unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Executed));
    assert_eq!(seen.lock().len(), 0);
    completer.stop().await;
}
