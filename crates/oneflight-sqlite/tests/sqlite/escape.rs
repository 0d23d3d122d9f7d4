//! Promise 12 where the transaction belongs to the work: it may be given to functions and methods, and dropped early. If it
//! is still there when the work is over, nothing is kept, the caller is told, and no call hangs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oneflight::idempotency::{Effect, Error, ErrorKind, Idempotency, Origin, Rollback, Tx};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::StoreError;
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Connection, SqlitePool};
use tempfile::TempDir;
use tokio::sync::oneshot;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

/// A store on its own file, and one on a pool of the user's. Neither waits for long.
async fn stores() -> (TempDir, [SqliteStore; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let hasty = SqliteStore::options().busy_deadline(Duration::from_secs(1));
    let own = hasty.clone().open(folder.path().join("own.db")).await.unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("theirs.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new()
        .max_connections(3)
        .connect_with(options)
        .await
        .unwrap();
    let theirs = hasty.from_pool(pool).await.unwrap();
    for store in [&own, &theirs] {
        sqlx::raw_sql("CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL)")
            .execute(store.pool())
            .await
            .unwrap();
    }
    (folder, [own, theirs])
}

fn over(store: &SqliteStore) -> Idempotency<SqliteStore> {
    let idem = Idempotency::builder(store.clone());
    idem.wait(Duration::from_secs(1)).build()
}

async fn orders(pool: &SqlitePool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn insert(connection: &mut SqliteConnection, item: &str) -> sqlx::Result<i64> {
    let insert = sqlx::query("INSERT INTO orders (item) VALUES (?)").bind(item);
    Ok(insert.execute(connection).await?.last_insert_rowid())
}

async fn place(mut tx: Tx<SqliteStore>) -> Result<i64, Rollback<i64>> {
    Ok(insert(&mut tx, "tea").await?)
}

struct Shop {
    item: &'static str,
}

impl Shop {
    async fn place(self: Arc<Self>, mut tx: Tx<SqliteStore>) -> Result<i64, Rollback<i64>> {
        Ok(insert(&mut tx, self.item).await?)
    }

    async fn place_anything(tx: Tx<SqliteStore>) -> Result<i64, Rollback<i64>> {
        place(tx).await
    }
}

fn escaped(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Store(StoreError::TransactionEscaped)) && error.effect() == Effect::Nothing
}

fn busy(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Store(StoreError::Busy { .. })) && error.effect() == Effect::Nothing
}

/// Executes a request for as long as the store is busy with a transaction that is being rolled back.
async fn soon(idem: &Idempotency<SqliteStore>, request: &RequestIdentity) -> i64 {
    let since = Instant::now();
    loop {
        match idem.run_in_tx(request.clone(), place).await {
            Ok(reply) => {
                assert_eq!(reply.origin(), Origin::Executed);
                return *reply;
            }
            Err(error) if busy(&error) && since.elapsed() < Duration::from_secs(20) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn functions_methods_and_closures_are_work() {
    let (_folder, [store, _]) = stores().await;
    let idem = over(&store);
    let shop = Arc::new(Shop { item: "coffee" });
    let numbers = [
        *idem.run_in_tx(id("function"), place).await.unwrap(),
        *idem.run_in_tx(id("associated"), Shop::place_anything).await.unwrap(),
        *idem
            .run_in_tx(id("method"), {
                let shop = Arc::clone(&shop);
                |tx| shop.place(tx)
            })
            .await
            .unwrap(),
        *idem
            .run_in_tx(id("closure"), |mut tx| async move {
                let mut nested = tx.begin().await?;
                let number = insert(&mut nested, "milk").await?;
                nested.commit().await?;
                if tx.context().attempt() > 1 {
                    return Err(Rollback::Declined(0));
                }
                Ok(number)
            })
            .await
            .unwrap(),
        *idem.run_in_tx_retrying(id("retrying"), place).await.unwrap(),
        *idem
            .run_in_tx_retrying(id("retrying method"), move |tx| Arc::clone(&shop).place(tx))
            .await
            .unwrap(),
    ];
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn any_error_and_a_rollback_pass_by_a_question_mark() {
    let (_folder, [store, _]) = stores().await;
    let idem = over(&store);
    let missing = idem.run_in_tx(id("sqlx"), |mut tx| async move {
        insert(&mut tx, "tea").await?;
        sqlx::query("SELECT * FROM nowhere").fetch_one(&mut *tx).await?;
        Ok(1)
    });
    let error = missing.await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RolledBack { .. }), "{error:?}");
    let broken = idem.run_in_tx(id("io"), |tx| async move {
        drop(tx);
        let number: i64 = Err(io::Error::other("out of paper"))?;
        Ok(number)
    });
    let error = broken.await.unwrap_err();
    assert!(error.to_string().ends_with("out of paper"), "{error}");
    let declines = |_| async { Err::<i64, _>(Rollback::Declined(7)) };
    for origin in [Origin::Executed, Origin::Replayed] {
        let declined = idem.run_in_tx(id("declined"), move |tx| async move {
            let number = declines(tx).await?;
            Ok(number + 1)
        });
        let reply = declined.await.unwrap();
        assert_eq!((*reply, reply.origin()), (7, origin));
    }
    assert_eq!(orders(store.pool()).await, 0);
}

#[tokio::test]
async fn work_that_drops_its_transaction_and_goes_on_is_committed() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        let idem = over(store);
        let work = idem.run_in_tx(id("k"), |mut tx| async move {
            let number = insert(&mut tx, "tea").await?;
            drop(tx);
            tokio::task::yield_now().await;
            Ok(number)
        });
        assert_eq!(*work.await.unwrap(), 1);
        assert_eq!(orders(store.pool()).await, 1);
    }
}

#[tokio::test]
async fn of_a_transaction_that_escapes_nothing_is_kept_and_others_are_told_that_the_store_is_busy() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        let idem = over(store);
        let kept = Arc::new(Mutex::new(None));
        let held = Arc::clone(&kept);
        let work = idem.run_in_tx(id("k"), move |mut tx| async move {
            let number = insert(&mut tx, "tea").await?;
            *held.lock().unwrap() = Some(tx);
            Ok(number)
        });
        let error = work.await.unwrap_err();
        assert!(escaped(&error), "{error:?}");
        for key in ["k", "another"] {
            let asked = Instant::now();
            let error = idem.run_in_tx(id(key), place).await.unwrap_err();
            assert!(busy(&error), "{error:?}");
            assert!(asked.elapsed() < Duration::from_secs(5));
        }
        // It can still be used, and commits nothing.
        let mut tx = kept.lock().unwrap().take().unwrap();
        insert(&mut tx, "more").await.unwrap();
        sqlx::raw_sql("COMMIT").execute(&mut *tx).await.unwrap_err();
        let _ = insert(&mut tx, "stray").await;
        let _ = sqlx::raw_sql("BEGIN; INSERT INTO orders (item) VALUES ('stray'); COMMIT")
            .execute(&mut *tx)
            .await;
        assert_eq!(orders(store.pool()).await, 0);
        drop(tx);
        assert_eq!(soon(&idem, &id("k")).await, 1);
        assert_eq!(orders(store.pool()).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_the_work_does_not_wait_for_commits_nothing() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        let idem = over(store);
        let (tell, told) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let work = idem.run_in_tx(id("k"), move |mut tx| async move {
            let task = tokio::spawn(async move {
                let mut writes = 0;
                let mut ended = ended;
                while ended.try_recv().is_err() {
                    writes += u32::from(insert(&mut tx, "stray").await.is_ok());
                    tokio::task::yield_now().await;
                }
                let committed = sqlx::raw_sql("COMMIT").execute(&mut *tx).await;
                (writes, committed.is_ok())
            });
            let _ = tell.send(task);
            Ok(1)
        });
        let error = work.await.unwrap_err();
        assert!(escaped(&error), "{error:?}");
        let task = told.await.unwrap();
        tokio::task::yield_now().await;
        end.send(()).unwrap();
        let (_, committed) = task.await.unwrap();
        assert!(!committed);
        assert_eq!(soon(&idem, &id("k")).await, 1);
        assert_eq!(orders(store.pool()).await, 1);
    }
}

