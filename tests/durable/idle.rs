//! Promises 3 and 10: a call that is not polled holds up no other, and a duplicate that waits sees the end of a dead holder's
//! lease.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use oneflight::OnAbandon;
use oneflight::idempotency::{Idempotency, Recovery};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ManualClock, MemoryStore};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[tokio::test]
async fn the_work_of_a_call_that_is_not_polled_goes_on() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let (does, done) = oneshot::channel();
    let mut idle = Box::pin(idem.run(id("a"), |_| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        does.send(()).unwrap();
        1
    }));
    assert!(futures::poll!(&mut idle).is_pending());
    tokio::time::timeout(Duration::from_secs(5), done)
        .await
        .expect("not polled")
        .unwrap();
    assert_eq!(*idle.await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn by_default_a_waiting_duplicate_sees_the_end_of_a_dead_holders_lease() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(50)).await;
            clock.advance(Duration::from_millis(50));
        }
    });
    // Its process dies: its lease is not renewed any more.
    let dead = Idempotency::builder(store.clone())
        .on_abandon(OnAbandon::Cancel)
        .build();
    let begun = Arc::new(Notify::new());
    let dying = tokio::spawn({
        let begun = Arc::clone(&begun);
        async move {
            let work = move |_| async move {
                begun.notify_one();
                std::future::pending::<u32>().await
            };
            dead.run(id("dead"), work).await
        }
    });
    begun.notified().await;
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());

    let heir = Idempotency::builder(store).recovery(Recovery::Rerun).build();
    let reply = heir
        .run(id("dead"), |context| async move { context.attempt() })
        .await
        .unwrap();
    assert_eq!(*reply, 2);
}
