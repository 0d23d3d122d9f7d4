//! Promise 12: exactly-once effect when the mutation runs in the store's own transaction. Rows and record commit
//! together or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join_all;
use oneflight::idempotency::{Effect, Error, ErrorKind, Idempotency, Origin, Recovery, Rollback, RollbackKind};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::State;
use oneflight::store::StoreError;
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

#[path = "../../../../tests/common/wrapped.rs"]
mod wrapped;

use wrapped::Wrapped;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

struct Shop {
    folder: TempDir,
    store: SqliteStore,
    idem: Idempotency<SqliteStore>,
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
        sqlx::raw_sql(
            "CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL);
             CREATE TABLE lines (order_number INTEGER REFERENCES orders DEFERRABLE INITIALLY DEFERRED);",
        )
        .execute(store.pool())
        .await
        .unwrap();
        let idem = Idempotency::builder(store.clone()).build();
        Self { folder, store, idem }
    }

    /// Another process on the same file.
    async fn elsewhere(&self) -> Idempotency<SqliteStore> {
        let store = SqliteStore::open(self.folder.path().join("shop.db")).await.unwrap();
        Idempotency::builder(store).build()
    }

    async fn orders(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM orders")
            .fetch_one(self.store.pool())
            .await
            .unwrap()
    }
}

async fn order(connection: &mut SqliteConnection, item: &str) -> sqlx::Result<i64> {
    let done = sqlx::query("INSERT INTO orders (item) VALUES (?)")
        .bind(item)
        .execute(connection)
        .await?;
    Ok(done.last_insert_rowid())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_make_one_row_and_all_get_its_number() {
    let shop = Shop::open().await;
    let calls = (0..200).map(|_| {
        let idem = shop.idem.clone();
        tokio::spawn(async move {
            idem.run_in_tx(id("one"), |mut tx| async move { Ok(order(&mut tx, "tea").await?) })
                .await
        })
    });
    let replies: Vec<_> = join_all(calls)
        .await
        .into_iter()
        .map(|it| it.unwrap().unwrap())
        .collect();
    assert_eq!(shop.orders().await, 1);
    assert!(replies.iter().all(|it| **it == 1));
    assert_eq!(replies.iter().filter(|it| it.origin() == Origin::Executed).count(), 1);

    let elsewhere = shop.elsewhere().await;
    let again = elsewhere.run_in_tx(id("one"), |_| async { Ok(2_i64) }).await.unwrap();
    assert_eq!((*again, again.origin()), (1, Origin::Replayed));
    assert_eq!(again.recorded(), replies[0].recorded());
}

#[tokio::test]
async fn what_fails_is_rolled_back_and_the_key_is_free() {
    let shop = Shop::open().await;
    for _ in 0..3 {
        let error = shop
            .idem
            .run_in_tx::<i64, _, _>(id("failed"), |mut tx| async move {
                order(&mut tx, "tea").await?;
                sqlx::query("INSERT INTO nowhere VALUES (1)").execute(&mut *tx).await?;
                Ok(1)
            })
            .await
            .unwrap_err();
        let ErrorKind::RolledBack { source, .. } = error.kind() else {
            panic!("{error:?}")
        };
        assert!(source.downcast_ref::<sqlx::Error>().is_some(), "{source:?}");
        assert_eq!((error.effect(), shop.orders().await), (Effect::Nothing, 0));
    }
    assert!(shop.idem.status(&id("failed")).await.unwrap().is_none());
    let reply = shop
        .idem
        .run_in_tx(id("failed").with_fingerprint("other"), |mut tx| async move {
            assert_eq!(tx.context().attempt(), 1);
            Ok(order(&mut tx, "tea").await?)
        })
        .await
        .unwrap();
    assert_eq!((reply.origin(), shop.orders().await), (Origin::Executed, 1));
}

#[tokio::test]
async fn what_is_refused_is_remembered_and_its_rows_are_rolled_back() {
    let shop = Shop::open().await;
    let executions = Arc::new(AtomicU32::new(0));
    for round in 0..3 {
        let executions = Arc::clone(&executions);
        let reply = shop
            .idem
            .run_in_tx(id("refused"), move |mut tx| async move {
                executions.fetch_add(1, Ordering::SeqCst);
                order(&mut tx, "tea").await?;
                Err(Rollback::Declined("out of tea".to_owned()))
            })
            .await
            .unwrap();
        assert_eq!(reply.as_str(), "out of tea");
        assert!(reply.is_declined());
        assert_eq!(reply.is_cached(), round > 0);
    }
    assert_eq!((executions.load(Ordering::SeqCst), shop.orders().await), (1, 0));
    let done = shop.idem.run_in_tx(id("done"), |_| async { Ok(1) }).await.unwrap();
    assert!(!done.is_declined());
}

#[tokio::test]
async fn a_panic_is_rolled_back_and_the_key_is_free() {
    let shop = Shop::open().await;
    let calls = (0..5).map(|_| {
        shop.idem.run_in_tx::<i64, _, _>(id("panic"), |mut tx| async move {
            order(&mut tx, "tea").await?;
            panic!("out of paper")
        })
    });
    for error in join_all(calls).await.into_iter().map(Result::unwrap_err) {
        let ErrorKind::Panicked(panic) = error.kind() else {
            panic!("{error:?}")
        };
        assert_eq!((panic.message(), error.effect()), ("out of paper", Effect::Nothing));
    }
    let reply = shop
        .idem
        .run_in_tx(id("panic"), |mut tx| async move { Ok(order(&mut tx, "tea").await?) })
        .await
        .unwrap();
    assert_eq!((*reply, reply.origin(), shop.orders().await), (1, Origin::Executed, 1));
}

#[tokio::test]
async fn a_result_that_is_too_large_is_rolled_back_and_the_key_is_free() {
    let shop = Shop::open().await;
    let small = Idempotency::builder(shop.store.clone()).max_result_bytes(100).build();
    let error = small
        .run_in_tx(id("large"), |mut tx| async move {
            order(&mut tx, "tea").await?;
            Ok("x".repeat(1_000))
        })
        .await
        .unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::ResultTooLarge {
                size: 1_002,
                limit: 100,
                ..
            }
        ) && error.effect() == Effect::Nothing,
        "{error:?}"
    );
    assert_eq!(shop.orders().await, 0);
    let reply = small
        .run_in_tx(id("large"), |_| async { Ok(String::new()) })
        .await
        .unwrap();
    assert_eq!(reply.origin(), Origin::Executed);
}

