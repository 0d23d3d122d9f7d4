//! `SqliteStore` keeps what every outbox promises.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::time::Duration;

use oneflight::Message;
use oneflight::outbox::{Delivery, DeliveryError, Outbox, Relay, RelayBuildError};
use oneflight_conformance as conformance;
use oneflight_sqlite::SqliteStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_every_outbox_promises() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let kept = conformance::run_outbox(async || {
        count.set(count.get() + 1);
        SqliteStore::open(folder.path().join(format!("{}.db", count.get())))
            .await
            .unwrap()
    });
    if let Err(failure) = kept.await {
        panic!("{failure}: {:?}", failure.source());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_cannot_write_is_told_how_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    let outbox = Outbox::new(store.clone());
    let message = || Message::text("mail.receipt", "order 7");
    // It reads, another one writes, and then it would write.
    let mut reads = store.pool().begin().await.unwrap();
    let read = sqlx::query("SELECT count(*) FROM oneflight_messages");
    read.fetch_one(&mut *reads).await.unwrap();
    let mut writes = store.pool().begin_with("BEGIN IMMEDIATE").await.unwrap();
    let _ = outbox.send(&mut writes, message()).await.unwrap();
    writes.commit().await.unwrap();
    let error = outbox.send(&mut reads, message()).await.unwrap_err();
    assert!(error.to_string().contains("BEGIN IMMEDIATE"), "{error}");
}

#[tokio::test]
async fn what_a_relay_cannot_work_with_is_an_error_as_it_is_made() {
    let store = SqliteStore::open(tempfile::tempdir().unwrap().path().join("shop.db"))
        .await
        .unwrap();
    let builder = || {
        let builder = Relay::builder(store.clone());
        builder.target("*", |_: Delivery| async { Ok::<(), DeliveryError>(()) })
    };
    for lease in [Duration::ZERO, Duration::from_millis(99), Duration::MAX] {
        let error = builder().lease(lease).build().unwrap_err();
        assert_eq!(error, RelayBuildError::Lease(lease), "{error}");
    }
    for group in ["", "a\0b", &"g".repeat(256)] {
        let error = builder().group(group).build().unwrap_err();
        assert_eq!(error, RelayBuildError::Group(group.into()), "{error}");
    }
    let _ = builder().group("mail").lease(Duration::from_secs(1)).build().unwrap();
}
