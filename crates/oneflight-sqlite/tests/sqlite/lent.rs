//! Promises 10 to 13 on connections that others used before, and in whatever state they left them: in a transaction, with
//! other settings, with tables or databases of their own. Nothing is reported as done that cannot be seen from outside.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use oneflight::idempotency::{Effect, ErrorKind, Idempotency, Origin, Rollback, Tx};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store, StoreError};
use oneflight_sqlite::SqliteStore;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Connection, SqlitePool};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

async fn pool(path: &Path, mode: SqliteJournalMode, connections: u32) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(Duration::from_secs(5))
        .journal_mode(mode);
    SqlitePoolOptions::new()
        .max_connections(connections)
        .connect_with(options)
        .await
        .unwrap()
}

/// A store on a pool of the user's, and one of another process on the same file.
struct Shop {
    folder: TempDir,
    pool: SqlitePool,
    store: SqliteStore,
    elsewhere: SqliteStore,
}

impl Shop {
    async fn open(connections: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let pool = pool(&path, SqliteJournalMode::Wal, connections).await;
        sqlx::raw_sql(
            "CREATE TABLE orders (number INTEGER PRIMARY KEY);
             CREATE TABLE lines (number INTEGER REFERENCES orders);",
        )
        .execute(&pool)
        .await
        .unwrap();
        let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
        let elsewhere = SqliteStore::open(&path).await.unwrap();
        Self {
            folder,
            pool,
            store,
            elsewhere,
        }
    }

    /// Runs statements on every connection of the pool, and leaves it like that.
    async fn leave(&self, statements: &'static str) {
        let mut connections = Vec::new();
        for _ in 0..self.pool.options().get_max_connections() {
            let mut connection = self.in_no_transaction().await;
            sqlx::raw_sql(statements).execute(&mut *connection).await.unwrap();
            connections.push(connection);
        }
    }

    /// Takes a connection of the pool. The store may have had no use for it since it was left in a transaction.
    async fn in_no_transaction(&self) -> PoolConnection<Sqlite> {
        let mut connection = self.pool.acquire().await.unwrap();
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await;
        connection
    }

    /// Does one of everything, and looks from another process whether it was done.
    async fn check(&self, key: &str) {
        let idem = Idempotency::builder(self.store.clone()).build();
        let outside = id(&format!("outside {key}"));
        let reply = idem.run(outside.clone(), |_| async { 1 }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (1, Origin::Executed), "{key}");
        let record = self.elsewhere.load(&outside).await.unwrap();
        assert!(record.unwrap().result().is_some(), "{key}");
        let inside = id(&format!("inside {key}"));
        let reply = idem.run_in_tx(inside.clone(), order);
        let number = *reply.await.unwrap();
        let record = self.elsewhere.load(&inside).await.unwrap();
        assert!(record.unwrap().result().is_some(), "{key}");
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE number = ?")
            .bind(number)
            .fetch_one(self.elsewhere.pool())
            .await
            .unwrap();
        assert_eq!(found, 1, "{key}");
    }
}

