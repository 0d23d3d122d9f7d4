//! A later version may upgrade a file that this one uses. What it only adds leaves this version at work; what it breaks with this
//! version is said.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store, StoreError};
use oneflight_conformance as conformance;
use oneflight_sqlite::SqliteStore;
use sqlx::AssertSqlSafe;

/// Upgrades a file as a version after this one would, from which on it works with the version `compatible_from`.
async fn upgrade(store: &SqliteStore, version: i64, compatible_from: i64) {
    let added = format!(
        "BEGIN IMMEDIATE;
         ALTER TABLE oneflight_records ADD COLUMN of_{version} INTEGER NOT NULL DEFAULT 7;
         ALTER TABLE oneflight_messages ADD COLUMN of_{version} TEXT;
         ALTER TABLE oneflight_workflows ADD COLUMN of_{version} BLOB;
         ALTER TABLE oneflight_steps ADD COLUMN of_{version} TEXT NOT NULL DEFAULT '';
         CREATE INDEX oneflight_records_of_{version} ON oneflight_records (of_{version});
         CREATE TABLE oneflight_of_{version} (one INTEGER PRIMARY KEY);
         INSERT INTO oneflight_migrations (version, description, applied_at, compatible_from)
         VALUES ({version}, 'of tomorrow', 0, {compatible_from});
         COMMIT"
    );
    sqlx::raw_sql(AssertSqlSafe(added)).execute(store.pool()).await.unwrap();
}

/// The newest version that is known here.
async fn known() -> i64 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("known.db");
    SqliteStore::open(&path).await.unwrap();
    SqliteStore::options().schema_status(&path).await.unwrap().known
}

async fn is_granted(store: &SqliteStore, key: &str) -> bool {
    let id = RequestIdentity::new(Scope::new("tenant-7"), key).unwrap();
    let claimed = store.claim(ClaimRequest::new(&id, Duration::from_secs(60))).await;
    matches!(claimed.unwrap(), ClaimOutcome::Granted(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_to_which_later_versions_have_added_is_opened_and_worked_with() {
    let folder = tempfile::tempdir().unwrap();
    let (files, known) = (AtomicU64::new(0), known().await);
    let path = || -> PathBuf {
        let name = format!("{}.db", files.fetch_add(1, Ordering::Relaxed));
        folder.path().join(name)
    };
    let upgraded = async |path: &PathBuf| {
        let store = SqliteStore::open(path).await.unwrap();
        assert!(is_granted(&store, "before").await);
        for added in 1..=2 {
            upgrade(&store, known + added, known).await;
        }
        assert!(is_granted(&store, "after").await, "a store that is open goes on");
        sqlx::raw_sql("DELETE FROM oneflight_records")
            .execute(store.pool())
            .await
            .unwrap();
        store.close().await;
    };
    let make = async || {
        let path = path();
        upgraded(&path).await;
        SqliteStore::open(&path).await.unwrap()
    };
    conformance::run(make).await.unwrap();
    conformance::run_steps(make).await.unwrap();
    conformance::run_outbox(make).await.unwrap();

    let path = path();
    upgraded(&path).await;
    let options = SqliteStore::options;
    let status = options().schema_status(&path).await.unwrap();
    assert_eq!((status.found, status.known), (known + 2, known));
    assert_eq!((status.compatible_from, status.missing), (known, Vec::new()));
    options().without_migrations().open(&path).await.unwrap();
}

#[tokio::test]
async fn a_file_with_which_a_later_version_breaks_is_an_error_that_says_which_version_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let (path, known) = (folder.path().join("broken.db"), known().await);
    let store = SqliteStore::open(&path).await.unwrap();
    upgrade(&store, known + 1, known).await;
    upgrade(&store, known + 2, known + 2).await;
    // What is added after that does not mend it.
    upgrade(&store, known + 3, known + 2).await;
    let options = SqliteStore::options;
    assert_eq!(options().schema_status(&path).await.unwrap().compatible_from, known + 2);
    for error in [
        options().open(&path).await.unwrap_err(),
        options().without_migrations().open(&path).await.unwrap_err(),
        SqliteStore::from_pool(store.pool().clone()).await.unwrap_err(),
    ] {
        let StoreError::SchemaTooNew {
            found, compatible_from, ..
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!((found, compatible_from), (known + 3, known + 2));
        let told = format!("needs version {} or newer", known + 2);
        assert!(error.to_string().contains(&told), "{error}");
    }
}
