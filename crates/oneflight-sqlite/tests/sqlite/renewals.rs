//! A process renews all its leases in a few transactions, however many it holds; and what is wrong with one holds no other up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, FencingToken, RecordedResult, Verdict};
use oneflight::store::{Claim, Store, StoreError};
use oneflight_sqlite::SqliteStore;
use sqlx::Executor;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

const MINUTE: Duration = Duration::from_secs(60);
/// More than anything here takes that is not held up.
const SOON: Duration = Duration::from_secs(20);

fn id(number: usize) -> RequestIdentity {
    RequestIdentity::new(Scope::new(r#"cañón "表"\')"#), format!("k{number}")).unwrap()
}

/// A store on a file of its own, with connections of its own and on a pool of the user's.
async fn both() -> [(TempDir, SqliteStore); 2] {
    let (own, lent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = SqliteStore::options().synchronous(SqliteSynchronous::Off);
    let store = options.open(file(&own)).await.unwrap();
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(
        SqliteConnectOptions::new()
            .filename(file(&lent))
            .create_if_missing(true)
            .synchronous(SqliteSynchronous::Off)
            .journal_mode(SqliteJournalMode::Wal),
    );
    let on_pool = SqliteStore::from_pool(pool.await.unwrap()).await.unwrap();
    [(own, store), (lent, on_pool)]
}

fn file(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("records.db")
}

/// So many claims, of `id(0)` and those that follow.
async fn claims(store: &SqliteStore, count: usize, lease: Duration) -> Vec<FencingToken> {
    let tokens: Vec<i64> = sqlx::query_scalar(
        "WITH RECURSIVE numbers(number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number + 1 < ?2),
            instant AS (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)
         INSERT INTO oneflight_records (scope, key, holder, attempt, state, claimed_at, lease_expires_at)
         SELECT ?1, 'k' || number, randomblob(16), 1, 'in_progress', now, now + ?3 FROM numbers, instant
         RETURNING token",
    )
    .bind(id(0).scope())
    .bind(i64::try_from(count).unwrap())
    .bind(i64::try_from(lease.as_millis()).unwrap())
    .fetch_all(store.pool())
    .await
    .unwrap();
    tokens
        .into_iter()
        .map(|token| FencingToken::new(token.unsigned_abs()))
        .collect()
}

async fn remaining(store: &SqliteStore, number: usize) -> Duration {
    let record = store.load(&id(number)).await.unwrap().unwrap();
    record.lease_remaining().unwrap()
}

/// Renews these leases at the same moment.
async fn renewed(store: &SqliteStore, tokens: &[FencingToken], lease: Duration) -> Vec<Result<(), StoreError>> {
    let each = tokens.iter().enumerate().map(async |(number, token)| {
        let id = id(number);
        store.renew(&id, *token, lease).await
    });
    timeout(SOON, join_all(each)).await.expect("renewals take too long")
}

/// How many transactions stand in the log of a database, which is not begun anew while somebody reads what was at its beginning.
fn commits(database: &Path) -> usize {
    let log = std::fs::read(database.with_extension("db-wal")).unwrap();
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let (page, salts) = (number(8) as usize, [number(16), number(20)]);
    let frames = (32..log.len().saturating_sub(page + 23)).step_by(24 + page);
    // The last frame of a transaction has the size of the database.
    let is_commit = |at: &usize| [number(at + 8), number(at + 12)] == salts && number(at + 4) != 0;
    frames.filter(is_commit).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_leases_are_renewed_in_twenty_transactions_a_third() {
    const LEASES: usize = 10_000;
    for (folder, store) in both().await {
        let lease = Duration::from_secs(12);
        let tokens = claims(&store, LEASES, lease).await;
        let mut reader = store.pool().acquire().await.unwrap();
        let read = "BEGIN; SELECT count(*) FROM oneflight_records";
        reader.execute(read).await.unwrap();
        let before = commits(&file(&folder));

        let (third, begun) = (lease / 3, Instant::now());
        let mut renewing = JoinSet::new();
        for (number, token) in tokens.into_iter().enumerate() {
            let store = store.clone();
            renewing.spawn(async move {
                sleep(third.mul_f64(fastrand::f64())).await;
                let asked = Instant::now();
                store.renew(&id(number), token, lease).await.unwrap();
                asked.elapsed()
            });
        }
        let waited = renewing.join_all().await.into_iter().max().unwrap();
        // On a busy machine it takes longer than a third.
        let thirds = begun.elapsed().as_secs_f64().max(third.as_secs_f64()) / third.as_secs_f64();
        let commits = commits(&file(&folder)) - before;
        println!("{LEASES} leases in {commits} transactions and {thirds:.2} thirds, none in more than {waited:?}");
        assert!((10..).contains(&commits), "{commits}: this test no longer finds them");
        assert!(commits as f64 <= 20.0 * thirds, "{commits} in {thirds} thirds");
        reader.execute("ROLLBACK").await.unwrap();
        drop(reader);
        for number in [0, LEASES / 2, LEASES - 1] {
            // Each lasts from a moment after this test began to renew them. Clocks are read to the millisecond.
            let lasts = remaining(&store, number).await + begun.elapsed();
            assert!(lasts + Duration::from_millis(5) >= lease, "{number}: {lasts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_renewals_is_answered_for_itself() {
    for (_folder, store) in both().await {
        let mut tokens = claims(&store, 1_200, MINUTE).await;
        let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
        let claim = |number: usize| Claim::new(id(number), tokens[number], 1, None);
        store.complete(claim(7), result, MINUTE).await.unwrap();
        store.release(claim(300)).await.unwrap();
        // There is such a token, of another request.
        tokens[500] = tokens[501];
        // Some for longer, and some for no longer than they have; and some twice.
        let lease = |number: usize| MINUTE * u32::try_from(number % 3).unwrap();
        let asked = (0..1_200).chain([1, 2, 7, 500]);
        let each = asked
            .clone()
            .map(async |number| store.renew(&id(number), tokens[number], lease(number)).await);
        let twice = [MINUTE, MINUTE * 9, MINUTE * 2].map(async |lease| store.renew(&id(4), tokens[4], lease).await);
        let (each, twice) = tokio::join!(join_all(each), join_all(twice));
        for (number, renewed) in asked.zip(each) {
            match number {
                7 | 300 | 500 => assert!(
                    matches!(renewed, Err(StoreError::Outdated { token }) if token == tokens[number]),
                    "{number}: {renewed:?}"
                ),
                _ => renewed.unwrap(),
            }
        }
        assert!(twice.iter().all(Result::is_ok), "{twice:?}");
        for (number, least) in [
            (0, MINUTE / 2),
            (1, MINUTE / 2),
            (2, MINUTE),
            (1_199, MINUTE / 2),
            (4, MINUTE * 8),
        ] {
            assert!(remaining(&store, number).await > least, "{number}");
        }
        assert!(remaining(&store, 2).await <= MINUTE * 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_database_rejects_fails_alone() {
    for (_folder, store) in both().await {
        let tokens = claims(&store, 50, MINUTE).await;
        let rejects = "CREATE TRIGGER rejects BEFORE UPDATE ON oneflight_records WHEN NEW.key = 'k7'
                       BEGIN SELECT RAISE(ABORT, 'not this one'); END";
        store.pool().execute(rejects).await.unwrap();
        for (number, renewed) in renewed(&store, &tokens, MINUTE * 2).await.into_iter().enumerate() {
            assert_eq!(renewed.is_err(), number == 7, "{number}: {renewed:?}");
        }
        assert!(remaining(&store, 8).await > MINUTE);
        assert!(remaining(&store, 7).await <= MINUTE);
    }
}

/// Work that has the writer until it is told to end.
async fn hold(idem: &Idempotency<SqliteStore>) -> (oneshot::Sender<()>, JoinHandle<i32>) {
    let (begins, begun) = oneshot::channel();
    let (leaves, left) = oneshot::channel();
    let idem = idem.clone();
    let holding = tokio::spawn(async move {
        let key = RequestIdentity::new(Scope::new("holds"), "k").unwrap();
        let work = idem.run_in_tx(key, |_| async move {
            begins.send(()).unwrap();
            let _ = left.await;
            Ok(1)
        });
        *work.await.unwrap()
    });
    begun.await.unwrap();
    (leaves, holding)
}

/// What is gathered while a transaction has the writer waits for that one, and is a transaction for each window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_wait_for_one_transaction_and_not_for_those_behind_it() {
    for (folder, store) in both().await {
        let tokens = claims(&store, 300, MINUTE).await;
        let mut reader = store.pool().acquire().await.unwrap();
        let read = "BEGIN; SELECT count(*) FROM oneflight_records";
        reader.execute(read).await.unwrap();
        let idem = Idempotency::builder(store.clone()).build();
        let (leaves, holding) = hold(&idem).await;
        let before = commits(&file(&folder));
        let renewing = tokio::spawn({
            let store = store.clone();
            async move { renewed(&store, &tokens, MINUTE * 2).await }
        });
        // They stand in line.
        sleep(Duration::from_millis(200)).await;
        let behind = JoinSet::from_iter((0..20).map(|number| {
            let idem = idem.clone();
            async move {
                let key = RequestIdentity::new(Scope::new("behind"), format!("k{number}")).unwrap();
                *idem.run_in_tx(key, |_| async { Ok(1) }).await.unwrap()
            }
        }));
        assert!(!renewing.is_finished());
        leaves.send(()).unwrap();
        assert!(renewing.await.unwrap().iter().all(Result::is_ok));
        assert_eq!(holding.await.unwrap(), 1);
        assert_eq!(behind.join_all().await, [1; 20]);
        // The one that had the writer, one or two of renewals, and those behind.
        let commits = commits(&file(&folder)) - before;
        assert!(commits <= 1 + 2 + 20, "{commits}");
        reader.execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_has_the_writer_is_told_at_once_that_a_renewal_would_wait_for_it() {
    for (_folder, store) in both().await {
        let tokens = claims(&store, 1, MINUTE).await;
        let idem = Idempotency::builder(store.clone()).build();
        let (begun, token) = (Instant::now(), tokens[0]);
        let renewed = idem.run_in_tx(
            RequestIdentity::new(Scope::new("holds"), "k").unwrap(),
            move |_| async move {
                Ok(matches!(
                    store.renew(&id(0), token, MINUTE).await,
                    Err(StoreError::Unsupported { .. })
                ))
            },
        );
        assert!(*renewed.await.unwrap());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_database_rejects_costs_its_window_few_transactions() {
    for (folder, store) in both().await {
        let tokens = claims(&store, 500, MINUTE).await;
        let rejects = "CREATE TRIGGER rejects BEFORE UPDATE ON oneflight_records WHEN NEW.key = 'k7'
                       BEGIN SELECT json('[') FROM oneflight_records WHERE key = 'k7'; END";
        store.pool().execute(rejects).await.unwrap();
        let mut reader = store.pool().acquire().await.unwrap();
        let read = "BEGIN; SELECT count(*) FROM oneflight_records";
        reader.execute(read).await.unwrap();
        let (leaves, holding) = hold(&Idempotency::builder(store.clone()).build()).await;
        let before = commits(&file(&folder));
        let renewing = tokio::spawn(async move { renewed(&store, &tokens, MINUTE * 2).await });
        // They stand in line, however busy the machine is.
        sleep(Duration::from_millis(200)).await;
        assert!(!renewing.is_finished());
        leaves.send(()).unwrap();
        for (number, renewed) in renewing.await.unwrap().into_iter().enumerate() {
            assert_eq!(renewed.is_err(), number == 7, "{number}: {renewed:?}");
        }
        assert_eq!(holding.await.unwrap(), 1);
        // One is that of the work.
        let commits = commits(&file(&folder)) - before - 1;
        assert!((5..=20).contains(&commits), "{commits}");
        reader.execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_wanted_any_more_is_not_renewed_when_its_turn_comes() {
    for (_folder, store) in both().await {
        let tokens = claims(&store, 5, MINUTE).await;
        let idem = Idempotency::builder(store.clone()).build();
        let (leaves, holding) = hold(&idem).await;
        let asks = |number: usize| {
            let (store, token) = (store.clone(), tokens[number]);
            tokio::spawn(async move { store.renew(&id(number), token, MINUTE * 2).await })
        };
        // The first goes alone. After a window of more than a second, the others are a batch; all wait for the writer.
        let alone = asks(0);
        sleep(Duration::from_millis(200)).await;
        let (stays, gone, last) = (asks(1), asks(2), asks(3));
        sleep(Duration::from_secs(3)).await;
        for gone in [alone, gone] {
            gone.abort();
            assert!(gone.await.unwrap_err().is_cancelled());
        }
        // What has sent the one alone is woken by that, and leaves its line once it is polled.
        sleep(Duration::from_secs(1)).await;
        leaves.send(()).unwrap();
        for renewed in [stays, last] {
            timeout(SOON, renewed).await.unwrap().unwrap().unwrap();
        }
        assert_eq!(holding.await.unwrap(), 1);
        assert!(remaining(&store, 1).await > MINUTE);
        for number in [0, 2] {
            assert!(remaining(&store, number).await <= MINUTE, "{number}");
        }
    }
}
