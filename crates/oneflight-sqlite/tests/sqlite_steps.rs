//! Promise 16: SQLite keeps the steps of mutations.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};

use oneflight_conformance as conformance;
use oneflight_sqlite::SqliteStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_steps() {
    let folder = tempfile::tempdir().unwrap();
    let files = AtomicU64::new(0);
    conformance::run_steps(async || {
        let name = format!("{}.db", files.fetch_add(1, Ordering::Relaxed));
        SqliteStore::open(folder.path().join(name)).await.unwrap()
    })
    .await
    .unwrap();
}

/// Where recursive triggers are on, a record that is replaced is deleted first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_steps_on_a_pool_with_settings_of_its_own() {
    conformance::run_steps(async || {
        let options = sqlx::sqlite::SqliteConnectOptions::new().pragma("recursive_triggers", "ON");
        let pool = sqlx::sqlite::SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .unwrap();
        SqliteStore::from_pool(pool).await.unwrap()
    })
    .await
    .unwrap();
}
