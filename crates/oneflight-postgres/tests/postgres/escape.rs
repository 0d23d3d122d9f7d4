//! Promise 12 on PostgreSQL where the transaction belongs to the work: it may be given to functions and methods, and dropped
//! early. If it is still there when the work is over, it is ended, and what cannot be ended is said to be in doubt.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneflight::idempotency::{Effect, Error, ErrorKind, Idempotency, Origin, Rollback, Tx};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::StoreError;
use oneflight_postgres::PostgresStore;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection};
use tokio::sync::oneshot;

use crate::postgres::{Schema, server};

const ORDERS: &str = "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)";

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

async fn shop() -> (Schema, PostgresStore) {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    sqlx::raw_sql(ORDERS).execute(store.pool()).await.unwrap();
    (schema, store)
}

async fn orders(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn insert(connection: &mut PgConnection, item: &str) -> sqlx::Result<i64> {
    let insert = sqlx::query_scalar("INSERT INTO orders (item) VALUES ($1) RETURNING id");
    insert.bind(item).fetch_one(connection).await
}

async fn place(mut tx: Tx<PostgresStore>) -> Result<i64, Rollback<i64>> {
    Ok(insert(&mut tx, "tea").await?)
}

struct Shop {
    item: &'static str,
}

impl Shop {
    async fn place(self: Arc<Self>, mut tx: Tx<PostgresStore>) -> Result<i64, Rollback<i64>> {
        Ok(insert(&mut tx, self.item).await?)
    }
}

fn escaped(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Store(StoreError::TransactionEscaped)) && error.effect() == Effect::Nothing
}

