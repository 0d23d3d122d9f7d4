//! Promises 10 and 11: the conformance suite passes on SQLite.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};

use oneflight_conformance as conformance;
use oneflight_sqlite::SqliteStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqlite_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let files = AtomicU64::new(0);
    conformance::run(async || {
        let name = format!("{}.db", files.fetch_add(1, Ordering::Relaxed));
        SqliteStore::open(folder.path().join(name)).await.unwrap()
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqlite_store_conforms_on_a_pool_of_one_connection() {
    conformance::run(async || {
        let pool = sqlx::sqlite::SqlitePoolOptions::new()
            .max_connections(1)
            .connect("sqlite::memory:")
            .await
            .unwrap();
        SqliteStore::from_pool(pool).await.unwrap()
    })
    .await
    .unwrap();
}
