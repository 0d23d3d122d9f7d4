//! The SQLite store on a pool of the user's, whatever state its connections and its database are in.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store};
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Row, SqlitePool};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

async fn pool(path: &Path, mode: SqliteJournalMode, connections: u32) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(Duration::from_millis(5))
        .journal_mode(mode);
    SqlitePoolOptions::new()
        .max_connections(connections)
        .connect_with(options)
        .await
        .unwrap()
}

#[tokio::test]
async fn what_is_recorded_is_not_part_of_a_transaction_that_the_user_left_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("open.db");
    let pool = pool(&path, SqliteJournalMode::Wal, 1).await;
    let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
    let elsewhere = SqliteStore::open(&path).await.unwrap();
    for operation in ["complete", "release", "renew"] {
        let request = id(operation);
        let outcome = store
            .claim(ClaimRequest::new(&request, Duration::from_secs(60)))
            .await
            .unwrap();
        let ClaimOutcome::Granted(claim) = outcome else {
            panic!("{outcome:?}")
        };
        // Left open on the only connection, and then rolled back: what was acknowledged must not go with it.
        sqlx::raw_sql("BEGIN").execute(&pool).await.unwrap();
        let token = claim.token();
        match operation {
            "complete" => {
                let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
                store.complete(claim, result, Duration::from_secs(60)).await.unwrap();
            }
            "release" => store.release(claim).await.unwrap(),
            _ => store.renew(&request, token, Duration::from_secs(600)).await.unwrap(),
        }
        let record = elsewhere.load(&request).await.unwrap();
        match operation {
            "complete" => assert!(record.unwrap().result().is_some()),
            "release" => assert!(record.is_none()),
            _ => assert!(record.unwrap().lease_remaining().unwrap() > Duration::from_secs(100)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_readers_hold_up_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rollback-journal.db");
    let pool = pool(&path, SqliteJournalMode::Delete, 4).await;
    let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
    sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY)")
        .execute(&pool)
        .await
        .unwrap();
    let idem = Idempotency::builder(store).build();
    for n in 0..3 {
        // Without WAL a reader keeps a writer from committing.
        let mut reader = pool.acquire().await.unwrap();
        sqlx::raw_sql("BEGIN; SELECT count(*) FROM orders")
            .execute(&mut *reader)
            .await
            .unwrap();
        let calls = {
            let idem = idem.clone();
            tokio::spawn(async move {
                idem.run_in_tx(id(&format!("held up {n}")), |mut tx| async move {
                    let insert = sqlx::query("INSERT INTO orders DEFAULT VALUES");
                    Ok(insert.execute(&mut *tx).await?.last_insert_rowid())
                })
                .await
            })
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!calls.is_finished());
        sqlx::raw_sql("COMMIT").execute(&mut *reader).await.unwrap();
        drop(reader);
        let reply = calls.await.unwrap().unwrap();
        assert_eq!((*reply, reply.origin()), (n + 1, Origin::Executed));
        let rows = sqlx::query("SELECT count(*) FROM orders")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(rows.get::<i64, _>(0), n + 1);
    }
}

#[tokio::test]
async fn a_deadline_beyond_measure_is_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deadline.db");
    let options = || SqliteStore::options().busy_deadline(Duration::MAX);
    for store in [
        options().open(&path).await.unwrap(),
        options()
            .from_pool(pool(&path, SqliteJournalMode::Wal, 2).await)
            .await
            .unwrap(),
    ] {
        let idem = Idempotency::builder(store).build();
        assert_eq!(*idem.run(id("run"), |_| async { 1 }).await.unwrap(), 1);
        assert_eq!(*idem.run_in_tx(id("in tx"), |_| async { Ok(2) }).await.unwrap(), 2);
    }
}
