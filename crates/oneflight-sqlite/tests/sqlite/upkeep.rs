//! Promises 11 and 20: an operator can look into SQLite.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};

use oneflight_conformance as conformance;
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_look_into_it() {
    let folder = tempfile::tempdir().unwrap();
    let files = AtomicU64::new(0);
    let make = async || {
        let name = format!("{}.db", files.fetch_add(1, Ordering::Relaxed));
        SqliteStore::open(folder.path().join(name)).await.unwrap()
    };
    conformance::run_upkeep(make).await.unwrap();
    conformance::run_upkeep_of_steps(make).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_look_into_it_over_a_pool() {
    let make = async || {
        let options = SqliteConnectOptions::new().pragma("recursive_triggers", "ON");
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options);
        SqliteStore::from_pool(pool.await.unwrap()).await.unwrap()
    };
    conformance::run_upkeep(make).await.unwrap();
    conformance::run_upkeep_of_steps(make).await.unwrap();
}
