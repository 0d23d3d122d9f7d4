//! The SQLite store and its database: our schema, the user's pool, connections that are given up half-way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures::future::join_all;
use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{ClaimOutcome, ClaimRequest, StepStore, Store, StoreError, StoreFailure};
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_open_a_new_file_at_once() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.db");
        let opens = (0..12).map(|_| tokio::spawn(SqliteStore::open(path.clone())));
        let stores: Vec<_> = join_all(opens)
            .await
            .into_iter()
            .map(|it| it.unwrap().unwrap())
            .collect();
        let migrations: Vec<i64> = sqlx::query_scalar("SELECT version FROM oneflight_migrations")
            .fetch_all(stores[0].pool())
            .await
            .unwrap();
        let once_each: Vec<i64> = (1..).take(migrations.len()).collect();
        assert_eq!(migrations, once_each);
        let claims = join_all(stores.iter().map(|store| async {
            let request = id("first");
            store
                .claim(ClaimRequest::new(&request, Duration::from_secs(9)))
                .await
                .unwrap()
        }))
        .await;
        let granted = claims
            .iter()
            .filter(|it| matches!(it, ClaimOutcome::Granted(_)))
            .count();
        assert_eq!(granted, 1);
    }
}

#[tokio::test]
async fn a_file_of_version_1_gets_the_tables_for_outbox_and_steps_and_keeps_its_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let old = "DROP TRIGGER oneflight_records_completed; DROP TRIGGER oneflight_records_deleted;
               DROP TABLE oneflight_steps; DROP TABLE oneflight_workflows;
               DROP TABLE oneflight_outbox; DROP TABLE oneflight_messages;
               DROP TABLE oneflight_relays; DROP TABLE oneflight_shards; DROP TABLE oneflight_paused;
               ALTER TABLE oneflight_records DROP COLUMN held; ALTER TABLE oneflight_records DROP COLUMN correlation_id;
               ALTER TABLE oneflight_migrations DROP COLUMN compatible_from;
               DELETE FROM oneflight_migrations WHERE version > 1";
    sqlx::raw_sql(old).execute(store.pool()).await.unwrap();
    let claim = "INSERT INTO oneflight_records (scope, key, holder, attempt, state, claimed_at, lease_expires_at)
                 VALUES ('tenant-7', 'old', zeroblob(16), 1, 'in_progress', 0, 1)";
    sqlx::query(claim).execute(store.pool()).await.unwrap();
    store.close().await;

    let store = SqliteStore::open(&path).await.unwrap();
    let doubtful = store.in_doubt(10, None).await.unwrap();
    assert_eq!(doubtful[0].id.key(), "old");
    assert_eq!(store.load_steps(&doubtful[0].id).await.unwrap(), None);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let newer = "INSERT INTO oneflight_migrations (version, description, applied_at) VALUES (99, 'from the future', 0)";
    sqlx::query(newer).execute(store.pool()).await.unwrap();
    for refused in [
        SqliteStore::open(&path).await,
        SqliteStore::from_pool(store.pool().clone()).await,
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::SchemaTooNew { found: 99, .. }), "{error:?}");
        assert!(error.to_string().contains("upgrade"), "{error}");
    }
}

#[tokio::test]
async fn a_file_keeps_its_records_and_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept.db");
    let mut last = None;
    for round in 0..3 {
        let store = SqliteStore::open(&path).await.unwrap();
        let request = id(&format!("round {round}"));
        let ClaimOutcome::Granted(claim) = store.claim(ClaimRequest::new(&request, Duration::ZERO)).await.unwrap()
        else {
            panic!("not granted")
        };
        assert!(Some(claim.token()) > last);
        last = Some(claim.token());
        store.release(claim).await.unwrap();
        let idem = Idempotency::builder(store.clone()).build();
        let reply = idem.run(id("same"), move |_| async move { round }).await.unwrap();
        assert_eq!(*reply, 0);
        store.close().await;
        assert!(store.load(&request).await.is_err(), "closed is closed");
    }
}

#[tokio::test]
async fn what_is_no_database_file_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    for path in [
        folder.path().to_path_buf(),
        folder.path().join("missing").join("file.db"),
    ] {
        let error = SqliteStore::open(&path).await.unwrap_err();
        let failure = StoreFailure::NotFound;
        assert!(
            matches!(error, StoreError::Failed { failure: found, .. } if found == failure),
            "{error:?}"
        );
    }
    let text = folder.path().join("text.db");
    std::fs::write(
        &text,
        "this is a text and not a database, and long enough to be looked at".repeat(50),
    )
    .unwrap();
    let error = SqliteStore::open(&text).await.unwrap_err();
    let failure = StoreFailure::Damaged;
    assert!(
        matches!(error, StoreError::Failed { failure: found, .. } if found == failure),
        "{error:?}"
    );
    for path in ["", ":memory:"] {
        let error = SqliteStore::open(path).await.unwrap_err();
        assert!(matches!(error, StoreError::Unsupported { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn our_files_are_durable_and_in_wal_mode() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("wal.db")).await.unwrap();
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(store.pool())
        .await
        .unwrap();
    let idem = Idempotency::builder(store).build();
    let synchronous = idem
        .run_in_tx(id("pragma"), |mut tx| async move {
            let full: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *tx).await?;
            Ok(full)
        })
        .await
        .unwrap();
    assert_eq!((mode.as_str(), *synchronous), ("wal", 2));
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_an_error_and_is_not_executed() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("corrupt.db")).await.unwrap();
    sqlx::raw_sql(
        "PRAGMA ignore_check_constraints = ON;
         INSERT INTO oneflight_records (scope, key, token, holder, attempt, state, claimed_at, lease_expires_at)
         VALUES ('tenant-7', 'corrupt', 1, x'00', 1, 'in_progress', 0, 0)",
    )
    .execute(store.pool())
    .await
    .unwrap();
    let idem = Idempotency::builder(store).build();
    let error = idem.run(id("corrupt"), |_| async { 1 }).await.unwrap_err();
    assert!(
        matches!(error.kind(), oneflight::idempotency::ErrorKind::Store(_)),
        "{error:?}"
    );
}