#[tokio::test]
async fn a_commit_that_the_database_refuses_is_rolled_back_and_the_key_is_free() {
    let shop = Shop::open().await;
    let error = shop
        .idem
        .run_in_tx(id("deferred"), |mut tx| async move {
            // Checked at the commit, and not before.
            sqlx::query("INSERT INTO lines VALUES (77)").execute(&mut *tx).await?;
            Ok(1)
        })
        .await
        .unwrap_err();
    let ErrorKind::RolledBack { source, .. } = error.kind() else {
        panic!("{error:?}")
    };
    assert!(
        matches!(source.downcast_ref(), Some(StoreError::RolledBack { .. })),
        "{source:?}"
    );
    let lines: i64 = sqlx::query_scalar("SELECT count(*) FROM lines")
        .fetch_one(shop.store.pool())
        .await
        .unwrap();
    assert_eq!(lines, 0);
    let reply = shop.idem.run_in_tx(id("deferred"), |_| async { Ok(2) }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (2, Origin::Executed));
}

#[tokio::test]
async fn another_payload_is_a_conflict() {
    let shop = Shop::open().await;
    let one = id("payload").with_fingerprint("one");
    let first = shop.idem.run_in_tx(one, |_| async { Ok(1) }).await.unwrap();
    assert_eq!(*first, 1);
    for other in [id("payload").with_fingerprint("two"), id("payload")] {
        let error = shop.idem.run_in_tx(other, |_| async { Ok(2) }).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Conflict), "{error:?}");
    }
}

#[tokio::test]
async fn nested_transactions_of_the_user_are_savepoints() {
    let shop = Shop::open().await;
    let reply = shop
        .idem
        .run_in_tx(id("nested"), |mut tx| async move {
            let mut kept = tx.begin().await?;
            order(&mut kept, "kept").await?;
            kept.commit().await?;
            let mut dropped = tx.begin().await?;
            order(&mut dropped, "dropped").await?;
            drop(dropped);
            let mut rolled_back = tx.begin().await?;
            order(&mut rolled_back, "rolled back").await?;
            rolled_back.rollback().await?;
            Ok(order(&mut tx, "outer").await?)
        })
        .await
        .unwrap();
    assert_eq!(reply.origin(), Origin::Executed);
    let items: Vec<String> = sqlx::query_scalar("SELECT item FROM orders ORDER BY number")
        .fetch_all(shop.store.pool())
        .await
        .unwrap();
    assert_eq!(items, ["kept", "outer"]);
}