fn perhaps_committed(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Store(StoreError::CommittedByWork)) && error.effect() == Effect::Unknown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_methods_and_closures_are_work_and_find_the_tables_names() {
    let (schema, store) = shop().await;
    let idem = Idempotency::builder(store).build();
    let shop = Arc::new(Shop { item: "coffee" });
    let numbers = [
        *idem.run_in_tx(id("function"), place).await.unwrap(),
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
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    let names = idem.run_in_tx(id("names"), |tx| async move {
        let names = tx.names();
        Ok((names.schema().map(str::to_owned), names.prefix().to_owned()))
    });
    assert_eq!(*names.await.unwrap(), (Some(schema.name), "oneflight_".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_drops_its_transaction_and_goes_on_is_committed() {
    let (_schema, store) = shop().await;
    let idem = Idempotency::builder(store.clone()).build();
    let work = idem.run_in_tx(id("k"), |mut tx| async move {
        let number = insert(&mut tx, "tea").await?;
        drop(tx);
        tokio::task::yield_now().await;
        Ok(number)
    });
    assert_eq!(*work.await.unwrap(), 1);
    assert_eq!(orders(store.pool()).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_transaction_that_escapes_nothing_is_kept_and_it_holds_nobody_up() {
    let (_schema, store) = shop().await;
    let idem = Idempotency::builder(store.clone()).build();
    let kept = Arc::new(Mutex::new(Vec::new()));
    for leaks in [false, true] {
        let held = Arc::clone(&kept);
        let work = idem.run_in_tx(id("k"), move |mut tx| async move {
            let number = insert(&mut tx, "stray").await?;
            match leaks {
                true => std::mem::forget(tx),
                false => held.lock().unwrap().push(tx),
            }
            Ok(number)
        });
        let error = work.await.unwrap_err();
        assert!(escaped(&error), "{error:?}");
        assert_eq!(orders(store.pool()).await, 0);
    }
    let mut tx = kept.lock().unwrap().pop().unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut *tx).await.unwrap_err();
    assert_eq!(orders(store.pool()).await, 0);
    // It is there still, and its request can be executed all the same.
    let reply = idem.run_in_tx(id("k"), place).await.unwrap();
    assert_eq!(reply.origin(), Origin::Executed);
    drop(tx);
    // One connection was leaked. The other ones are the pool's, and none is in a transaction.
    let mut lent = Vec::new();
    for _ in 0..3 {
        let mut connection = store.pool().acquire().await.unwrap();
        let assigned: Option<String> = sqlx::query_scalar("SELECT pg_current_xact_id_if_assigned()::text")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(assigned, None);
        lent.push(connection);
    }
    assert_eq!(orders_on(&mut lent[0]).await, 1);
}

async fn orders_on(connection: &mut PgConnection) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM orders");
    count.fetch_one(connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_the_work_does_not_wait_for_is_cut_off_in_the_middle_of_a_statement() {
    let (_schema, store) = shop().await;
    let idem = Idempotency::builder(store.clone()).build();
    let (tell, told) = oneshot::channel();
    let work = idem.run_in_tx(id("k"), move |mut tx| async move {
        insert(&mut tx, "stray").await?;
        let task = tokio::spawn(async move {
            let commits = sqlx::raw_sql("SELECT pg_sleep(60); COMMIT");
            commits.execute(&mut *tx).await.is_ok()
        });
        let _ = tell.send(task);
        Ok(1)
    });
    let error = work.await.unwrap_err();
    assert!(escaped(&error), "{error:?}");
    assert!(!told.await.unwrap().await.unwrap());
    assert_eq!(orders(store.pool()).await, 0);
    assert_eq!(idem.status(&id("k")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_fails_has_its_own_answer_whatever_it_did_with_the_transaction() {
    let (_schema, store) = shop().await;
    let idem = Idempotency::builder(store.clone()).build();
    let kept = Arc::new(Mutex::new(None));
    for panics in [false, true] {
        let held = Arc::clone(&kept);
        let work = idem.run_in_tx::<i64, _, _>(id("k"), move |mut tx| async move {
            insert(&mut tx, "stray").await?;
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
    }
    assert_eq!(*idem.run_in_tx(id("k"), place).await.unwrap(), 3);
    assert_eq!(orders(store.pool()).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_was_ended_before_it_escaped_is_in_doubt() {
    let (_schema, store) = shop().await;
    let idem = Idempotency::builder(store.clone()).build();
    let kept = Arc::new(Mutex::new(Vec::new()));
    for end in ["COMMIT", "ROLLBACK; BEGIN", "COMMIT; BEGIN"] {
        for fails in [false, true] {
            let held = Arc::clone(&kept);
            let request = id(&format!("{end} {fails}"));
            let before = orders(store.pool()).await;
            let work = idem.run_in_tx(request.clone(), move |mut tx| async move {
                insert(&mut tx, "kept").await?;
                sqlx::raw_sql(end).execute(&mut *tx).await?;
                held.lock().unwrap().push(tx);
                match fails {
                    true => Err(Rollback::failed("on purpose")),
                    false => Ok(1),
                }
            });
            let error = work.await.unwrap_err();
            assert!(perhaps_committed(&error), "{end}: {error:?}");
            let again = idem.run_in_tx(request, place).await.unwrap_err();
            assert!(
                matches!(again.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
                "{end}: {again:?}"
            );
            let mut tx = kept.lock().unwrap().pop().unwrap();
            insert(&mut tx, "kept").await.unwrap();
            sqlx::raw_sql("COMMIT").execute(&mut *tx).await.unwrap();
            assert!(orders(store.pool()).await > before, "{end}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_end_a_session_its_transaction_is_said_to_be_in_doubt() {
    let server = server();
    let mut operator = PgConnection::connect_with(&server.options(server.port()))
        .await
        .unwrap();
    for statement in ["CREATE DATABASE weak", "CREATE ROLE weak LOGIN"] {
        sqlx::raw_sql(statement).execute(&mut operator).await.unwrap();
    }
    let options = server.options(server.port()).database("weak");
    let mut operator = PgConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(
        "CREATE SCHEMA weak AUTHORIZATION weak;
         REVOKE EXECUTE ON FUNCTION pg_terminate_backend(int, bigint) FROM PUBLIC",
    )
    .execute(&mut operator)
    .await
    .unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .connect_lazy_with(options.username("weak").options([("search_path", "weak")]));
    let impatient = PostgresStore::options().patience(Duration::from_secs(2));
    let store = impatient.from_pool(pool.clone()).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(ORDERS)).execute(&pool).await.unwrap();
    let idem = Idempotency::builder(store).wait(Duration::from_millis(100)).build();
    let kept = Arc::new(Mutex::new(None));
    let held = Arc::clone(&kept);
    let work = idem.run_in_tx(id("k"), move |mut tx| async move {
        let number = insert(&mut tx, "perhaps").await?;
        *held.lock().unwrap() = Some(tx);
        Ok(number)
    });
    let error = work.await.unwrap_err();
    assert!(perhaps_committed(&error), "{error:?}");
    // As long as it is there, it is the claim.
    let error = idem.run_in_tx(id("k"), place).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InProgress { .. }), "{error:?}");
    drop(kept.lock().unwrap().take());
}
