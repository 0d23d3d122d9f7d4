//! Promise 12 on PostgreSQL: the user's rows and the record are one commit, whatever the work does to its transaction.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::StatusCode;
use oneflight::http::{Problem, kind};
use oneflight::idempotency::{
    Effect, Error, ErrorKind, Idempotency, NotDone, Origin, Recovery, Reply, Resolution, Rollback, RollbackKind, Tx,
};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Denied, Ending, Store, StoreError, Takeover, TransactionalStore, hex,
};
use oneflight_postgres::{Isolation, PostgresOptions, PostgresStore};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Connection};
use tokio::sync::Barrier;

#[path = "../../../../tests/common/wrapped.rs"]
mod wrapped;

use crate::postgres::{Schema, server};
use crate::proxy::{Cut, Proxy};
use wrapped::Wrapped;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

async fn shop() -> (Schema, PostgresStore) {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(8)).await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL);
         CREATE TABLE accounts (name text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
         INSERT INTO accounts VALUES ('a', 100), ('b', 100)",
    )
    .execute(store.pool())
    .await
    .unwrap();
    (schema, store)
}

async fn orders(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(pool)
        .await
        .unwrap()
}

fn rollback_kind(error: Error) -> RollbackKind {
    match error.kind() {
        ErrorKind::RolledBack { kind, .. } => *kind,
        _ => panic!("{error:?}"),
    }
}

const INSERT: &str = "INSERT INTO orders (item) VALUES ('tea')";

