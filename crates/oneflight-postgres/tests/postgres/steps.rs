//! Promise 16: PostgreSQL keeps the steps of mutations.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::idempotency::{StepError, Steps, Stopped};
use oneflight::store::{Claim, StepStore, Store, StoreError};
use oneflight::{ErrorKind, Idempotency, RequestIdentity, Scope};
use oneflight_conformance::{self as conformance, Failure, Ledger, Written};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::{PgConnection, PgPoolOptions};

use crate::postgres::{Server, server};
use crate::proxy::Proxy;

#[derive(Clone)]
struct Orders(PostgresStore);

impl Ledger for Orders {
    type Store = PostgresStore;

    fn store(&self) -> &PostgresStore {
        &self.0
    }

    fn write<'c>(&self, connection: &'c mut PgConnection) -> Written<'c> {
        Box::pin(async move {
            sqlx::query("INSERT INTO orders DEFAULT VALUES")
                .execute(connection)
                .await?;
            Ok(())
        })
    }

    async fn rows(&self) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM orders").fetch_one(self.0.pool());
        Ok(u64::try_from(count.await.map_err(StoreError::unavailable)?).unwrap())
    }
}

/// A store in a schema of its own, whose connections are isolated like this unless they say otherwise.
async fn orders(isolation: &str, prepares: bool) -> Orders {
    let mut schema = server().schema().await;
    schema.options = schema.options.options([("default_transaction_isolation", isolation)]);
    let mut options = PostgresStore::options();
    if !prepares {
        options = options.without_prepared_statements();
    }
    let store = options.from_pool(schema.pool(8)).await.unwrap();
    let table = "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)";
    sqlx::query(table).execute(store.pool()).await.unwrap();
    Orders(store)
}

fn kept(checked: Result<(), Failure>) {
    if let Err(failure) = checked {
        panic!("{failure}: {:?}", failure.source());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_steps() {
    kept(conformance::run_steps(async || orders("read committed", true).await.0).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_steps_without_prepared_statements() {
    kept(conformance::run_steps(async || orders("read committed", false).await.0).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_steps_in_a_database_that_is_serializable_unless_told_otherwise() {
    kept(conformance::run_steps(async || orders("serializable", true).await.0).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_commits_steps_with_their_rows() {
    for isolation in ["read committed", "repeatable read", "serializable"] {
        kept(conformance::run_steps_in_transactions(async || orders(isolation, true).await).await);
    }
    kept(conformance::run_steps_in_transactions(async || orders("read committed", false).await).await);
}

/// What is counted on the wire, once it is quiet there.
async fn trips(proxy: &Proxy, before: &mut usize) -> usize {
    let mut seen = proxy.round_trips();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        match proxy.round_trips() {
            now if now == seen => break,
            now => seen = now,
        }
    }
    seen - std::mem::replace(before, seen)
}

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), key).unwrap()
}

/// One for the claim with what the mutation is started with, one for each step, one for the result. A step in a
/// transaction has two beside what the transaction has anyway, of which one writes. A resume has no more than a start.
#[tokio::test]
async fn a_step_is_one_round_trip_and_a_resume_reads_all_of_them_in_one() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    // The pool tests no connection, so that what is counted is ours.
    let pool = PgPoolOptions::new().max_connections(1).test_before_acquire(false);
    let pool = pool.connect_lazy_with(schema.options.clone().port(proxy.port()));
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let run = |key: String, lines: u32, end: Result<(), &'static str>| {
        idem.run_steps(id(&key), &7, move |steps| async move {
            for line in 0..lines {
                steps
                    .run_keyed("line", line, |_| async { Ok::<_, io::Error>(line) })
                    .await?;
            }
            steps
                .run_in_tx("book", |mut tx| async move {
                    sqlx::query("SELECT 1").execute(&mut *tx).await?;
                    Ok(1)
                })
                .await?;
            end.map_err(Stopped::because)
        })
    };
    let mut seen = 0;
    // The first time on a connection, statements are prepared. The pool says something with each loan.
    let _ = run("warm".to_owned(), 1, Ok(())).await.unwrap();
    trips(&proxy, &mut seen).await;
    sqlx::query("SELECT 1").persistent(false).execute(&pool).await.unwrap();
    let mut counts = Vec::new();
    trips(&proxy, &mut seen).await;
    for lines in [1, 11] {
        let _ = run(format!("{lines}"), lines, Ok(())).await.unwrap();
        counts.push(trips(&proxy, &mut seen).await);
    }
    let for_a_step = (counts[1] - counts[0]) as f64 / 10.0;
    // With the pool's own for a loan, which is one at most.
    assert!((1.0..=2.0).contains(&for_a_step), "{counts:?}");
    run("resume".to_owned(), 11, Err("later")).await.unwrap_err();
    trips(&proxy, &mut seen).await;
    let _ = run("resume".to_owned(), 11, Ok(())).await.unwrap();
    let resumed = trips(&proxy, &mut seen).await;
    // Claim and result, each with the pool's own.
    assert!(resumed <= 4, "{resumed} round trips to go on, after {counts:?}");
    println!("a start with 1 and with 11 steps: {counts:?}; going on behind 12: {resumed}");

    // Writes, counted by the server: a row for each step, and nothing else changes for it.
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM oneflight_steps")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(rows, 2 + 2 + 12 + 12);
}

/// Recovering from a restart of the database is the poller's own affair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completer_survives_a_restart_of_the_database() {
    let server = Server::start("");
    let schema = server.schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let completer = idem.completer().every(Duration::from_millis(50));
    let completer = completer.handler("place_order", |_: u32, _: Steps<PostgresStore>| async { Ok(7) });
    let completer = completer.spawn().unwrap();
    let orders = idem.with_workflow("place_order");
    for (key, how) in [("a", "immediate"), ("b", "fast")] {
        tokio::task::block_in_place(|| server.restart(how));
        let mut begun = false;
        for _ in 0..200 {
            let call = orders.run_steps(id(key), &1, |_| async {
                Err::<u32, _>(Stopped::because("left behind"))
            });
            if let ErrorKind::Stopped(_) = call.await.unwrap_err().kind() {
                begun = true;
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(begun);
        for _ in 0..200 {
            if let Ok(Some(record)) = idem.status(&id(key)).await
                && record.result().is_some()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let reply = orders.run_steps(id(key), &1, |_| async { Ok(8) }).await.unwrap();
        assert_eq!((*reply, reply.is_cached()), (7, true), "{key}");
    }
    completer.stop().await;
}

/// A serialization failure is one of its own step: what was charged before it is not charged again.
#[tokio::test]
async fn a_transaction_that_lost_to_another_one_repeats_no_other_step() {
    const LOSES: &str = "DO $$ BEGIN RAISE EXCEPTION 'it lost' USING ERRCODE = '40001'; END $$";

    let idem = Idempotency::builder(orders("serializable", true).await.0).build();
    let (charged, booked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let run = || {
        let (charged, booked) = (Arc::clone(&charged), Arc::clone(&booked));
        idem.run_steps(id("a"), &7, |steps| async move {
            let charge = steps.run("charge", |_| async {
                Ok::<_, io::Error>(1 + charged.fetch_add(1, SeqCst))
            });
            let charge = charge.await?;
            let book = steps.run_in_tx("book", move |mut tx| async move {
                sqlx::query("INSERT INTO orders DEFAULT VALUES")
                    .execute(&mut *tx)
                    .await?;
                if booked.fetch_add(1, SeqCst) == 0 {
                    sqlx::raw_sql(LOSES).execute(&mut *tx).await?;
                }
                Ok(booked.load(SeqCst))
            });
            Ok((charge, book.await?))
        })
    };
    let error = run().await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Stopped(StepError::RolledBack { .. })),
        "{error}"
    );
    assert_eq!(booked.load(SeqCst), 1, "it is not run again by itself");
    assert_eq!(*run().await.unwrap(), (1, 2));
    assert_eq!(charged.load(SeqCst), 1);
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(idem.store().pool())
        .await
        .unwrap();
    assert_eq!(rows, 1);
}

/// The work says `COMMIT`, so its rows are there, and nothing else tells that the step was done.
#[tokio::test]
async fn a_step_that_ended_its_transaction_itself_is_in_doubt_for_every_attempt() {
    let store = orders("read committed", true).await.0;
    let idem = Idempotency::builder(store).build();
    let booked = Arc::new(AtomicUsize::new(0));
    let run = || {
        let booked = Arc::clone(&booked);
        idem.run_steps(id("a"), &7, |steps| async move {
            let book = steps.run_in_tx("book", move |mut tx| async move {
                booked.fetch_add(1, SeqCst);
                let insert = "INSERT INTO orders DEFAULT VALUES; COMMIT";
                sqlx::raw_sql(insert).execute(&mut *tx).await?;
                Ok(1)
            });
            book.await
        })
    };
    let error = run().await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Stopped(StepError::InDoubt { .. })),
        "{error}"
    );
    // A person lets it go on, and overlooks that.
    assert!(idem.resume_steps(&id("a")).await.unwrap());
    let error = run().await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Stopped(StepError::InDoubt { .. })),
        "{error}"
    );
    assert_eq!(booked.load(SeqCst), 1);
}