/// Drops calls after ever more polls, in every place where they wait, and checks that nothing stays locked or open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_dropped_anywhere_leaves_no_open_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let pool = SqlitePoolOptions::new()
        .max_connections(2)
        .connect_with(
            SqliteConnectOptions::new()
                .filename(folder.path().join("dropped.db"))
                .create_if_missing(true)
                .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal),
        )
        .await
        .unwrap();
    let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
    sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL)")
        .execute(&pool)
        .await
        .unwrap();

    for polls in 0..60 {
        let name = format!("dropped {polls}");
        let request = id(&name);
        let claim = store.claim(ClaimRequest::new(&request, Duration::from_secs(9)));
        drop_after(polls, claim).await;

        // A transaction without a flight, so that dropping it is dropping it.
        let name = format!("dropped in a transaction {polls}");
        let request = id(&name);
        let transact = oneflight::store::TransactionalStore::transact(
            &store,
            ClaimRequest::new(&request, Duration::ZERO),
            |mut open| async move {
                let insert = sqlx::query("INSERT INTO orders (item) VALUES ('half')");
                insert.execute(&mut *open).await.unwrap();
                tokio::task::yield_now().await;
                (oneflight::store::Ending::RollBack, ())
            },
        );
        drop_after(polls, transact).await;

        // The next one gets through, on whichever connection, and sees nothing half done.
        let deadline = Duration::from_secs(60);
        let idem = Idempotency::builder(store.clone()).build();
        let work = idem.run_in_tx(id(&format!("next {polls}")), |mut tx| async move {
            let half: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
                .fetch_one(&mut *tx)
                .await?;
            Ok(half)
        });
        let reply = tokio::time::timeout(deadline, work)
            .await
            .expect("not locked out")
            .unwrap();
        assert_eq!((*reply, reply.origin()), (0, Origin::Executed), "after {polls} polls");
    }
}

/// Polls a future so often, giving what it waits for time to happen, and drops it.
async fn drop_after<F: Future>(polls: u32, future: F) {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        if futures::poll!(&mut future).is_ready() {
            return;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

#[tokio::test]
async fn durations_beyond_measure_are_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let idem = Idempotency::builder(SqliteStore::open(folder.path().join("long.db")).await.unwrap())
        .wait(Duration::MAX)
        .lease(Duration::MAX)
        .retention(Duration::MAX)
        .build();
    assert_eq!(*idem.run(id("long"), |_| async { 1 }).await.unwrap(), 1);
    assert_eq!(*idem.run(id("long"), |_| async { 2 }).await.unwrap(), 1);
}

#[tokio::test]
async fn a_file_that_may_only_be_read_or_has_no_room_is_told_apart_from_one_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let ClaimOutcome::Granted(claim) = store
        .claim(ClaimRequest::new(&id("k"), Duration::from_secs(60)))
        .await
        .unwrap()
    else {
        panic!("not granted")
    };
    let token = claim.token();
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(store.pool())
        .await
        .unwrap();
    let options = || SqliteConnectOptions::new().filename(&path);
    let open = async |options| {
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options);
        SqliteStore::from_pool(pool.await.unwrap()).await.unwrap()
    };
    let failed = |error: StoreError, expected| {
        assert!(
            matches!(error, StoreError::Failed { failure, .. } if failure == expected),
            "{error:?}"
        );
        let told = error.to_string();
        assert!(told.contains("full.db") && !told.contains("not available"), "{told}");
    };
    let read_only = open(options().read_only(true)).await;
    let claimed = read_only
        .claim(ClaimRequest::new(&id("new"), Duration::from_secs(60)))
        .await;
    failed(claimed.unwrap_err(), StoreFailure::ReadOnly);

    let full = open(options().pragma("max_page_count", pages.to_string())).await;
    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, &[b' '; 1 << 20]);
    let completed = full.complete(claim, result, Duration::from_secs(60)).await;
    failed(completed.unwrap_err(), StoreFailure::Full);
    // Nothing was lost.
    assert_eq!(store.load(&id("k")).await.unwrap().unwrap().token, token);
}
