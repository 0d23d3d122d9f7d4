//! Whatever state a connection is in when the pool lends it: what is reported is committed, and a call succeeds as long
//! as a healthy connection can be made.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use futures::future::join_all;
use oneflight::idempotency::{Error, Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{ClaimOutcome, ClaimRequest, Denied, Store};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection, Executor};

use crate::postgres::{Schema, server};
use crate::proxy::{Cut, Proxy};

const HOUR: Duration = Duration::from_secs(3600);
const LONG: Duration = Duration::from_secs(60);

/// What has to mean the same in every encoding, and as part of a statement's text.
fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new(r"cañón 表\').$1"), key).unwrap()
}

fn result() -> RecordedResult {
    let bytes: Vec<u8> = (0..=255).collect();
    RecordedResult::value(Verdict::Performed, CodecId::Json, &bytes)
}

/// Pools of one connection and of several, with prepared statements and without.
const POOLS: [(u32, bool); 4] = [(1, true), (5, true), (1, false), (5, false)];

/// What may have been left behind on a connection that goes back to the pool.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// A `begin` that was polled once, and dropped.
    CancelledBegin,
    /// A transaction that is open, or failed, or whose snapshot is old.
    Open(&'static str),
    /// Settings of the session, or what it had prepared.
    Session(&'static str),
}

const LEFT: &[Left] = &[
    Left::CancelledBegin,
    Left::Open("BEGIN"),
    Left::Open("BEGIN; INSERT INTO orders DEFAULT VALUES; SAVEPOINT s"),
    Left::Open("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM oneflight_records"),
    Left::Open("BEGIN READ ONLY; SELECT 1"),
    Left::Open("BEGIN; SELECT 1 / 0"),
    Left::Open("BEGIN; SET LOCAL ROLE stranger; SET LOCAL search_path = pg_temp"),
    Left::Session("SET default_transaction_read_only = on"),
    Left::Session("SET default_transaction_isolation = 'serializable'"),
    Left::Session("SET ROLE stranger"),
    Left::Session("SET search_path = pg_temp"),
    Left::Session("SET client_encoding = 'LATIN1'"),
    Left::Session("SET client_encoding = 'SJIS'"),
    Left::Session("SET standard_conforming_strings = off; SET bytea_output = 'escape'; SET DateStyle = 'German'"),
    Left::Session("CREATE TEMP TABLE oneflight_records (scope text, key text); CREATE TEMP SEQUENCE oneflight_tokens"),
    Left::Session("DEALLOCATE ALL"),
    Left::Session("DISCARD ALL"),
    Left::Session("SET statement_timeout = 1; SET lock_timeout = 1; SELECT pg_sleep(0.1)"),
    Left::Session("SET plan_cache_mode = 'force_generic_plan'; SET enable_indexscan = off"),
];

async fn leave(connection: &mut PgConnection, left: Left) {
    match left {
        Left::CancelledBegin => {
            let begun = {
                let mut begin = pin!(connection.begin());
                begin.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
            };
            if begun {
                // The server was faster: the transaction was dropped, and is rolled back.
                connection.execute("BEGIN").await.unwrap();
            }
        }
        Left::Open(sql) | Left::Session(sql) => {
            // Some of it fails, which is how it is left behind.
            let _ = connection.execute(sql).await;
        }
    }
}

/// Leaves this behind on all connections that the pool has.
async fn spoil(pool: &PgPool, left: Left) {
    let most = pool.options().get_max_connections();
    let mut connections = Vec::new();
    for _ in 0..most {
        let mut connection = pool.acquire().await.unwrap();
        leave(&mut connection, left).await;
        connections.push(connection);
    }
    drop(connections);
    given_back(pool).await;
}

async fn given_back(pool: &PgPool) {
    tokio::time::timeout(LONG, async {
        while pool.num_idle() < pool.size() as usize {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("all connections are given back");
}

/// A shop with a pool of so many connections, with prepared statements or without, and one that is not spoiled.
async fn shop((connections, prepares): (u32, bool)) -> (Schema, PgPool, PostgresStore, PgPool) {
    let schema = server().schema().await;
    let direct = schema.pool(2);
    direct
        .execute(
            "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text);
             DO $$ BEGIN CREATE ROLE stranger; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        )
        .await
        .unwrap();
    let pool = schema.pool(connections);
    let mut options = PostgresStore::options().schema(schema.name.clone());
    if !prepares {
        options = options.without_prepared_statements();
    }
    let store = options.from_pool(pool.clone()).await.unwrap();
    (schema, pool, store, direct)
}

/// With all of them at once: each has a schema of its own, and mostly waits for its server.
async fn with_each_pool(check: impl AsyncFn((u32, bool))) {
    join_all(POOLS.map(|pools| Box::pin(check(pools)))).await;
}

async fn outside(schema: &Schema, direct: &PgPool) -> PostgresStore {
    let options = PostgresStore::options().schema(schema.name.clone());
    options.from_pool(direct.clone()).await.unwrap()
}

async fn orders(direct: &PgPool) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM orders");
    count.fetch_one(direct).await.unwrap()
}

/// Some are found before the server's own: `nextval` since a text is preferred to a `regclass`, `*` since the server has none
/// for these very types.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_have_made_where_a_session_looks_does_not_stand_in_for_what_is_the_servers() {
    with_each_pool(async |pools| {
        let (schema, _pool, store, direct) = shop(pools).await;
        let forged = "CREATE FUNCTION nextval(text) RETURNS bigint LANGUAGE sql AS 'SELECT 42::bigint';
             CREATE FUNCTION times(numeric, int) RETURNS numeric LANGUAGE sql AS 'SELECT 666::numeric';
             CREATE OPERATOR * (LEFTARG = numeric, RIGHTARG = int, FUNCTION = times)";
        direct.execute(forged).await.unwrap();
        let found: (i64, bool) = sqlx::query_as("SELECT nextval('any'), 1::numeric * 1000 = 666")
            .fetch_one(&direct)
            .await
            .unwrap();
        assert_eq!(found, (42, true), "the session finds them");

        let idem = Idempotency::builder(store.clone()).build();
        let run = id("run");
        let reply = idem.run(run.clone(), |_| async { 1 }).await.unwrap();
        assert_eq!(*reply, 1);
        let in_tx = id("in tx");
        let reply = idem.run_in_tx(in_tx.clone(), |_| async { Ok(2) }).await.unwrap();
        assert_eq!(*reply, 2);
        let outside = outside(&schema, &direct).await;
        for id in [&run, &in_tx] {
            let record = outside.load(id).await.unwrap().unwrap();
            assert_ne!(record.token.get(), 42);
            assert!(record.observed.as_millis() > 1_700_000_000_000, "{:?}", record.observed);
        }
        let claim = store.claim(ClaimRequest::new(&id("claim"), LONG)).await.unwrap();
        assert!(matches!(claim, ClaimOutcome::Granted(claim) if claim.token().get() != 42));
        assert_eq!(store.in_doubt(10, None).await.unwrap(), []);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_committed_when_it_is_answered_whatever_was_left_on_its_connection() {
    with_each_pool(async |pools| {
        let (schema, pool, store, direct) = shop(pools).await;
        let outside = outside(&schema, &direct).await;
        for (number, left) in LEFT.iter().enumerate() {
            let case = format!("{left:?} on each of {pools:?}");
            let (done, back) = (id(&format!("done-{number}")), id(&format!("back-{number}")));

            spoil(&pool, *left).await;
            let claimed = store.claim(ClaimRequest::new(&done, LONG)).await;
            let Ok(ClaimOutcome::Granted(claim)) = claimed else {
                panic!("{case}: {claimed:?}")
            };
            let seen = outside.load(&done).await.unwrap().expect(&case);
            assert_eq!(seen.token, claim.token(), "{case}");

            spoil(&pool, *left).await;
            store.renew(&done, claim.token(), HOUR).await.expect(&case);
            let seen = outside.load(&done).await.unwrap().unwrap();
            assert!(seen.lease_remaining().unwrap() > LONG, "{case}");

            spoil(&pool, *left).await;
            let token = claim.token();
            store.complete(claim, result(), HOUR).await.expect(&case);
            let seen = outside.load(&done).await.unwrap().unwrap();
            assert_eq!((seen.token, seen.result()), (token, Some(&result())), "{case}");

            spoil(&pool, *left).await;
            let replayed = store.claim(ClaimRequest::new(&done, LONG)).await.expect(&case);
            assert!(
                matches!(replayed, ClaimOutcome::Denied(Denied::Completed(_))),
                "{case}: {replayed:?}"
            );

            // What was committed after the snapshot of what was left is seen.
            spoil(&pool, *left).await;
            let ClaimOutcome::Granted(claim) = outside.claim(ClaimRequest::new(&back, LONG)).await.unwrap() else {
                panic!("not granted")
            };
            let seen = store.load(&back).await.expect(&case).expect(&case);
            assert_eq!(seen.token, claim.token(), "{case}");

            spoil(&pool, *left).await;
            store.release(claim).await.expect(&case);
            assert_eq!(outside.load(&back).await.unwrap(), None, "{case}");

            let ClaimOutcome::Granted(doubtful) =
                outside.claim(ClaimRequest::new(&back, Duration::ZERO)).await.unwrap()
            else {
                panic!("not granted")
            };
            spoil(&pool, *left).await;
            let listed = store.in_doubt(100, None).await.expect(&case);
            assert_eq!(listed.len(), 1, "{case}");
            assert_eq!((&listed[0].id, listed[0].token), (&back, doubtful.token()), "{case}");
            outside.release(doubtful).await.unwrap();

            let ClaimOutcome::Granted(past) = outside.claim(ClaimRequest::new(&back, LONG)).await.unwrap() else {
                panic!("not granted")
            };
            outside.complete(past, result(), Duration::ZERO).await.unwrap();
            spoil(&pool, *left).await;
            assert_eq!(store.purge(100).await.expect(&case), 1, "{case}");
            let kept = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM oneflight_records WHERE key = $1");
            assert_eq!(kept.bind(back.key()).fetch_one(&direct).await.unwrap(), 0, "{case}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_executed_once_whatever_was_left_on_its_connections() {
    with_each_pool(async |pools| {
        let (_schema, pool, store, direct) = shop(pools).await;
        for (number, left) in LEFT.iter().enumerate() {
            let case = format!("{left:?} on each of {pools:?}");
            // A group of its own, as another process would have.
            let outside = || Idempotency::builder(store.clone()).build();
            let idem = Idempotency::builder(store.clone()).build();
            let request = id(&format!("run-{number}"));
            spoil(&pool, *left).await;
            let reply = idem.run(request.clone(), |_| async { 7 }).await.expect(&case);
            assert_eq!((*reply, reply.origin()), (7, Origin::Executed), "{case}");
            spoil(&pool, *left).await;
            let reply = outside().run(request, |_| async { 8 }).await.expect(&case);
            assert_eq!((*reply, reply.origin()), (7, Origin::Replayed), "{case}");
        }
        assert_eq!(orders(&direct).await, 0, "what was left is rolled back");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_never_runs_in_a_transaction_that_somebody_left_open() {
    with_each_pool(async |pools| {
        let (_schema, pool, store, direct) = shop(pools).await;
        for (number, left) in LEFT.iter().enumerate() {
            if matches!(left, Left::Session(sql) if sql.contains("ROLE") || sql.contains("search_path") || sql.contains("timeout"))
            {
                // The work's own affair: it has the session that the pool has lent.
                continue;
            }
            let case = format!("{left:?} on each of {pools:?}");
            let before = orders(&direct).await;
            let key = format!("tx-{number}");
            let idem = Idempotency::builder(store.clone()).build();
            let order = |idem: Idempotency<PostgresStore>| {
                let (key, request) = (key.clone(), id(&key));
                async move {
                    idem.run_in_tx(request, move |mut tx| {
                        let key = key.clone();
                        async move {
                            let insert = sqlx::query("INSERT INTO orders (key) VALUES ($1)").bind(key);
                            insert.persistent(pools.1).execute(&mut *tx).await?;
                            Ok(1)
                        }
                    })
                    .await
                }
            };
            spoil(&pool, *left).await;
            let reply = order(idem).await.expect(&case);
            assert_eq!(reply.origin(), Origin::Executed, "{case}");
            assert_eq!(orders(&direct).await, before + 1, "{case}");
            spoil(&pool, *left).await;
            let again = order(Idempotency::builder(store.clone()).build()).await.expect(&case);
            assert_eq!(again.origin(), Origin::Replayed, "{case}");
            assert_eq!(orders(&direct).await, before + 1, "{case}");
        }
    })
    .await;
}

/// What a service does all day: clients hang up while their transaction is being begun, by the way of requests that do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_among_begins_that_are_cancelled_at_every_point_are_executed_once() {
    let (_schema, pool, store, direct) = shop((5, true)).await;
    let (mut calls, mut cancelled) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for key in 0..40_u32 {
        let pool = pool.clone();
        cancelled.spawn(async move {
            if key % 2 == 0 {
                return leave(&mut pool.acquire().await.unwrap(), Left::CancelledBegin).await;
            }
            // So many polls, and then it is dropped.
            let mut begin = Box::pin(pool.begin());
            for _ in 0..=key % 4 {
                if futures::poll!(begin.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        });
        let idem = Idempotency::builder(store.clone()).build();
        let direct = direct.clone();
        calls.spawn(async move {
            let key = format!("k{key}");
            let reply = idem.run(id(&key), |_| async move {
                let insert = sqlx::query("INSERT INTO orders (key) VALUES ($1)").bind(key);
                insert.execute(&direct).await.unwrap();
                1
            });
            reply.await.map(|reply| *reply)
        });
    }
    cancelled.join_all().await;
    for reply in calls.join_all().await {
        assert_eq!(reply.unwrap(), 1);
    }
    assert!(store.in_doubt(100, None).await.unwrap().is_empty());
    for key in 0..40 {
        let idem = Idempotency::builder(store.clone()).build();
        let reply = idem.run(id(&format!("k{key}")), |_| async { 2 }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
    }
    assert_eq!(orders(&direct).await, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_opened_whatever_was_left_on_its_connection() {
    for (number, left) in LEFT.iter().enumerate() {
        if matches!(left, Left::Session(sql) if sql.contains("ROLE") || sql.contains("timeout")) {
            continue;
        }
        let schema = server().schema().await;
        let pool = schema.pool(1);
        spoil(&pool, *left).await;
        let options = || PostgresStore::options().schema(schema.name.clone());
        let case = format!("{left:?}");
        options().from_pool(pool.clone()).await.expect(&case);
        spoil(&pool, *left).await;
        let store = options()
            .without_migrations()
            .from_pool(pool.clone())
            .await
            .expect(&case);
        let request = id(&format!("k{number}"));
        assert!(
            matches!(
                store.claim(ClaimRequest::new(&request, LONG)).await,
                Ok(ClaimOutcome::Granted(_))
            ),
            "{case}"
        );
        let outside = options()
            .without_migrations()
            .from_pool(schema.pool(1))
            .await
            .expect(&case);
        assert!(outside.load(&request).await.unwrap().is_some(), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_is_looked_up_whatever_was_left_on_the_other_connections() {
    for left in LEFT {
        let schema = server().schema().await;
        let direct = schema.pool(2);
        direct
            .execute(
                "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text);
                 DO $$ BEGIN CREATE ROLE stranger; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
            )
            .await
            .unwrap();
        let proxy = Proxy::before(server().port()).await;
        let pool = schema.pool_through(proxy.port(), 3);
        let options = PostgresStore::options().schema(schema.name.clone());
        let store = options.from_pool(pool.clone()).await.unwrap();
        let idem = Idempotency::builder(store).build();
        let (others, spoiled) = (pool.clone(), *left);
        proxy.cut("COMMIT", Cut::After);
        let reply = idem.run_in_tx(id("k"), move |mut tx| {
            let others = others.clone();
            async move {
                let insert = sqlx::query("INSERT INTO orders (key) VALUES ('k')");
                insert.execute(&mut *tx).await?;
                for _ in 0..2 {
                    // Both at once: each is another one.
                    let (mut one, mut two) = (others.acquire().await?, others.acquire().await?);
                    leave(&mut one, spoiled).await;
                    leave(&mut two, spoiled).await;
                }
                Ok(1)
            }
        });
        let reply: Result<_, Error> = reply.await;
        let reply = reply.unwrap_or_else(|error| panic!("{left:?}: {error:?}"));
        assert_eq!((*reply, reply.origin()), (1, Origin::Executed), "{left:?}");
        assert_eq!(proxy.cuts(), 1, "{left:?}");
        assert_eq!(orders(&direct).await, 1, "{left:?}");
    }
}