async fn order(mut tx: Tx<SqliteStore>) -> Result<i64, Rollback<i64>> {
    let insert = sqlx::query("INSERT INTO orders DEFAULT VALUES");
    Ok(insert.execute(&mut *tx).await?.last_insert_rowid())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_left_open_on_every_connection_is_not_written_in() {
    let shop = Shop::open(6).await;
    for left in ["BEGIN", "BEGIN; SELECT count(*) FROM orders", "SAVEPOINT mine"] {
        shop.leave(left).await;
        shop.check(left).await;
    }
    // One that `sqlx` knows of.
    let mut connection = shop.in_no_transaction().await;
    std::mem::forget(connection.begin().await.unwrap());
    drop(connection);
    shop.check("forgotten").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_that_was_given_up_half_way_is_not_written_in() {
    let shop = Shop::open(1).await;
    for n in 0..20 {
        let mut begin = Box::pin(shop.pool.begin());
        for _ in 0..n % 5 {
            if futures::poll!(&mut begin).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(begin);
        shop.check(&format!("given up {n}")).await;
    }
}

#[tokio::test]
async fn what_was_done_meanwhile_is_seen_whatever_snapshot_a_connection_has_open() {
    let shop = Shop::open(1).await;
    let request = id("completed");
    let outcome = shop.elsewhere.claim(ClaimRequest::new(&request, Duration::ZERO)).await;
    let Ok(ClaimOutcome::Granted(claim)) = outcome else {
        panic!("{outcome:?}")
    };
    // In doubt in this snapshot, and completed since.
    shop.leave("BEGIN; SELECT count(*) FROM oneflight_records").await;
    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
    shop.elsewhere.complete(claim, result, MINUTE).await.unwrap();
    let idem = Idempotency::builder(shop.store.clone()).build();
    let reply = idem.run(request.clone(), |_| async { 2 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));

    shop.leave("BEGIN; SELECT count(*) FROM oneflight_records").await;
    let request = id("in doubt");
    let outcome = shop.elsewhere.claim(ClaimRequest::new(&request, Duration::ZERO)).await;
    assert!(matches!(outcome, Ok(ClaimOutcome::Granted(_))), "{outcome:?}");
    assert_eq!(shop.store.in_doubt(9, None).await.unwrap().len(), 1);
}

/// The pool of a store's own is the user's as well.
#[tokio::test]
async fn a_snapshot_left_open_on_a_connection_of_ours_is_not_believed() {
    let shop = Shop::open(1).await;
    let options = SqliteStore::options().max_readers(1);
    let store = options.open(shop.folder.path().join("shop.db")).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM oneflight_records")
        .execute(store.pool())
        .await
        .unwrap();
    let idem = Idempotency::builder(shop.elsewhere.clone()).build();
    assert_eq!(*idem.run(id("since"), |_| async { 1 }).await.unwrap(), 1);
    assert!(store.load(&id("since")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_read_given_up_half_way_leaves_no_snapshot_open() {
    let shop = Shop::open(1).await;
    for polls in 0..40 {
        {
            let request = id("read");
            let mut read = Box::pin(shop.store.load(&request));
            for _ in 0..polls / 2 {
                if futures::poll!(&mut read).is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(50 * polls)).await;
            }
        }
        let mut connection = shop.pool.acquire().await.unwrap();
        sqlx::raw_sql("BEGIN; ROLLBACK")
            .execute(&mut *connection)
            .await
            .expect("it was in no transaction");
    }
}

#[tokio::test]
async fn temporary_tables_do_not_stand_in_for_ours() {
    let shop = Shop::open(2).await;
    shop.leave(
        "CREATE TEMP TABLE oneflight_records AS SELECT * FROM oneflight_records;
         CREATE TEMP TABLE oneflight_migrations AS SELECT * FROM oneflight_migrations;",
    )
    .await;
    shop.check("shadowed").await;
    assert!(SqliteStore::from_pool(shop.pool.clone()).await.is_ok());
}

#[tokio::test]
async fn a_connection_that_may_only_read_is_replaced() {
    let shop = Shop::open(3).await;
    shop.leave("PRAGMA query_only = ON").await;
    shop.check("query_only").await;
}

#[tokio::test]
async fn durability_is_what_the_store_was_made_with() {
    let shop = Shop::open(2).await;
    shop.leave("PRAGMA synchronous = OFF").await;
    let idem = Idempotency::builder(shop.store.clone()).build();
    let synchronous = idem.run_in_tx(id("synchronous"), |mut tx| async move {
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *tx).await?;
        Ok(synchronous)
    });
    assert_eq!(*synchronous.await.unwrap(), 2);
    shop.check("synchronous").await;
}

#[tokio::test]
async fn what_concerns_the_users_tables_alone_is_as_the_connection_has_it() {
    let shop = Shop::open(1).await;
    for (setting, is_error) in [("PRAGMA foreign_keys = OFF", false), ("PRAGMA foreign_keys = ON", true)] {
        shop.leave(setting).await;
        let idem = Idempotency::builder(shop.store.clone()).build();
        let line = idem.run_in_tx(id(setting), |mut tx| async move {
            let insert = sqlx::query("INSERT INTO lines VALUES (77)");
            insert.execute(&mut *tx).await?;
            Ok(1)
        });
        assert_eq!(line.await.is_err(), is_error, "{setting}");
        shop.check(setting).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_lock_is_not_kept() {
    let shop = Shop::open(1).await;
    shop.leave("PRAGMA locking_mode = EXCLUSIVE").await;
    shop.check("exclusive").await;
    let idem = Idempotency::builder(shop.elsewhere.clone()).build();
    let reply = idem.run(id("elsewhere"), |_| async { 1 }).await.unwrap();
    assert_eq!(reply.origin(), Origin::Executed);
}

/// What work changes on the connection that it is given, whatever becomes of it, holds up no later call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_work_sets_on_its_connection_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let options = || SqliteStore::options().busy_deadline(Duration::from_secs(3));
    let store = options().open(&path).await.unwrap();
    let elsewhere = options().open(&path).await.unwrap();
    let (here, there) = (
        Idempotency::builder(store.clone()).build(),
        Idempotency::builder(elsewhere).build(),
    );
    let mut keys = 0;
    for setting in [
        "PRAGMA query_only = ON",
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA busy_timeout = 60000",
        "CREATE TEMP TABLE oneflight_records (x)",
    ] {
        for fails in [false, true] {
            keys += 1;
            let worked = here.run_in_tx(id(&format!("sets {keys}")), move |mut tx| async move {
                sqlx::raw_sql(setting).execute(&mut *tx).await?;
                if fails { Err(Rollback::failed("no")) } else { Ok(1) }
            });
            let _ = worked.await;
            // A renewal is a change by itself; a run is a transaction as well.
            let request = id(&format!("renewed {keys}"));
            let Ok(ClaimOutcome::Granted(claim)) = there.store().claim(ClaimRequest::new(&request, MINUTE)).await
            else {
                panic!("not granted after {setting}")
            };
            store
                .renew(&request, claim.token(), MINUTE * 2)
                .await
                .unwrap_or_else(|error| panic!("after {setting}, {fails}: {error}"));
            for idem in [&here, &there] {
                keys += 1;
                let reply = idem.run(id(&format!("next {keys}")), |_| async { 1 }).await;
                assert!(reply.is_ok(), "after {setting}, {fails}: {reply:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_no_longer_than_it_said_for_a_writer() {
    let shop = Shop::open(2).await;
    let mut writer = shop.elsewhere.pool().acquire().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *writer).await.unwrap();
    let request = id("patient");
    let asked = Instant::now();
    let claim = ClaimRequest::new(&request, MINUTE).patience(Duration::from_millis(300));
    let error = shop.store.claim(claim).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    // SQLite's own patience on this pool.
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    sqlx::raw_sql("COMMIT").execute(&mut *writer).await.unwrap();
    shop.check("after the wait").await;
    let mut connections = Vec::new();
    for _ in 0..2 {
        let mut connection = shop.pool.acquire().await.unwrap();
        let timeout: i64 = sqlx::query_scalar("PRAGMA busy_timeout")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(timeout, 5_000, "the user's connections are as they were");
        connections.push(connection);
    }
}

#[tokio::test]
async fn a_call_waits_no_longer_than_it_said_for_a_connection() {
    let shop = Shop::open(1).await;
    let _held = shop.pool.acquire().await.unwrap();
    let request = id("patient");
    let asked = Instant::now();
    let claim = ClaimRequest::new(&request, MINUTE).patience(Duration::from_millis(300));
    let error = shop.store.claim(claim).await.unwrap_err();
    assert!(matches!(error, StoreError::NoConnection), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_no_longer_than_it_said_for_a_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rollback-journal.db");
    let pool = pool(&path, SqliteJournalMode::Delete, 2).await;
    let store = SqliteStore::from_pool(pool.clone()).await.unwrap();
    // Without WAL, no reads while another connection writes to the file.
    let mut writer = pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut *writer).await.unwrap();
    let request = id("patient");
    let asked = Instant::now();
    let claim = ClaimRequest::new(&request, MINUTE).patience(Duration::from_millis(300));
    let error = store.claim(claim).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
}

/// In WAL mode, a commit over several files is one for each of them.
#[tokio::test]
async fn a_transaction_over_an_attached_database_is_refused() {
    let shop = Shop::open(1).await;
    let other = shop.folder.path().join("other.db");
    let mut connection = SqliteConnection::connect_with(
        &SqliteConnectOptions::new()
            .filename(&other)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal),
    )
    .await
    .unwrap();
    sqlx::query("CREATE TABLE ledger (n INTEGER)")
        .execute(&mut connection)
        .await
        .unwrap();
    let attach: &'static str = format!("ATTACH '{}' AS other", other.display()).leak();

    for store in [&shop.store, &shop.elsewhere] {
        let idem = Idempotency::builder(store.clone()).build();
        let inside = idem.run_in_tx(id("attached by the work"), move |mut tx| async move {
            sqlx::raw_sql(attach).execute(&mut *tx).await?;
            sqlx::query("INSERT INTO other.ledger VALUES (1)")
                .execute(&mut *tx)
                .await?;
            order(tx).await
        });
        let error = inside.await.unwrap_err();
        assert_eq!(error.effect(), Effect::Nothing, "{error:?}");
    }
    shop.leave(attach).await;
    let idem = Idempotency::builder(shop.store.clone()).build();
    let error = idem
        .run_in_tx(id("attached before"), |_| async {
            Err::<u32, _>(Rollback::failed("the work was called"))
        })
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Store(source) if matches!(source, StoreError::Unsupported { .. }))
            && error.effect() == Effect::Nothing,
        "{error:?}"
    );
    // Outside of a transaction, our record is all that is written.
    let reply = idem.run(id("outside"), |_| async { 1 }).await.unwrap();
    assert_eq!(reply.origin(), Origin::Executed);
    let entries: i64 = sqlx::query_scalar("SELECT count(*) FROM ledger")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(shop.elsewhere.pool())
        .await
        .unwrap();
    assert_eq!((entries, orders), (0, 0));
}
