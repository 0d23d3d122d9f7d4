//! A job that is started several times on a starved machine: what a relay does that had no time for longer than its lease.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay, RelayBuilder};
use oneflight_sqlite::SqliteStore;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

const LEASE: Duration = Duration::from_secs(1);

async fn open(folder: &tempfile::TempDir) -> SqliteStore {
    SqliteStore::open(folder.path().join("shop.db")).await.unwrap()
}

async fn send(store: &SqliteStore, messages: usize) {
    let outbox = Outbox::new(store.clone());
    let mut tx = store.pool().begin_with("BEGIN IMMEDIATE").await.unwrap();
    let all = (0..messages).map(|number| Message::text("job", number.to_string()));
    outbox.send_all(&mut tx, all).await.unwrap();
    tx.commit().await.unwrap();
    outbox.wake();
}

fn relay(store: &SqliteStore) -> RelayBuilder<SqliteStore> {
    Relay::builder(store.clone()).lease(LEASE)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Neither has shown a sign of life, and neither could have seen one.
#[test]
fn relays_that_were_starved_together_take_none_for_dead() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder).await;
        let takes = |_: Delivery| async { Ok::<(), DeliveryError>(()) };
        let relays = [(); 2].map(|()| relay(&store).target("*", takes).build().unwrap().spawn());
        until("they have divided the shards", || {
            relays.iter().all(|it| it.health().shards == 32)
        })
        .await;
        for _ in 0..3 {
            thread::sleep(LEASE * 3);
            sleep(LEASE).await;
        }
        for relay in &relays {
            let health = relay.health();
            assert_eq!((health.shards, health.lost), (32, 0));
        }
        for relay in relays {
            relay.stop().await;
        }
    });
}

/// Where it stood when it was starved, another one has begun the job, so it goes no further.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_starved_relay_does_not_go_on_with_what_another_has_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let (begun, went_on, stops) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let path = folder.path().join("shop.db");
    let (begins, goes_on, stopped) = (Arc::clone(&begun), Arc::clone(&went_on), Arc::clone(&stops));
    let starved = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = SqliteStore::open(path).await.unwrap();
            let starves = move |_: Delivery| {
                let (begins, goes_on) = (Arc::clone(&begins), Arc::clone(&goes_on));
                async move {
                    begins.store(true, SeqCst);
                    thread::sleep(LEASE * 4);
                    // It has the processor again, and would do the second half of the job.
                    tokio::task::yield_now().await;
                    goes_on.fetch_add(1, SeqCst);
                    Ok::<(), DeliveryError>(())
                }
            };
            let relay = relay(&store).target("*", starves).build().unwrap().spawn();
            while !stopped.load(SeqCst) {
                sleep(Duration::from_millis(5)).await;
            }
            let health = relay.health();
            relay.stop().await;
            health
        })
    });
    send(&store, 1).await;
    until("the job is begun", || begun.load(SeqCst)).await;
    let ended = Arc::new(AtomicUsize::new(0));
    let ends = Arc::clone(&ended);
    let job = move |_: Delivery| {
        let ends = Arc::clone(&ends);
        async move {
            sleep(LEASE * 6).await;
            ends.fetch_add(1, SeqCst);
            Ok::<(), DeliveryError>(())
        }
    };
    let successor = relay(&store).target("*", job).build().unwrap().spawn();
    until("it is delivered", || successor.health().delivered == 1).await;
    stops.store(true, SeqCst);
    let health = starved.join().unwrap();
    assert_eq!(
        (health.delivered, went_on.load(SeqCst)),
        (0, 0),
        "the job was done twice"
    );
    assert_eq!(ended.load(SeqCst), 1);
    successor.stop().await;
}