/// How many round trips there have been, once there are no more: what the pool does when a connection is given back
/// comes a moment later.
async fn settled(proxy: &Proxy) -> usize {
    let mut before = proxy.round_trips();
    loop {
        tokio::time::sleep(Duration::from_millis(150)).await;
        match proxy.round_trips() {
            now if now == before => return now,
            now => before = now,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_in_a_transaction_takes_one_round_trip_more_than_the_bare_one() {
    let (schema, _) = shop().await;
    let proxy = Proxy::before(server().port()).await;
    let pool = schema.pool_through(proxy.port(), 1);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let bare = async || {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query(INSERT).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    };
    let ours = async |key: &str| {
        let work = idem.run_in_tx(id(key), |mut tx| async move {
            sqlx::query(INSERT).execute(&mut *tx).await?;
            Ok(1)
        });
        work.await.unwrap().origin()
    };
    let counted = async |from: usize| settled(&proxy).await - from;
    // The first time on a connection, statements are prepared.
    bare().await;
    assert_eq!(ours("first").await, Origin::Executed);
    counted(0).await;

    let from = proxy.round_trips();
    bare().await;
    let bare_trips = counted(from).await;
    let from = proxy.round_trips();
    assert_eq!(ours("second").await, Origin::Executed);
    let our_trips = counted(from).await;
    let from = proxy.round_trips();
    assert_eq!(ours("second").await, Origin::Replayed);
    let replay_trips = counted(from).await;
    println!("round trips: bare transaction {bare_trips}, run_in_tx {our_trips}, its replay {replay_trips}");
    assert_eq!(our_trips - bare_trips, 1);
    assert!(replay_trips <= bare_trips);
    // A large result does not stand in the text of a message.
    let large = "a large result ".repeat(4_000);
    for round in ["first large", "second large"] {
        let from = proxy.round_trips();
        let answer = large.clone();
        let work = idem.run_in_tx(id(&round.replace(' ', "-")), move |mut tx| async move {
            sqlx::query(INSERT).execute(&mut *tx).await?;
            Ok(answer)
        });
        assert_eq!(*work.await.unwrap(), large);
        let trips = counted(from).await - bare_trips;
        assert!(trips == 2 || round == "first large", "{trips}");
    }
    let replayed = idem
        .run_in_tx(id("second-large"), |_| async { Ok(String::new()) })
        .await
        .unwrap();
    assert_eq!((&*replayed, replayed.origin()), (&large, Origin::Replayed));
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operation_is_one_round_trip() {
    let with = PostgresStore::options();
    for options in [with.clone(), with.without_prepared_statements()] {
        each_operation_is_one_round_trip_with(options).await;
    }
}

async fn each_operation_is_one_round_trip_with(options: PostgresOptions) {
    let (schema, _) = shop().await;
    let proxy = Proxy::before(server().port()).await;
    let pool = schema.pool_through(proxy.port(), 1);
    let store = options.from_pool(pool.clone()).await.unwrap();
    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
    let hour = Duration::from_secs(3600);
    let mut trips = Vec::new();
    for round in 0..2 {
        trips.clear();
        let (done, left) = (id(&format!("done-{round}")), id(&format!("left-{round}")));
        // The pool tests a connection before it lends it and after it got it back; what is left is ours.
        let mut count = async |name: &'static str, from: usize| {
            trips.push((name, settled(&proxy).await - from - 2));
        };
        let from = proxy.round_trips();
        let ClaimOutcome::Granted(claim) = store.claim(ClaimRequest::new(&done, hour)).await.unwrap() else {
            panic!("not granted")
        };
        count("claim", from).await;
        let from = proxy.round_trips();
        store.renew(&done, claim.token(), hour).await.unwrap();
        count("renew", from).await;
        let from = proxy.round_trips();
        store.complete(claim, result.clone(), hour).await.unwrap();
        count("complete", from).await;
        let from = proxy.round_trips();
        let replayed = store.claim(ClaimRequest::new(&done, hour)).await.unwrap();
        assert!(matches!(replayed, ClaimOutcome::Denied(Denied::Completed(_))));
        count("claim of what is completed", from).await;
        let from = proxy.round_trips();
        store.load(&done).await.unwrap().unwrap();
        count("load", from).await;
        let ClaimOutcome::Granted(claim) = store.claim(ClaimRequest::new(&left, hour)).await.unwrap() else {
            panic!("not granted")
        };
        let from = settled(&proxy).await;
        store.release(claim).await.unwrap();
        count("release", from).await;
        let from = proxy.round_trips();
        store.purge(10).await.unwrap();
        count("purge", from).await;
        let from = proxy.round_trips();
        store.in_doubt(10, None).await.unwrap();
        count("in doubt", from).await;
    }
    println!("{trips:?}");
    // A purge looks whether there is an outbox to keep as well, on a connection that the pool tests twice again.
    let expected = |name: &str| if name == "purge" { 4 } else { 1 };
    assert!(trips.iter().all(|(name, trips)| *trips == expected(name)), "{trips:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_refuses_for_good_is_told_apart_from_what_may_be_tried_again() {
    let (_schema, store) = shop().await;
    sqlx::raw_sql(
        "CREATE TABLE strict (code varchar(5) UNIQUE, amount integer NOT NULL CHECK (amount > 0),
                              owner text REFERENCES accounts DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO strict VALUES ('taken', 1, NULL)",
    )
    .execute(store.pool())
    .await
    .unwrap();
    let idem = Idempotency::builder(store).build();
    for (statement, kind) in [
        ("INSERT INTO strict VALUES ('taken', 1)", RollbackKind::Violation),
        ("INSERT INTO strict VALUES ('new', 0)", RollbackKind::Violation),
        ("INSERT INTO strict VALUES ('new', NULL)", RollbackKind::Violation),
        ("INSERT INTO strict VALUES ('too long', 1)", RollbackKind::Violation),
        // Found at the commit only.
        (
            "INSERT INTO strict VALUES ('new', 1, 'nobody')",
            RollbackKind::Violation,
        ),
        ("INSERT INTO nowhere VALUES (1)", RollbackKind::Failure),
    ] {
        for wrapped in Wrapped::ALL {
            let work = idem.run_in_tx::<i32, _, _>(id("k"), move |mut tx| async move {
                let inserted = sqlx::query(statement).execute(&mut *tx).await;
                inserted.map_err(|error| Rollback::failed(wrapped.wrap(error)))?;
                Ok(1)
            });
            assert_eq!(rollback_kind(work.await.unwrap_err()), kind, "{statement}, {wrapped:?}");
        }
    }
}

/// Keeps a shared reference to the transaction while something else is awaited.
async fn note(tx: &Tx<PostgresStore>) -> u32 {
    let key = tx.downstream_key("note");
    tokio::task::yield_now().await;
    assert_eq!(tx.downstream_key("note"), key);
    tx.context().attempt()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_can_be_lent_while_something_else_is_awaited() {
    let (_schema, store) = shop().await;
    let idem = Idempotency::builder(store).build();
    let lent = tokio::spawn(async move {
        let work = idem.run_in_tx(id("lent"), |tx| async move { Ok(note(&tx).await) });
        *work.await.unwrap()
    });
    assert_eq!(lent.await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_refusal_and_panic_leave_no_rows() {
    let (_schema, store) = shop().await;
    let pool = store.pool().clone();
    let idem = Idempotency::builder(store).build();
    let failed = idem.run_in_tx::<i32, _, _>(id("k"), |mut tx| async move {
        sqlx::query(INSERT).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO nowhere VALUES (1)").execute(&mut *tx).await?;
        Ok(1)
    });
    let failed = failed.await.unwrap_err();
    assert!(matches!(failed.kind(), ErrorKind::RolledBack { .. }), "{failed:?}");
    let panicked = idem.run_in_tx::<i32, _, _>(id("k"), |mut tx| async move {
        sqlx::query(INSERT).execute(&mut *tx).await?;
        panic!("on purpose")
    });
    assert_eq!(panicked.await.unwrap_err().effect(), Effect::Nothing);
    let refuse = || {
        idem.run_in_tx(id("k"), |mut tx| async move {
            sqlx::query(INSERT).execute(&mut *tx).await?;
            // A statement that failed, too, is rolled back by the refusal.
            let _ = sqlx::query("INSERT INTO nowhere VALUES (1)").execute(&mut *tx).await;
            Err(Rollback::Declined(402))
        })
    };
    let refused = refuse().await.unwrap();
    assert!(refused.is_declined() && !refused.is_cached());
    let again = refuse().await.unwrap();
    assert!((*again, again.is_declined(), again.origin()) == (402, true, Origin::Replayed));
    assert_eq!(orders(&pool).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_the_work_swallows_rolls_everything_back() {
    let (_schema, store) = shop().await;
    let pool = store.pool().clone();
    let idem = Idempotency::builder(store).build();
    let swallowed = idem.run_in_tx(id("k"), |mut tx| async move {
        sqlx::query(INSERT).execute(&mut *tx).await?;
        let _ = sqlx::query("INSERT INTO nowhere VALUES (1)").execute(&mut *tx).await;
        Ok(1)
    });
    let swallowed = swallowed.await.unwrap_err();
    assert!(
        matches!(swallowed.kind(), ErrorKind::RolledBack { .. }),
        "{swallowed:?}"
    );
    assert_eq!(orders(&pool).await, 0);
    assert_eq!(idem.status(&id("k")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_the_work_s_inside_is_a_savepoint() {
    let (_schema, store) = shop().await;
    let pool = store.pool().clone();
    let idem = Idempotency::builder(store).build();
    let nested = idem.run_in_tx(id("k"), |mut tx| async move {
        let mut kept = tx.begin().await?;
        sqlx::query(INSERT).execute(&mut *kept).await?;
        kept.commit().await?;
        let mut dropped = tx.begin().await?;
        sqlx::query(INSERT).execute(&mut *dropped).await?;
        drop(dropped);
        Ok(1)
    });
    assert_eq!(nested.await.unwrap().origin(), Origin::Executed);
    assert_eq!(orders(&pool).await, 1);
    // One that is left open for good leaves nothing at all.
    let forgotten = idem.run_in_tx(id("l"), |mut tx| async move {
        let mut left = tx.begin().await?;
        sqlx::query(INSERT).execute(&mut *left).await?;
        std::mem::forget(left);
        Ok(1)
    });
    let error = forgotten.await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Store(source) if matches!(source, StoreError::TransactionEnded)),
        "{error:?}"
    );
    assert_eq!(error.effect(), Effect::Nothing);
    assert_eq!(orders(&pool).await, 1);
}

#[tokio::test]
async fn what_work_keeps_after_a_rollback_of_its_own_is_told_however_its_record_fails() {
    for then in [
        "SET default_transaction_read_only = on",
        "BEGIN; SELECT 1/0",
        "BEGIN READ ONLY",
    ] {
        let (_schema, store) = shop().await;
        let idem = Idempotency::builder(store.clone()).build();
        let ended = idem.run_in_tx(id("k"), move |mut tx| async move {
            sqlx::raw_sql("ROLLBACK").execute(&mut *tx).await?;
            // In a transaction of its own.
            sqlx::query(INSERT).execute(&mut *tx).await?;
            let _ = sqlx::raw_sql(then).execute(&mut *tx).await;
            Ok(1)
        });
        let error = ended.await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Store(StoreError::CommittedByWork)),
            "{then}: {error:?}"
        );
        assert_eq!(
            (error.effect(), orders(store.pool()).await),
            (Effect::Unknown, 1),
            "{then}"
        );
        let again = idem.run_in_tx(id("k"), |_| async { Ok(2) }).await.unwrap_err();
        assert!(matches!(again.kind(), ErrorKind::InDoubt { .. }), "{then}: {again:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_ends_its_transaction_is_told_so_and_left_in_doubt() {
    let (_schema, store) = shop().await;
    let pool = store.pool().clone();
    let idem = Idempotency::builder(store.clone()).build();
    let ends: [&'static str; 5] = [
        "COMMIT",
        "ROLLBACK",
        "COMMIT AND CHAIN",
        "COMMIT; BEGIN",
        "COMMIT; BEGIN; SAVEPOINT oneflight_work",
    ];
    for (at, end) in ends.into_iter().enumerate() {
        for fails in [false, true] {
            let id = id(&format!("{at}-{fails}"));
            let ended = idem.run_in_tx(id.clone(), move |mut tx| async move {
                sqlx::query(INSERT).execute(&mut *tx).await?;
                sqlx::raw_sql(end).execute(&mut *tx).await?;
                if fails {
                    Err(Rollback::failed("on purpose"))
                } else {
                    Ok(1)
                }
            });
            let ended = ended.await.unwrap_err();
            let told =
                matches!(ended.kind(), ErrorKind::Store(source) if matches!(source, StoreError::CommittedByWork));
            assert!(told, "{end}, fails: {fails}: {ended:?}");
            assert_eq!(ended.effect(), Effect::Unknown);
            let again = idem.run_in_tx(id, |_| async { Ok(2) }).await.unwrap_err();
            assert!(
                matches!(again.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
                "{end}: {again:?}"
            );
        }
    }
    let listed = idem.in_doubt(100, None).await.unwrap();
    assert_eq!(listed.len(), 10);
    // No connection was given back in a transaction.
    for _ in 0..8 {
        let assigned: Option<String> = sqlx::query_scalar("SELECT pg_current_xact_id_if_assigned()::text")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(assigned, None);
    }
}

/// What is not known is not nothing: no policy runs it again, and no client is told to come back for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_commits_by_itself_is_never_run_again_unless_somebody_says_so() {
    let (_schema, store) = shop().await;
    let pool = store.pool().clone();
    // Each has a group of its own, as a process of its own would.
    let with = |recovery: Recovery| {
        Idempotency::builder(store.clone())
            .recovery(recovery)
            .lease(Duration::from_millis(200))
            .build()
    };
    let commits = |idem: Idempotency<PostgresStore>, key: &'static str| async move {
        let work = idem.run_in_tx(id(key), |mut tx| async move {
            sqlx::query(INSERT).execute(&mut *tx).await?;
            sqlx::raw_sql("COMMIT").execute(&mut *tx).await?;
            Ok(1)
        });
        work.await
    };
    for key in ["resolved", "asked"] {
        let before = orders(&pool).await;
        let committed = commits(with(Recovery::Rerun), key).await.unwrap_err();
        assert_eq!(committed.effect(), Effect::Unknown);
        let problem = Problem::from(committed);
        assert_eq!(problem.status(), StatusCode::CONFLICT, "{problem:?}");
        assert_eq!(problem.type_uri(), kind::IN_DOUBT);
        assert_eq!(problem.retry_after(), None);
        for again in 0..3 {
            let idem = with(Recovery::Rerun);
            let error = match again {
                0 => idem.run(id(key), |_| async { 2 }).await.unwrap_err(),
                _ => commits(idem, key).await.unwrap_err(),
            };
            assert!(
                matches!(error.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
                "{error:?}"
            );
        }
        assert_eq!(orders(&pool).await, before + 1, "{key}");
    }
    // An operator who knows decides; and if that attempt dies as well, it is decided about again.
    let listed = with(Recovery::Rerun).in_doubt(10, None).await.unwrap();
    assert_eq!(listed.len(), 2);
    with(Recovery::Rerun)
        .resolve(&id("resolved"), Resolution::Rerun)
        .await
        .unwrap();
    assert_eq!(
        *with(Recovery::Rerun)
            .run(id("resolved"), |_| async { 3 })
            .await
            .unwrap(),
        3
    );
    let rerun = || Recovery::ask(|_| async { Resolution::Rerun });
    let died: Result<Reply<i32>, _> = with(rerun()).run(id("asked"), |_| async { panic!("on purpose") }).await;
    assert!(
        matches!(died.as_ref().map_err(Error::kind), Err(ErrorKind::Panicked(_))),
        "{died:?}"
    );
    let error = with(Recovery::Rerun)
        .run(id("asked"), |_| async { 4 })
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::InDoubt { attempt: 2, .. }),
        "{error:?}"
    );
    assert_eq!(*with(rerun()).run(id("asked"), |_| async { 5 }).await.unwrap(), 5);
    assert_eq!(
        *with(Recovery::Rerun).run(id("asked"), |_| async { 6 }).await.unwrap(),
        5
    );
}

/// Neither a record whose answer is lost, nor one that is refused, hides what the work has committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_commits_by_itself_is_found_out_although_its_record_fails() {
    let (schema, direct) = shop().await;
    let proxy = Arc::new(Proxy::before(server().port()).await);
    let store = PostgresStore::from_pool(schema.pool_through(proxy.port(), 1))
        .await
        .unwrap();
    let idem = Idempotency::builder(store).build();
    sqlx::raw_sql("DO $$ BEGIN CREATE ROLE nobody; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        .execute(direct.pool())
        .await
        .unwrap();
    let (mut cuts, mut kept) = (0, 0);
    for cut in [None, Some(Cut::Before), Some(Cut::After), Some(Cut::AfterAnswer)] {
        for fails in [false, true] {
            let key = format!("cut-{cut:?}-{fails}").replace(['(', ')'], "-");
            let (arm, bytes) = (
                Arc::clone(&proxy),
                if fails {
                    "ROLLBACK TO".to_owned()
                } else {
                    hex(key.as_bytes())
                },
            );
            let request = id(&key);
            let work = idem.run_in_tx(request.clone(), move |mut tx| async move {
                sqlx::query(INSERT).execute(&mut *tx).await?;
                sqlx::raw_sql("COMMIT").execute(&mut *tx).await?;
                match cut {
                    Some(cut) => arm.cut(bytes, cut),
                    None => {
                        let role = sqlx::raw_sql("SET ROLE nobody");
                        role.execute(&mut *tx).await?;
                    }
                }
                if fails {
                    Err(Rollback::failed("on purpose"))
                } else {
                    Ok(1)
                }
            });
            let error = work.await.unwrap_err();
            kept += 1;
            cuts += usize::from(cut.is_some());
            assert_eq!((proxy.cuts(), orders(direct.pool()).await), (cuts, kept), "{key}");
            assert_eq!(error.effect(), Effect::Unknown, "{key}: {error:?}");
            let again = idem.run(request, |_| async { 2 }).await.unwrap_err();
            assert!(
                matches!(again.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
                "{key}: {again:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_work_sets_in_its_session_does_not_part_it_from_its_record() {
    let (schema, _) = shop().await;
    let (pool, direct) = (schema.pool(1), schema.pool(1));
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    for (number, set) in [
        "RESET ALL",
        "SET LOCAL search_path = pg_temp",
        "SET search_path = pg_temp",
        "CREATE TEMP TABLE oneflight_records (scope text, key text)",
        "SET LOCAL client_encoding = 'LATIN1'",
        "SET oneflight.turn = 'somebody else'",
        "SAVEPOINT mine",
    ]
    .into_iter()
    .enumerate()
    {
        for refuses in [false, true] {
            let before = orders(&direct).await;
            let order = || {
                let idem = Idempotency::builder(store.clone()).build();
                let request = id(&format!("{number}-{refuses}"));
                async move {
                    idem.run_in_tx(request, move |mut tx| async move {
                        sqlx::query(INSERT).execute(&mut *tx).await?;
                        sqlx::raw_sql(set).execute(&mut *tx).await?;
                        if refuses { Err(Rollback::Declined(402)) } else { Ok(200) }
                    })
                    .await
                }
            };
            let reply = order().await.unwrap_or_else(|error| panic!("{set}: {error:?}"));
            assert_eq!(
                (reply.origin(), reply.is_declined()),
                (Origin::Executed, refuses),
                "{set}"
            );
            assert_eq!(orders(&direct).await, before + i64::from(!refuses), "{set}");
            assert_eq!(order().await.unwrap().origin(), Origin::Replayed, "{set}");
            // What it left in the session is its own affair, and that of the next user of the connection.
            sqlx::raw_sql("DISCARD TEMP; RESET ALL").execute(&pool).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_write_the_record_is_named_and_nothing_is_kept() {
    let (schema, store) = shop().await;
    let pool = store.pool().clone();
    let idem = Idempotency::builder(store).build();
    sqlx::raw_sql(AssertSqlSafe(format!(
        "CREATE ROLE shopper; GRANT USAGE ON SCHEMA {0} TO shopper; GRANT ALL ON orders TO shopper",
        schema.name
    )))
    .execute(&pool)
    .await
    .unwrap();
    let order = |after: &'static str| {
        idem.run_in_tx(id("k"), move |mut tx| async move {
            sqlx::raw_sql("SET LOCAL ROLE shopper").execute(&mut *tx).await?;
            sqlx::query(INSERT).execute(&mut *tx).await?;
            sqlx::raw_sql(after).execute(&mut *tx).await?;
            Ok(1)
        })
    };
    let error = order("SELECT 1").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RolledBack { .. }), "{error:?}");
    let (mut said, mut cause) = (String::new(), Some(&error as &dyn std::error::Error));
    while let Some(error) = cause {
        said.push_str(&error.to_string());
        cause = error.source();
    }
    assert!(
        said.contains("RESET ROLE") && said.contains("permission denied"),
        "{said}"
    );
    assert_eq!(orders(&pool).await, 0);
    assert_eq!(*order("RESET ROLE").await.unwrap(), 1);
    assert_eq!(orders(&pool).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_are_run_again_from_their_start() {
    let (_schema, store) = shop().await;
    let pool = store.pool().clone();
    let idem = Idempotency::builder(store).build();
    let both = Arc::new(Barrier::new(2));
    let runs = Arc::new(AtomicUsize::new(0));
    let transfer = |from: &'static str, to: &'static str| {
        let (idem, both, runs) = (idem.clone(), Arc::clone(&both), Arc::clone(&runs));
        async move {
            let mut first = true;
            idem.run_in_tx_retrying(id(from), move |mut tx| {
                let meet = std::mem::take(&mut first).then(|| Arc::clone(&both));
                runs.fetch_add(1, SeqCst);
                async move {
                    let update = "UPDATE accounts SET balance = balance + $1 WHERE name = $2";
                    sqlx::query(update).bind(-7_i64).bind(from).execute(&mut *tx).await?;
                    if let Some(meet) = meet {
                        meet.wait().await;
                    }
                    sqlx::query(update).bind(7_i64).bind(to).execute(&mut *tx).await?;
                    Ok(from.to_owned())
                }
            })
            .await
        }
    };
    let (one, two) = tokio::join!(transfer("a", "b"), transfer("b", "a"));
    assert_eq!((one.unwrap().as_str(), two.unwrap().as_str()), ("a", "b"));
    assert_eq!(runs.load(SeqCst), 3, "one of them lost, once");
    let balances: Vec<i64> = sqlx::query_scalar("SELECT balance FROM accounts")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(balances, [100, 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serialization_failures_are_run_again_until_the_policy_says_enough() {
    let (schema, _) = shop().await;
    let store = PostgresStore::options()
        .isolation(Isolation::Serializable)
        .from_pool(schema.pool(8))
        .await
        .unwrap();
    let pool = store.pool().clone();
    let idem = Idempotency::builder(store).conflict_retries(2).build();
    let run = async |key: &str, conflicts: usize, wrapped: Wrapped| {
        let (other, runs) = (pool.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&runs);
        let reply = idem
            .run_in_tx_retrying(id(key), move |mut tx| {
                let other = other.clone();
                let conflicts = runs.fetch_add(1, SeqCst) < conflicts;
                async move {
                    let balance: i64 = sqlx::query_scalar("SELECT balance FROM accounts WHERE name = 'a'")
                        .fetch_one(&mut *tx)
                        .await?;
                    if conflicts {
                        let elsewhere = "UPDATE accounts SET balance = balance + 1 WHERE name = 'a'";
                        sqlx::query(elsewhere).execute(&other).await?;
                    }
                    let update = "UPDATE accounts SET balance = $1 WHERE name = 'a'";
                    let updated = sqlx::query(update).bind(balance - 10).execute(&mut *tx).await;
                    updated.map_err(|error| Rollback::failed(wrapped.wrap(error)))?;
                    Ok(balance)
                }
            })
            .await;
        (reply, counted.load(SeqCst))
    };
    let (reply, runs) = run("twice", 2, Wrapped::Bare).await;
    assert_eq!((*reply.unwrap(), runs), (102, 3));
    let (reply, runs) = run("thrice", 3, Wrapped::Bare).await;
    assert_eq!(rollback_kind(reply.unwrap_err()), RollbackKind::Conflict);
    assert_eq!(runs, 3);
    // `run_in_tx` has a closure for one run.
    let balance: i64 = sqlx::query_scalar("SELECT balance FROM accounts WHERE name = 'a'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(balance, 95);
    for wrapped in Wrapped::ALL {
        let (reply, runs) = run(&format!("{wrapped:?}"), 1, wrapped).await;
        assert!(reply.is_ok() && runs == 2, "{wrapped:?}: {runs} runs, {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_read_committed_a_key_is_still_executed_once() {
    for isolation in [Isolation::RepeatableRead, Isolation::Serializable] {
        let (schema, _) = shop().await;
        let store = PostgresStore::options()
            .isolation(isolation)
            .from_pool(schema.pool(16))
            .await
            .unwrap();
        let pool = store.pool().clone();
        // Each has a group of its own, as a process of its own would.
        let callers: Vec<_> = (0..16).map(|_| Idempotency::builder(store.clone()).build()).collect();
        for round in 0..20 {
            let calls = callers.iter().map(|idem| {
                idem.run_in_tx_retrying(id(&format!("k{round}")), |mut tx| async move {
                    sqlx::query(INSERT).execute(&mut *tx).await?;
                    Ok(1)
                })
            });
            for reply in futures::future::join_all(calls).await {
                assert_eq!(*reply.unwrap(), 1);
            }
            assert_eq!(orders(&pool).await, round + 1, "{isolation:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_comes_back_while_a_transaction_has_taken_over_keeps_his_claim() {
    let (_schema, store) = shop().await;
    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
    let hour = Duration::from_secs(3600);
    for comes_back in ["completes", "renews", "releases"] {
        let id = id(comes_back);
        let ClaimOutcome::Granted(late) = store.claim(ClaimRequest::new(&id, Duration::ZERO)).await.unwrap() else {
            panic!("not granted")
        };
        let (late_store, late_id, late_result) = (store.clone(), id.clone(), result.clone());
        let request = ClaimRequest::new(&id, hour).takeover(Takeover::Expired);
        let taken_over = store.transact(request, move |mut open| async move {
            assert_eq!(open.attempt(), 2);
            sqlx::query(INSERT).execute(&mut *open).await.unwrap();
            let late = Claim::new(late_id, late.token(), 1, None);
            match comes_back {
                "completes" => late_store.complete(late, late_result.clone(), hour).await.unwrap(),
                "renews" => late_store.renew(late.id(), late.token(), hour).await.unwrap(),
                _ => late_store.release(late).await.unwrap(),
            }
            (
                Ending::Commit {
                    result: late_result,
                    retention: hour,
                },
                (),
            )
        });
        let taken_over = taken_over.await;
        if comes_back == "releases" {
            assert!(matches!(taken_over, Ok(ClaimOutcome::Granted(()))), "{taken_over:?}");
            assert_eq!(orders(store.pool()).await, 1);
        } else {
            assert!(
                matches!(taken_over, Err(StoreError::RolledBack { .. })),
                "{comes_back}: {taken_over:?}"
            );
            assert_eq!(orders(store.pool()).await, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_doubt_is_listed_and_settled() {
    let (_schema, store) = shop().await;
    let idem = Idempotency::builder(store.clone()).build();
    for key in ["a", "b", "c"] {
        let panicked = idem.run(id(key), |_| async { panic!("on purpose") }).await;
        let error = panicked.map(|reply: Reply<()>| drop(reply)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Panicked(_)), "{error:?}");
    }
    let page = idem.in_doubt(2, None).await.unwrap();
    assert_eq!(page.iter().map(|it| it.id.key()).collect::<Vec<_>>(), ["a", "b"]);
    let rest = idem.in_doubt(2, Some(page[1].token)).await.unwrap();
    assert_eq!(rest.len(), 1);
    let answer = Resolution::completed(&7).unwrap();
    idem.resolve(&page[0].id, answer).await.unwrap();
    idem.resolve(&page[1].id, Resolution::Rerun).await.unwrap();
    assert_eq!(*idem.run(id("a"), |_| async { 8 }).await.unwrap(), 7);
    assert_eq!(*idem.run(id("b"), |_| async { 8 }).await.unwrap(), 8);
    let left = idem.in_doubt(10, None).await.unwrap();
    assert_eq!(left.iter().map(|it| it.id.key()).collect::<Vec<_>>(), ["c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_and_outside_of_a_transaction_a_key_has_one_effect() {
    const PROCESSES: usize = 6;
    const KEYS: usize = 60;
    let (schema, store) = shop().await;
    let pool = store.pool().clone();
    let mut calls = tokio::task::JoinSet::new();
    for process in 0..PROCESSES {
        let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
        let idem = Idempotency::builder(store).build();
        for key in 0..KEYS {
            let (idem, pool, id) = (idem.clone(), pool.clone(), id(&format!("mixed-{key}")));
            let dice = (process * 7 + key * 3) % 5;
            calls.spawn(async move {
                // A call that breaks off frees the key, and is made again.
                let mut breaks = dice == 0 || dice == 3;
                loop {
                    let broken = std::mem::take(&mut breaks);
                    let reply = if dice < 3 {
                        idem.run_in_tx(id.clone(), move |mut tx| async move {
                            sqlx::query(INSERT).execute(&mut *tx).await?;
                            if broken {
                                Err(Rollback::failed("on purpose"))
                            } else {
                                Ok(1)
                            }
                        })
                        .await
                    } else {
                        let pool = pool.clone();
                        idem.try_run(id.clone(), move |_| async move {
                            if broken {
                                return Err(NotDone::because("on purpose").into());
                            }
                            sqlx::query(INSERT).execute(&pool).await.unwrap();
                            Ok(1)
                        })
                        .await
                    };
                    match reply {
                        Ok(reply) => return reply.is_cached(),
                        Err(error) => assert!(
                            matches!(error.kind(), ErrorKind::RolledBack { .. } | ErrorKind::NotDone(_)),
                            "{error:?}"
                        ),
                    }
                }
            });
        }
    }
    let mut executed = 0;
    while let Some(cached) = calls.join_next().await {
        executed += usize::from(!cached.unwrap());
    }
    assert_eq!(executed, KEYS);
    assert_eq!(orders(&pool).await, i64::try_from(KEYS).unwrap());
}
