//! `SqliteStore` keeps what every outbox promises.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;

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
