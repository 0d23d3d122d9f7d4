//! The connection on which a store writes beside a pool of the user's: what of the pool it does without, what it waits for, and
//! when it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError};
use oneflight_sqlite::SqliteStore;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use tempfile::TempDir;
use tokio::runtime::Builder;

const MINUTE: Duration = Duration::from_secs(60);
/// What nothing here takes, however busy the machine is.
const LONG: Duration = Duration::from_secs(50);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

fn options(path: &Path) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    options.journal_mode(SqliteJournalMode::Wal)
}

struct Shop {
    _folder: TempDir,
    path: PathBuf,
    pool: SqlitePool,
    store: SqliteStore,
}

impl Shop {
    async fn open(connections: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let pool = SqlitePoolOptions::new().max_connections(connections);
        let pool = pool.connect_with(options(&path)).await.unwrap();
        let store = SqliteStore::options().busy_deadline(LONG);
        let store = store.from_pool(pool.clone()).await.unwrap();
        Self {
            _folder: folder,
            path,
            pool,
            store,
        }
    }

    async fn claim(&self, key: &str) -> Claim {
        match self.store.claim(ClaimRequest::new(&id(key), MINUTE)).await {
            Ok(ClaimOutcome::Granted(claim)) => claim,
            other => panic!("not granted: {other:?}"),
        }
    }

    async fn complete(&self, claim: Claim) -> Result<(), StoreError> {
        let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
        self.store.complete(claim, result, MINUTE).await
    }
}

#[tokio::test]
async fn what_is_under_way_is_recorded_while_the_user_has_the_only_connection() {
    let shop = Shop::open(1).await;
    let [completed, released, renewed] = ["completed", "released", "renewed"].map(|key| shop.claim(key));
    let (completed, released, renewed) = (completed.await, released.await, renewed.await);
    let mut users = shop.pool.acquire().await.unwrap();
    let look = sqlx::raw_sql("BEGIN; SELECT count(*) FROM oneflight_records");
    look.execute(&mut *users).await.unwrap();
    let waits = Instant::now();
    shop.complete(completed).await.unwrap();
    shop.store.release(released).await.unwrap();
    let renew = shop.store.renew(renewed.id(), renewed.token(), MINUTE * 5);
    renew.await.unwrap();
    // The pool says that it has none to lend before that.
    assert!(waits.elapsed() < LONG / 2, "{:?}", waits.elapsed());
    drop(users);
    let record = async |key| shop.store.load(&id(key)).await.unwrap();
    assert!(record("completed").await.unwrap().result().is_some());
    assert_eq!(record("released").await, None);
    assert!(record("renewed").await.unwrap().lease_remaining() > Some(MINUTE * 2));
}

/// Nobody borrows the connection that has the lock, but the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_left_in_the_way_on_an_idle_connection_is_found_and_ended() {
    for left in ["BEGIN IMMEDIATE", "BEGIN; CREATE TABLE left_behind (n INTEGER)"] {
        for connections in [1, 3] {
            let shop = Shop::open(connections).await;
            let claim = shop.claim("held up").await;
            let mut idle = Vec::new();
            for _ in 1..connections {
                idle.push(shop.pool.acquire().await.unwrap());
            }
            let mut leaves = shop.pool.acquire().await.unwrap();
            sqlx::raw_sql(left).execute(&mut *leaves).await.unwrap();
            drop((idle, leaves));
            let waits = Instant::now();
            shop.complete(claim).await.unwrap();
            assert!(waits.elapsed() < LONG / 2, "{left}: {:?}", waits.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_is_closed_takes_the_connection_beside_it_along() {
    let shop = Shop::open(2).await;
    let claim = shop.claim("late").await;
    let log = shop.path.with_extension("db-wal");
    assert!(log.exists());
    shop.pool.close().await;
    is_closed(&log).await;
    let late = shop.complete(claim).await;
    assert!(matches!(late, Err(StoreError::NoConnection)), "{late:?}");
    assert!(!log.exists(), "it was opened anew");
}

/// In a runtime that has ended, and in one that rests, in which no task goes on.
#[test]
fn a_pool_that_is_closed_takes_it_along_whatever_runtime_it_was_made_in() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    for ends in [false, true] {
        let opener = runtime();
        let shop = opener.block_on(Shop::open(2));
        let opener = (!ends).then_some(opener);
        let log = shop.path.with_extension("db-wal");
        runtime().block_on(async {
            let [first, late] = ["first", "late"].map(|key| shop.claim(key));
            let (first, late) = (first.await, late.await);
            assert!(log.exists());
            shop.pool.close().await;
            if ends {
                is_closed(&log).await;
            }
            let first = shop.complete(first).await;
            assert!(matches!(first, Err(StoreError::NoConnection)), "{first:?}");
            is_closed(&log).await;
            let late = shop.store.renew(late.id(), late.token(), MINUTE).await;
            assert!(matches!(late, Err(StoreError::NoConnection)), "{late:?}");
            assert!(!log.exists(), "it was opened anew");
        });
        drop(opener);
    }
}

/// Waits until the last connection is closed, which deletes the log.
async fn is_closed(log: &Path) {
    let closes = Instant::now();
    while log.exists() {
        assert!(closes.elapsed() < LONG, "the file is still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_store_that_is_closed_or_dropped_leaves_nothing_open() {
    for closes in [true, false] {
        let shop = Shop::open(2).await;
        drop(shop.claim("any").await);
        let log = shop.path.with_extension("db-wal");
        let (pool, store) = (shop.pool, shop.store);
        match closes {
            true => {
                store.close().await;
                assert!(!log.exists(), "it has not waited");
            }
            false => {
                drop(store);
                pool.close().await;
            }
        }
        is_closed(&log).await;
    }
}

/// A key of an encrypted file, say, may be given by either.
#[tokio::test]
async fn it_is_made_by_the_options_of_the_pool_and_with_its_hooks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hooked.db");
    let connected = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&connected);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .after_connect(move |connection, _| {
            counts.fetch_add(1, SeqCst);
            Box::pin(async move {
                let sets = sqlx::raw_sql("CREATE TEMP TABLE IF NOT EXISTS mine (n INTEGER)");
                sets.execute(connection).await.map(drop)
            })
        });
    // A trigger that each of them has to have a function for.
    let pool = pool.connect_with(options(&path).collation("mine", |left, right| left.cmp(right)));
    let pool = pool.await.unwrap();
    let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
    assert_eq!(connected.load(SeqCst), 2);
    let noted = "CREATE TABLE notes (key TEXT COLLATE mine PRIMARY KEY);
                 CREATE TRIGGER noted AFTER INSERT ON oneflight_records
                 BEGIN INSERT INTO notes VALUES (NEW.key); END";
    sqlx::raw_sql(noted).execute(&pool).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let reply = idem.run(id("noted"), |_| async { 1 }).await.unwrap();
    assert_eq!(reply.origin(), Origin::Executed);
    let notes: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(notes, 1);
}
