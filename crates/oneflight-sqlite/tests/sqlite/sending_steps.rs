//! Promises 15 and 16 together: steps that send messages in their transactions.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../../tests/common/sending_steps.rs"]
mod cases;

use std::time::Duration;

use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay};
use oneflight::{Drive, Idempotency, OnAbandon, RequestIdentity, Rollback, Scope};
use oneflight_sqlite::SqliteStore;
use tokio::time::{Instant, sleep, timeout};

async fn open() -> (SqliteStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    (store, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_steps_that_send_on_one_topic_deliver_two_messages() {
    let (store, _folder) = open().await;
    cases::two_steps_that_send_on_one_topic_deliver_two_messages(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_is_dropped_while_it_commits_rings() {
    let (store, _folder) = open().await;
    cases::a_step_that_is_dropped_while_it_commits_rings(store).await;
}

/// What rings while its commit is still under way is found soon, though nothing is there when the relay looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_was_woken_too_early_looks_again_soon() {
    let (store, _folder) = open().await;
    let (arrived, outbox) = (
        std::sync::Arc::new(tokio::sync::Notify::new()),
        Outbox::new(store.clone()),
    );
    let arrives = std::sync::Arc::clone(&arrived);
    let keep = move |_: Delivery| {
        arrives.notify_one();
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = Relay::builder(store.clone()).lease(Duration::from_secs(600));
    let relay = relay.target("*", keep).build().unwrap().spawn();
    // From now on its pauses are of seconds.
    sleep(Duration::from_secs(6)).await;
    let idem = Idempotency::builder(store.clone()).drive(Drive::InPlace);
    let idem = idem.on_abandon(OnAbandon::Cancel).build();
    let id = RequestIdentity::new(Scope::new("tenant-7"), "dropped").unwrap();
    let dropped = idem.run_in_tx(id, |mut tx| async move {
        let _ = tx.send(Message::text("note", "never")).await?;
        std::future::pending::<Result<(), Rollback<()>>>().await
    });
    // As far as the relay can know, it may be committed later.
    assert!(timeout(Duration::from_millis(200), dropped).await.is_err());
    sleep(Duration::from_millis(100)).await;
    let mut tx = store.pool().begin().await.unwrap();
    let _ = outbox.send(&mut tx, Message::text("note", "late")).await.unwrap();
    tx.commit().await.unwrap();
    let landed = Instant::now();
    arrived.notified().await;
    assert!(landed.elapsed() < Duration::from_secs(1), "{:?}", landed.elapsed());
    relay.stop().await;
}
