//! Promise 16: SQLite keeps the steps of mutations.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oneflight::store::StoreError;
use oneflight_conformance::{self as conformance, Ledger, Written};
use oneflight_sqlite::SqliteStore;
use sqlx::SqliteConnection;

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

#[derive(Clone)]
struct Shop(SqliteStore, Arc<tempfile::TempDir>);

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
        let table = sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY)");
        table.execute(store.pool()).await.unwrap();
        Self(store, Arc::new(folder))
    }
}

impl Ledger for Shop {
    type Store = SqliteStore;

    fn store(&self) -> &SqliteStore {
        &self.0
    }

    fn write<'c>(&self, connection: &'c mut SqliteConnection) -> Written<'c> {
        Box::pin(async move {
            sqlx::query("INSERT INTO orders DEFAULT VALUES")
                .execute(connection)
                .await?;
            Ok(())
        })
    }

    async fn rows(&self) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(self.0.pool());
        count.await.map_err(StoreError::unavailable)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_commits_steps_with_their_rows() {
    conformance::run_steps_in_transactions(Shop::open).await.unwrap();
}
