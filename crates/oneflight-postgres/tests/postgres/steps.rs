//! Promise 16: PostgreSQL keeps the steps of mutations.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::idempotency::{Resolved, StepError, Steps, Stopped, Workflow};
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Ending, OpenTransaction, StartedBy, StepId, StepInTransaction, StepStore, Store,
    StoreError, Takeover, TransactionalStepStore, WorkflowStart,
};
use oneflight::{ErrorKind, Idempotency, RequestIdentity, Resolution, Scope};
use oneflight_conformance::{self as conformance, Failure, Ledger, Written};
use oneflight_postgres::{Names, PostgresStore};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use tokio::sync::Barrier;
use tokio::task::JoinHandle;

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

/// Has every commit of an order wait for a lock that the returned connection has, once all else of it is done.
async fn commits_late(store: &PostgresStore) -> PgConnection {
    let slow = "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END $$;
                CREATE CONSTRAINT TRIGGER late AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION late()";
    sqlx::raw_sql(slow).execute(store.pool()).await.unwrap();
    let mut holds = store.pool().acquire().await.unwrap().detach();
    let lock = "SELECT pg_advisory_lock(4711)";
    sqlx::raw_sql(lock).execute(&mut holds).await.unwrap();
    holds
}

/// Waits until a commit waits for that lock.
async fn is_committing(holds: &mut PgConnection) {
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted
                                AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    for _ in 0..1_000 {
        if sqlx::query_scalar::<_, bool>(waits)
            .fetch_one(&mut *holds)
            .await
            .unwrap()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing is about to be committed");
}

async fn go_on(mut holds: PgConnection) {
    let unlock = "SELECT pg_advisory_unlock(4711)";
    sqlx::raw_sql(unlock).execute(&mut holds).await.unwrap();
}

async fn count(store: &PostgresStore, table: &str) -> i64 {
    let count = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")));
    count.fetch_one(store.pool()).await.unwrap()
}

/// A step whose rows and record are written, in a transaction that waits in its commit. Its lease is over.
async fn step_that_commits_late(store: &PostgresStore) -> (FencingToken, JoinHandle<Result<(), StoreError>>) {
    let start = WorkflowStart {
        name: "place_order".to_owned(),
        version: "1".to_owned(),
        accepts: Vec::new(),
        input: RecordedResult::not_encodable(),
        steps: Vec::new(),
        by: StartedBy::Caller,
    };
    let request = ClaimRequest::new(&id("a"), Duration::ZERO);
    let ClaimOutcome::Granted(begun) = store.begin_steps(request, start).await.unwrap() else {
        panic!("nobody else has it");
    };
    let token = begun.claim.token();
    let step = StepInTransaction {
        request: id("a"),
        token,
        attempt: 1,
        id: StepId::new("book", ""),
        input: None,
    };
    let store = store.clone();
    let late = tokio::spawn(async move {
        let work = |mut open: OpenTransaction<PgConnection, Arc<Names>>| async move {
            let insert = sqlx::raw_sql("INSERT INTO orders DEFAULT VALUES");
            insert.execute(&mut *open).await.unwrap();
            drop(open);
            let (result, retention) = (RecordedResult::not_encodable(), Duration::ZERO);
            (Ending::Commit { result, retention }, ())
        };
        store.transact_step(step, work).await
    });
    (token, late)
}

/// An operator gives up what seems dead, while a step of it is about to be committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_about_to_commit_a_step_is_not_resolved() {
    let store = orders("read committed", true).await.0;
    let idem = Idempotency::builder(store.clone()).build();
    let mut holds = commits_late(&store).await;
    let (_, late) = step_that_commits_late(&store).await;
    is_committing(&mut holds).await;
    for resolution in [Resolution::Rerun, Resolution::completed("given up").unwrap()] {
        let error = idem.resolve(&id("a"), resolution).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InProgress { .. }), "{error}");
    }
    go_on(holds).await;
    late.await.unwrap().unwrap();
    assert_eq!(count(&store, "orders").await, 1);
    let known = idem.recorded_steps(&id("a")).await.unwrap().unwrap();
    assert_eq!(known.steps.len(), 1);
    // By now a person sees that it was booked.
    let resolved = idem.resolve(&id("a"), Resolution::Rerun).await.unwrap();
    assert_eq!(resolved, Resolved::Freed);
    assert_eq!(count(&store, "oneflight_steps").await, 0);
}