/// A process of the version before runs under a role that knows of the records only.
#[tokio::test]
async fn a_role_that_may_change_records_releases_and_purges_them_with_their_steps() {
    let schema = server().schema().await;
    let owner = PostgresStore::from_pool(schema.pool(2)).await.unwrap();
    let grants = format!(
        "CREATE ROLE older;
         GRANT USAGE ON SCHEMA {0} TO older;
         GRANT SELECT ON {0}.oneflight_migrations TO older;
         GRANT SELECT, INSERT, UPDATE, DELETE ON {0}.oneflight_records TO older;
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {0} TO older",
        schema.name
    );
    let grants = sqlx::raw_sql(sqlx::AssertSqlSafe(grants));
    grants.execute(owner.pool()).await.unwrap();
    let mut as_older = schema.clone();
    as_older.options = as_older.options.options([("role", "older")]);
    let older = PostgresStore::from_pool(as_older.pool(2)).await.unwrap();

    let idem = Idempotency::builder(owner.clone())
        .retention(Duration::from_millis(1))
        .build();
    for key in ["purged", "released"] {
        let run = idem.run_steps(id(key), &7, move |steps| async move {
            steps.run("a", |_| async { Ok::<_, io::Error>(1) }).await?;
            match key {
                "purged" => Ok(()),
                _ => Err(Stopped::because("later")),
            }
        });
        let _ = run.await;
    }
    let known = owner.load_steps(&id("released")).await.unwrap().unwrap();
    let claim = Claim::new(id("released"), known.token, 1, None);
    older.release(claim).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(older.purge(10).await.unwrap(), 1);
    for table in ["oneflight_workflows", "oneflight_steps"] {
        let count = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")));
        assert_eq!(count.fetch_one(owner.pool()).await.unwrap(), 0, "{table}");
    }
    // Nor does it get at them otherwise: by a trigger of its own.
    let trick = "CREATE TEMP TABLE t (scope text, key text);
                 CREATE TRIGGER t AFTER DELETE ON t REFERENCING OLD TABLE AS gone
                 FOR EACH STATEMENT EXECUTE FUNCTION oneflight_forget_steps()";
    let error = sqlx::raw_sql(trick).execute(older.pool()).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
}