#[tokio::test]
async fn a_claim_outside_of_a_transaction_is_respected_and_the_other_way_round() {
    let shop = Shop::open().await;
    let elsewhere = shop.elsewhere().await;
    let impatient = Idempotency::builder(elsewhere.store().clone())
        .wait(Duration::from_millis(50))
        .build();

    let finish = Arc::new(tokio::sync::Notify::new());
    let holder = tokio::spawn({
        let (idem, finish) = (shop.idem.clone(), Arc::clone(&finish));
        async move {
            let work = |_| async move {
                finish.notified().await;
                1
            };
            idem.run(id("outside"), work).await
        }
    });
    while shop.idem.status(&id("outside")).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let error = impatient
        .run_in_tx(id("outside"), |_| async { Ok(2) })
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InProgress { .. }), "{error:?}");
    let waiter = tokio::spawn(async move { elsewhere.run_in_tx(id("outside"), |_| async { Ok(2) }).await });
    finish.notify_one();
    assert_eq!(*holder.await.unwrap().unwrap(), 1);
    let reply = waiter.await.unwrap().unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));

    // And `run` is answered from what a transaction recorded.
    let inside = shop.idem.run_in_tx(id("inside"), |_| async { Ok(3) }).await.unwrap();
    assert_eq!(*inside, 3);
    let reply = impatient.run(id("inside"), |_| async { 4 }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (3, Origin::Replayed));
}

#[tokio::test]
async fn a_dead_holder_outside_of_a_transaction_is_a_matter_of_policy_inside_one_too() {
    let shop = Shop::open().await;
    let outside = |idem: Idempotency<SqliteStore>| async move {
        let error = idem
            .run(id("dead"), |_| async { panic!("died") })
            .await
            .map(|it: oneflight::idempotency::Reply<u32>| *it);
        assert!(
            matches!(error.as_ref().map_err(Error::kind), Err(ErrorKind::Panicked(_))),
            "{error:?}"
        );
    };
    outside(shop.idem.clone()).await;
    let error = shop.idem.run_in_tx(id("dead"), |_| async { Ok(1) }).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
        "{error:?}"
    );
    let bold = Idempotency::builder(shop.store.clone())
        .recovery(Recovery::Rerun)
        .build();
    let failed = bold
        .run_in_tx::<u32, _, _>(id("dead"), |_| async { Err(Rollback::failed("no")) })
        .await;
    assert!(matches!(
        failed.as_ref().map_err(Error::kind),
        Err(ErrorKind::RolledBack { .. })
    ));
    // A transaction that was rolled back leaves the doubt as it was.
    let error = shop.idem.run_in_tx(id("dead"), |_| async { Ok(1) }).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
        "{error:?}"
    );
    let reply = bold
        .run_in_tx(id("dead"), |tx| async move { Ok(tx.context().attempt()) })
        .await
        .unwrap();
    assert_eq!((*reply, reply.attempt()), (2, 2));
}

#[tokio::test]
async fn a_pool_of_the_users_with_one_connection_is_enough() {
    let pool = sqlx::sqlite::SqlitePoolOptions::new()
        .max_connections(1)
        .connect("sqlite::memory:")
        .await
        .unwrap();
    sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL)")
        .execute(&pool)
        .await
        .unwrap();
    let idem = Idempotency::builder(SqliteStore::from_pool(pool.clone()).await.unwrap()).build();
    let calls = (0..20).map(|n| {
        let idem = &idem;
        async move {
            idem.run_in_tx(id(&format!("{}", n % 4)), |mut tx| async move {
                Ok(order(&mut tx, "tea").await?)
            })
            .await
            .unwrap()
        }
    });
    let _ = join_all(calls).await;
    let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(orders, 4);
}