/// So does a process of the version before, which knows of no steps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_without_steps_waits_for_a_step_that_is_about_to_be_committed() {
    let store = orders("read committed", true).await.0;
    let mut holds = commits_late(&store).await;
    let (token, late) = step_that_commits_late(&store).await;
    is_committing(&mut holds).await;
    let claim = tokio::spawn({
        let (store, request) = (store.clone(), ClaimRequest::new(&id("a"), Duration::ZERO));
        async move { store.claim(request.takeover(Takeover::Of(token))).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!claim.is_finished(), "it was claimed from under a step");
    go_on(holds).await;
    late.await.unwrap().unwrap();
    let ClaimOutcome::Granted(claim) = claim.await.unwrap().unwrap() else {
        panic!("its lease is over");
    };
    assert_eq!(store.load_steps(&id("a")).await.unwrap(), None, "it is stale");
    store.release(claim).await.unwrap();
    for table in ["oneflight_workflows", "oneflight_steps"] {
        assert_eq!(count(&store, table).await, 0, "{table}");
    }
}

/// What is committed while its record is deleted must not be left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_is_about_to_be_committed_goes_with_its_record() {
    let store = orders("read committed", true).await.0;
    let mut holds = commits_late(&store).await;
    let (token, late) = step_that_commits_late(&store).await;
    is_committing(&mut holds).await;
    let release = tokio::spawn({
        let (store, claim) = (store.clone(), Claim::new(id("a"), token, 1, None));
        async move { store.release(claim).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!release.is_finished(), "it was released under a step");
    go_on(holds).await;
    late.await.unwrap().unwrap();
    release.await.unwrap().unwrap();
    for table in ["oneflight_records", "oneflight_workflows", "oneflight_steps"] {
        assert_eq!(count(&store, table).await, 0, "{table}");
    }
}

/// Each of them fits, and both do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_in_transactions_side_by_side_keep_to_the_bounds() {
    let store = orders("read committed", true).await.0;
    let idem = Idempotency::builder(store).build();
    let idem = idem.with_workflow(Workflow::default().max_bytes(100));
    let both = Arc::new(Barrier::new(2));
    let run = idem.run_steps(id("a"), &7, |steps| async move {
        let book = |name: &'static str| {
            let both = Arc::clone(&both);
            steps.run_in_tx(name, move |tx| async move {
                both.wait().await;
                drop(tx);
                Ok("x".repeat(60))
            })
        };
        let (one, other) = tokio::join!(book("one"), book("other"));
        Ok((one?, other?))
    });
    let error = run.await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Stopped(StepError::TooLarge { .. })),
        "{error}"
    );
    let known = idem.recorded_steps(&id("a")).await.unwrap().unwrap();
    assert_eq!(known.steps.len(), 1);
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
    // What goes on by itself is not in doubt for it either, and it may settle what is.
    assert_eq!(older.in_doubt(10, None).await.unwrap(), []);
    let plain = ClaimRequest::new(&id("plain"), Duration::ZERO);
    let _claim = owner.claim(plain).await.unwrap();
    assert_eq!(older.in_doubt(10, None).await.unwrap().len(), 1);
    let theirs = Idempotency::builder(older.clone()).build();
    let resolved = theirs.resolve(&id("plain"), Resolution::Rerun).await.unwrap();
    assert_eq!(resolved, Resolved::Freed);
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