#[tokio::test]
async fn a_transaction_that_is_leaked_hangs_nobody() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        let idem = over(store);
        let work = idem.run_in_tx(id("k"), |mut tx| async move {
            insert(&mut tx, "tea").await?;
            std::mem::forget(tx);
            Ok(1)
        });
        let error = work.await.unwrap_err();
        assert!(escaped(&error), "{error:?}");
        let error = idem.run_in_tx(id("k"), place).await.unwrap_err();
        assert!(busy(&error), "{error:?}");
        // Reading goes on.
        assert!(idem.status(&id("k")).await.unwrap().is_none());
        assert_eq!(orders(store.pool()).await, 0);
    }
}

#[tokio::test]
async fn work_that_fails_or_panics_has_its_own_answer_whatever_it_did_with_the_transaction() {
    let (_folder, stores) = stores().await;
    for store in &stores {
        let idem = over(store);
        for panics in [false, true] {
            let kept = Arc::new(Mutex::new(None));
            let held = Arc::clone(&kept);
            let work = idem.run_in_tx::<i64, _, _>(id("k"), move |mut tx| async move {
                insert(&mut tx, "tea").await?;
                *held.lock().unwrap() = Some(tx);
                assert!(!panics, "out of paper");
                Err(Rollback::failed("out of paper"))
            });
            let error = work.await.unwrap_err();
            let own = match panics {
                true => matches!(error.kind(), ErrorKind::Panicked(_)),
                false => matches!(error.kind(), ErrorKind::RolledBack { .. }),
            };
            assert!(own && error.effect() == Effect::Nothing, "{error:?}");
            drop(kept);
        }
        // On the stack, it comes back by unwinding.
        let work = idem.run_in_tx::<i64, _, _>(id("k"), |mut tx| async move {
            insert(&mut tx, "tea").await?;
            panic!("out of ink");
        });
        let error = work.await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Panicked(_)), "{error:?}");
        soon(&idem, &id("k")).await;
        assert_eq!(orders(store.pool()).await, 1);
    }
}

#[test]
fn a_transaction_that_outlives_its_runtime_keeps_nothing() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let (folder, [store, _]) = first.block_on(stores());
    let kept = Arc::new(Mutex::new(None));
    let held = Arc::clone(&kept);
    let (begins, begun) = oneshot::channel();
    let idem = over(&store);
    first.spawn(async move {
        let work = idem.run_in_tx::<i64, _, _>(id("k"), move |mut tx| async move {
            insert(&mut tx, "tea").await?;
            *held.lock().unwrap() = Some(tx);
            let _ = begins.send(());
            std::future::pending().await
        });
        work.await
    });
    first.block_on(begun).unwrap();
    first.shutdown_background();
    // Neither within a runtime nor while one is there.
    drop(kept.lock().unwrap().take().unwrap());
    drop(store);
    runtime().block_on(async {
        let hasty = SqliteStore::options().busy_deadline(Duration::from_secs(1));
        let store = hasty.open(folder.path().join("own.db")).await.unwrap();
        soon(&over(&store), &id("k")).await;
        assert_eq!(orders(store.pool()).await, 1);
    });
}