#[tokio::test]
async fn callers_who_all_leave_leave_a_whole_transaction() {
    let shop = Shop::open().await;
    let call = shop.idem.run_in_tx(id("left"), |mut tx| async move {
        order(&mut tx, "tea").await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(order(&mut tx, "milk").await?)
    });
    assert!(tokio::time::timeout(Duration::from_millis(20), call).await.is_err());
    shop.idem.drain().await;
    assert_eq!(shop.orders().await, 2);
    let reply = shop.idem.run_in_tx(id("left"), |_| async { Ok(0_i64) }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (2, Origin::Replayed));
}

#[test]
fn a_process_that_dies_in_the_middle_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dies.db");
    let process = tokio::runtime::Runtime::new().unwrap();
    let store = process.block_on(SqliteStore::open(&path)).unwrap();
    let (wrote, writes) = std::sync::mpsc::channel();
    process.block_on(async {
        sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT NOT NULL)")
            .execute(store.pool())
            .await
            .unwrap();
    });
    let idem = Idempotency::builder(store.clone()).build();
    process.spawn(async move {
        idem.run_in_tx::<i64, _, _>(id("dies"), move |mut tx| async move {
            order(&mut tx, "tea").await?;
            wrote.send(()).unwrap();
            std::future::pending().await
        })
        .await
    });
    writes.recv().unwrap();
    drop(process);
    drop(store);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut connection = SqliteConnection::connect(&format!("sqlite:{}", path.display()))
            .await
            .unwrap();
        let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(orders, 0);
        let idem = Idempotency::builder(SqliteStore::open(&path).await.unwrap()).build();
        let reply = idem
            .run_in_tx(id("dies"), |mut tx| async move { Ok(order(&mut tx, "tea").await?) })
            .await
            .unwrap();
        assert_eq!((*reply, reply.origin()), (1, Origin::Executed));
    });
}

