//! Promise 20: an operator can look into SQLite.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};

use oneflight::store::{Erase, Soundness, StoreError, Upkeep};
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

#[tokio::test]
async fn a_tool_upgrades_nothing_by_looking_at_it() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, path) = (folder.path().join("missing.db"), folder.path().join("orders.db"));
    let options = || SqliteStore::options().without_migrations();
    assert!(options().open(&missing).await.is_err());
    assert!(options().schema_status(&missing).await.is_err());
    assert!(!missing.exists());

    let service = SqliteStore::open(&path).await.unwrap();
    let known = options().schema_status(&path).await.unwrap();
    assert_eq!((known.found, known.known, known.compatible_from), (6, 6, 6));
    assert!(known.is_complete());
    options().open(&path).await.unwrap();
    let older =
        "ALTER TABLE oneflight_records DROP COLUMN held; ALTER TABLE oneflight_records DROP COLUMN correlation_id;
                 DROP TABLE oneflight_paused; DROP INDEX oneflight_messages_topics;
                 ALTER TABLE oneflight_migrations DROP COLUMN compatible_from; DELETE FROM oneflight_migrations WHERE version > 3";
    sqlx::raw_sql(older).execute(service.pool()).await.unwrap();
    let answer = options().open(&path).await;
    assert!(matches!(answer, Err(StoreError::Unsupported { .. })), "{answer:?}");
    let status = options().schema_status(&path).await.unwrap();
    let versions: Vec<i64> = status.missing.iter().map(|(version, _)| *version).collect();
    assert_eq!((status.found, status.known, &*versions), (3, 6, &[4, 5, 6][..]));
    assert_eq!(status.compatible_from, 6, "once it is upgraded");

    let script = options().upgrade_sql(3);
    sqlx::raw_sql(sqlx::AssertSqlSafe(script))
        .execute(service.pool())
        .await
        .unwrap();
    assert_eq!(options().schema_status(&path).await.unwrap(), known);
    options().open(&path).await.unwrap();
}

#[tokio::test]
async fn what_is_printed_makes_the_same_tables() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours.db"), folder.path().join("theirs.db"));
    let ours = SqliteStore::open(ours).await.unwrap();
    let options = SqliteConnectOptions::new().filename(&theirs).create_if_missing(true);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let script = SqliteStore::options().migrations_sql();
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&pool).await.unwrap();
    let tables = async |pool| {
        let tables = "SELECT name || coalesce(sql, '') FROM sqlite_schema ORDER BY name";
        sqlx::query_scalar::<_, String>(tables).fetch_all(pool).await.unwrap()
    };
    assert_eq!(tables(ours.pool()).await, tables(&pool).await);
    SqliteStore::options()
        .without_migrations()
        .from_pool(pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_breaks_a_promise_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let verdict = async |store: &SqliteStore, name| {
        let findings = store.findings().await.unwrap();
        findings.into_iter().find(|it| it.name == name).map(|it| it.verdict)
    };
    for name in [
        "journal mode",
        "synchronous",
        "integrity",
        "schema",
        "other databases",
        "retention",
        "version",
    ] {
        assert_eq!(verdict(&store, name).await, Some(Soundness::Sound), "{name}");
    }
    let late = "INSERT INTO oneflight_records (scope, key, holder, attempt, state, claimed_at, completed_at, expires_at, result)
                VALUES ('a', 'b', zeroblob(16), 1, 'completed', 0, 0, 0, x'0103')";
    sqlx::raw_sql(late).execute(store.pool()).await.unwrap();
    assert_eq!(verdict(&store, "retention").await, Some(Soundness::Remarkable));
    store.close().await;

    let options = SqliteConnectOptions::new()
        .filename(&path)
        .journal_mode(sqlx::sqlite::SqliteJournalMode::Delete);
    let options = options.synchronous(sqlx::sqlite::SqliteSynchronous::Off);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap();
    let store = SqliteStore::from_pool(pool).await.unwrap();
    assert_eq!(verdict(&store, "journal mode").await, Some(Soundness::Remarkable));
    assert_eq!(verdict(&store, "synchronous").await, Some(Soundness::Broken));
}

#[tokio::test]
async fn the_input_and_the_steps_of_a_mutation_that_was_passed_over_are_erased_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("orders.db")).await.unwrap();
    let stale =
        "INSERT INTO oneflight_records (token, scope, key, holder, attempt, state, claimed_at, completed_at, expires_at, result)
         VALUES (7, 'a', 'b', zeroblob(16), 1, 'completed', 0, 0, 9000000000000, x'01030000');
         INSERT INTO oneflight_workflows (id, scope, key, token, name, version, input, started_at)
         VALUES (3, 'a', 'b', 3, 'order', '1', x'0100017365637265', 0);
         INSERT INTO oneflight_steps VALUES (3, 'pay', '', 3, NULL, x'0100017365637265', 0)";
    sqlx::raw_sql(stale).execute(store.pool()).await.unwrap();
    assert_eq!(store.erase("a", Erase::Answers, None, 10).await.unwrap().erased, 1);
    let left = "SELECT (SELECT count(*) FROM oneflight_workflows WHERE hex(input) LIKE '%736563%')
                     + (SELECT count(*) FROM oneflight_steps WHERE hex(result) LIKE '%736563%')";
    let left: i64 = sqlx::query_scalar(left).fetch_one(store.pool()).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(store.erase("a", Erase::Answers, None, 10).await.unwrap().erased, 0);
}
