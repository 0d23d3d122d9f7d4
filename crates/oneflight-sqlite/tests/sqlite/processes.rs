//! Promises 10 to 12 over one SQLite file: several `Idempotency`, each with its own pools, stand for several
//! processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::SqliteSynchronous;
use tempfile::TempDir;
use tokio::task::JoinSet;

const PROCESSES: usize = 4;
const KEYS: usize = 100;
const DUPLICATES: usize = 50;

fn id(key: usize) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), format!("key-{key}"))
        .unwrap()
        .with_fingerprint(key.to_be_bytes())
}

async fn processes() -> (TempDir, Vec<Idempotency<SqliteStore>>) {
    let folder = tempfile::tempdir().unwrap();
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        // What is tested does not depend on the disk.
        let options = SqliteStore::options().synchronous(SqliteSynchronous::Off);
        let store = options.open(folder.path().join("orders.db")).await.unwrap();
        processes.push(Idempotency::builder(store).wait(Duration::from_secs(60)).build());
    }
    sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY, key INTEGER NOT NULL)")
        .execute(processes[0].store().pool())
        .await
        .unwrap();
    (folder, processes)
}

/// Every key has one row, and every caller of a key got its number.
async fn check(store: &SqliteStore, replies: &[(usize, i64, Origin)]) {
    let rows: Vec<(i64, i64)> = sqlx::query_as("SELECT key, number FROM orders ORDER BY key")
        .fetch_all(store.pool())
        .await
        .unwrap();
    assert_eq!(rows.len(), KEYS, "one row a key");
    assert!(rows.iter().zip(0..).all(|((key, _), expected)| *key == expected));
    assert_eq!(replies.len(), KEYS * DUPLICATES);
    for (key, number, _) in replies {
        assert_eq!(*number, rows[*key].1, "the answer to another request");
    }
    let count = |source| replies.iter().filter(|reply| reply.2 == source).count();
    assert_eq!(count(Origin::Executed), KEYS);
    println!(
        "collapsed {}, replayed {}",
        count(Origin::Collapsed),
        count(Origin::Replayed)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_duplicates_of_each_of_a_hundred_keys_make_one_row_a_key_in_a_transaction() {
    let (_folder, processes) = processes().await;
    let mut calls = JoinSet::new();
    for n in 0..KEYS * DUPLICATES {
        let (idem, key) = (processes[n % PROCESSES].clone(), n / PROCESSES % KEYS);
        calls.spawn(async move {
            let reply = idem
                .run_in_tx(id(key), move |mut tx| async move {
                    let insert = sqlx::query("INSERT INTO orders (key) VALUES (?)").bind(key as i64);
                    Ok(insert.execute(&mut *tx).await?.last_insert_rowid())
                })
                .await
                .unwrap();
            (key, *reply, reply.origin())
        });
    }
    check(processes[0].store(), &calls.join_all().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_duplicates_of_each_of_a_hundred_keys_are_executed_once_a_key_outside_of_one() {
    let (_folder, processes) = processes().await;
    let mut calls = JoinSet::new();
    for n in 0..KEYS * DUPLICATES {
        let (idem, key) = (processes[n % PROCESSES].clone(), n / PROCESSES % KEYS);
        calls.spawn(async move {
            let pool = idem.store().pool().clone();
            let work = move |_| async move {
                let insert = sqlx::query("INSERT INTO orders (key) VALUES (?)").bind(key as i64);
                insert.execute(&pool).await.unwrap().last_insert_rowid()
            };
            let reply = idem.run(id(key), work).await.unwrap();
            (key, *reply, reply.origin())
        });
    }
    check(processes[0].store(), &calls.join_all().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_another_process_holds_for_long_is_waited_for() {
    let (_folder, processes) = processes().await;
    let mut other = processes[1].store().pool().acquire().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *other).await.unwrap();
    let calls: Vec<_> = (0..20)
        .map(|key| {
            let idem = processes[0].clone();
            tokio::spawn(async move { *idem.run(id(key), move |_| async move { key }).await.unwrap() })
        })
        .collect();
    // Longer than SQLite's own patience on the writer.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(calls.iter().all(|call| !call.is_finished()));
    sqlx::raw_sql("COMMIT").execute(&mut *other).await.unwrap();
    for (key, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), key);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_does_not_wait_for_the_writer() {
    let (_folder, processes) = processes().await;
    let _ = processes[0].run(id(1), |_| async { 1 }).await.unwrap();
    let mut other = processes[1].store().pool().acquire().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *other).await.unwrap();
    let asked = Instant::now();
    for idem in &processes {
        let reply = idem.run(id(1), |_| async { 2 }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
        let reply = idem.run_in_tx(id(1), |_| async { Ok(2) }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
    }
    assert!(asked.elapsed() < Duration::from_secs(2));
    sqlx::raw_sql("ROLLBACK").execute(&mut *other).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_never_given_up_is_busy_at_the_deadline_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("busy.db");
    let deadline = Duration::from_millis(300);
    let store = SqliteStore::options()
        .busy_deadline(deadline)
        .open(&path)
        .await
        .unwrap();
    let other = SqliteStore::open(&path).await.unwrap();
    let mut other = other.pool().acquire().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *other).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let asked = Instant::now();
    let error = idem.run_in_tx(id(1), |_| async { Ok(1) }).await.unwrap_err();
    let oneflight::idempotency::ErrorKind::Store(source) = error.kind() else {
        panic!("{error:?}")
    };
    assert!(
        matches!(source, oneflight::store::StoreError::Busy { .. }),
        "{source:?}"
    );
    assert_eq!(error.effect(), oneflight::idempotency::Effect::Nothing);
    assert!(asked.elapsed() >= deadline && asked.elapsed() < deadline * 10);
    sqlx::raw_sql("ROLLBACK").execute(&mut *other).await.unwrap();
    let reply = idem.run_in_tx(id(1), |_| async { Ok(1) }).await.unwrap();
    assert_eq!(reply.origin(), Origin::Executed);
}