#[tokio::test]
async fn work_that_would_wait_for_its_own_transaction_is_told_so_at_once() {
    let shop = Shop::open().await;
    let inner = shop.idem.clone();
    let asked = std::time::Instant::now();
    let reply = shop
        .idem
        .run_in_tx(id("outer"), |_| async move {
            let nested = inner.run_in_tx(id("inner"), |_| async { Ok(1) }).await;
            let claimed = inner.run(id("claimed"), |_| async { 1 }).await;
            Ok(matches!(nested.as_ref().map_err(Error::kind), Err(ErrorKind::Store(_)))
                && matches!(claimed.as_ref().map_err(Error::kind), Err(ErrorKind::Store(_))))
        })
        .await
        .unwrap();
    assert!(*reply);
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_follower_learns_what_the_leaders_panic_means() {
    let shop = Shop::open().await;
    let inside = |key| {
        shop.idem.run_in_tx::<u32, _, _>(id(key), |_| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            panic!("inside")
        })
    };
    let outside = |key| {
        shop.idem.run(id(key), |_| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if true {
                panic!("outside");
            }
            0_u32
        })
    };
    let (leader, follower) = tokio::join!(inside("inside leads"), outside("inside leads"));
    for error in [leader.unwrap_err(), follower.unwrap_err()] {
        assert!(
            matches!(error.kind(), ErrorKind::Panicked(_)) && error.effect() == Effect::Nothing,
            "{error:?}"
        );
    }
    let (leader, follower) = tokio::join!(outside("outside leads"), inside("outside leads"));
    for error in [leader.unwrap_err(), follower.unwrap_err()] {
        assert!(
            matches!(error.kind(), ErrorKind::Panicked(_)) && error.effect() == Effect::Unknown,
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_transaction_may_have_another_retention() {
    let shop = Shop::open().await;
    let hour = Duration::from_secs(3600);
    let brief = shop.idem.with_retention(hour);
    let _ = brief
        .run_in_tx(id("brief"), |mut tx| async move { Ok(order(&mut tx, "tea").await?) })
        .await
        .unwrap();
    let record = shop.idem.status(&id("brief")).await.unwrap().unwrap();
    let State::Completed { completed, expires, .. } = record.state else {
        panic!("{record:?}");
    };
    assert_eq!(expires, completed.after(hour));
}

/// A table that rejects what is twice, less than one, of an unknown customer, or nothing.
async fn strict_shop() -> Shop {
    let shop = Shop::open().await;
    sqlx::raw_sql(
        "CREATE TABLE people (name TEXT PRIMARY KEY);
         CREATE TABLE strict (code TEXT UNIQUE, amount INTEGER NOT NULL CHECK (amount > 0),
                              owner TEXT REFERENCES people DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO strict VALUES ('taken', 1, NULL);",
    )
    .execute(shop.store.pool())
    .await
    .unwrap();
    shop
}

#[tokio::test]
async fn what_the_database_refuses_for_good_is_told_apart_from_what_may_be_tried_again() {
    let shop = strict_shop().await;
    for (key, values) in [
        ("unique", "('taken', 1, NULL)"),
        ("check", "('new', 0, NULL)"),
        ("not null", "('new', NULL, NULL)"),
        // Found at the commit only.
        ("foreign key", "('new', 1, 'nobody')"),
    ] {
        let insert = sqlx::AssertSqlSafe(format!("INSERT INTO strict VALUES {values}"));
        let error = shop
            .idem
            .run_in_tx::<i64, _, _>(id(key), |mut tx| async move {
                sqlx::query(insert).execute(&mut *tx).await?;
                Ok(1)
            })
            .await
            .unwrap_err();
        let problem = oneflight::http::Problem::from(error.clone());
        assert_eq!(
            (problem.status().as_u16(), problem.retry_after()),
            (500, None),
            "{key}: {error}"
        );
        // A log that prints no more than the error says why.
        assert!(error.to_string().contains("onstraint"), "{key}: {error}");
    }
    // It is not the table that is in the way.
    let error = shop
        .idem
        .run_in_tx::<i64, _, _>(id("other"), |mut tx| async move {
            sqlx::query("INSERT INTO nowhere VALUES (1)").execute(&mut *tx).await?;
            Ok(1)
        })
        .await
        .unwrap_err();
    let problem = oneflight::http::Problem::from(error.clone());
    assert_eq!(problem.status(), 503, "{error}");
    assert!(problem.retry_after().is_some(), "{error}");
}

#[tokio::test]
async fn a_violation_is_told_apart_however_its_error_is_wrapped() {
    let shop = strict_shop().await;
    for wrapped in Wrapped::ALL {
        for (statement, expected) in [
            ("INSERT INTO strict VALUES ('taken', 1, NULL)", RollbackKind::Violation),
            ("INSERT INTO nowhere VALUES (1)", RollbackKind::Failure),
        ] {
            let work = shop.idem.run_in_tx::<i64, _, _>(id("k"), move |mut tx| async move {
                let inserted = sqlx::query(statement).execute(&mut *tx).await;
                inserted.map_err(|error| Rollback::failed(wrapped.wrap(error)))?;
                Ok(1)
            });
            let error = work.await.unwrap_err();
            let ErrorKind::RolledBack { kind, .. } = error.kind() else {
                panic!("{error:?}")
            };
            assert_eq!(*kind, expected, "{wrapped:?}: {error}");
        }
    }
}

/// What claims stands in the text of a statement, in whatever encoding the file has.
#[tokio::test]
async fn a_scope_is_itself_whatever_is_written_in_it() {
    let folder = tempfile::tempdir().unwrap();
    for encoding in ["UTF-8", "UTF-16"] {
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join(format!("{encoding}'s.db")))
            .create_if_missing(true)
            .pragma("encoding", format!("'{encoding}'"))
            .journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
        let found: String = sqlx::query_scalar("PRAGMA encoding").fetch_one(&pool).await.unwrap();
        assert!(found.starts_with(encoding), "{found}");
        let store = SqliteStore::from_pool(pool).await.unwrap();
        let idem = Idempotency::builder(store).build();
        for (n, tenant) in [
            "o'brien",
            "'",
            "''); ROLLBACK; --",
            "\\",
            "é 表 \u{1F980}",
            "x'00'",
            "?1",
        ]
        .into_iter()
        .enumerate()
        {
            let request = RequestIdentity::new(Scope::new(tenant).route("POST /it's"), "k'1").unwrap();
            let request = request.with_fingerprint(tenant);
            for origin in [Origin::Executed, Origin::Replayed] {
                let reply = idem
                    .run_in_tx(request.clone(), move |_| async move { Ok(n) })
                    .await
                    .unwrap();
                assert_eq!((*reply, reply.origin()), (n, origin), "{tenant}");
            }
        }
    }
}
