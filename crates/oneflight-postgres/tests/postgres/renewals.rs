//! A process renews all its leases in a few statements, however many it holds; and what is wrong with one holds no other up.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use futures::future::join_all;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, FencingToken, RecordedResult, Verdict};
use oneflight::store::{Claim, Store, StoreError};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection, Executor};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::postgres::{Schema, Server, server};
use crate::proxy::{Cut, Proxy};

pub const MINUTE: Duration = Duration::from_secs(60);
/// More than anything here takes that is not held up.
pub const SOON: Duration = Duration::from_secs(15);

/// What has to mean the same as part of a statement's text.
pub fn id(number: usize) -> RequestIdentity {
    RequestIdentity::new(Scope::new(r"cañón 表\').$1"), format!("k{number}")).unwrap()
}

/// So many claims, of `id(0)` and those that follow.
pub async fn claims(pool: &PgPool, count: usize, lease: Duration) -> Vec<FencingToken> {
    let tokens: Vec<i64> = sqlx::query_scalar(
        "WITH instant AS (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now),
         claimed AS (
            INSERT INTO oneflight_records (scope, key, token, holder, attempt, claimed_at, lease_expires_at)
            SELECT $1, 'k' || number, nextval('oneflight_tokens'), decode(repeat('07', 16), 'hex'), 1, now, now + $3
            FROM generate_series(0, $2 - 1) AS number, instant RETURNING key, token)
         SELECT token FROM claimed ORDER BY substr(key, 2)::bigint",
    )
    .bind(id(0).scope())
    .bind(i64::try_from(count).unwrap())
    .bind(i64::try_from(lease.as_millis()).unwrap())
    .fetch_all(pool)
    .await
    .unwrap();
    tokens
        .into_iter()
        .map(|token| FencingToken::new(token.unsigned_abs()))
        .collect()
}

pub async fn remaining(store: &PostgresStore, number: usize) -> Duration {
    let record = store.load(&id(number)).await.unwrap().unwrap();
    record.lease_remaining().unwrap()
}

/// Renews these leases at the same moment.
pub async fn renewed(store: &PostgresStore, tokens: &[FencingToken], lease: Duration) -> Vec<Result<(), StoreError>> {
    let each = tokens.iter().enumerate().map(async |(number, token)| {
        let id = id(number);
        store.renew(&id, *token, lease).await
    });
    timeout(SOON, join_all(each)).await.expect("renewals take too long")
}

/// A store, with prepared statements and without, each in a schema of its own.
async fn both(connections: u32) -> [(Schema, PgPool, PostgresStore); 2] {
    let open = async |options: oneflight_postgres::PostgresOptions| {
        let schema = server().schema().await;
        let pool = schema.pool(connections);
        let store = options.from_pool(pool.clone()).await.unwrap();
        (schema, pool, store)
    };
    let with = PostgresStore::options();
    [open(with.clone()).await, open(with.without_prepared_statements()).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_leases_are_renewed_in_twenty_statements_a_third() {
    const LEASES: usize = 10_000;
    let server = Server::start("-c fsync=off -c log_statement=all -c log_parameter_max_length=0");
    let schema = server.schema().await;
    let pool = schema.pool(4);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let lease = Duration::from_secs(12);
    let tokens = claims(&pool, LEASES, lease).await;

    let (third, begun) = (lease / 3, Instant::now());
    let mut renewing = JoinSet::new();
    for (number, token) in tokens.into_iter().enumerate() {
        let store = store.clone();
        renewing.spawn(async move {
            tokio::time::sleep(third.mul_f64(number as f64 / LEASES as f64)).await;
            let asked = Instant::now();
            store.renew(&id(number), token, lease).await.unwrap();
            asked.elapsed()
        });
    }
    let waited = renewing.join_all().await.into_iter().max().unwrap();
    // On a busy machine it takes longer than a third.
    let thirds = begun.elapsed().as_secs_f64().max(third.as_secs_f64()) / third.as_secs_f64();
    let statements = statements_in(&server.log());
    println!("{LEASES} leases in {statements} statements and {thirds:.2} thirds, none in more than {waited:?}");
    assert!(
        (10..).contains(&statements),
        "{statements}: this test no longer finds them"
    );
    assert!(statements as f64 <= 20.0 * thirds, "{statements} in {thirds} thirds");
    for number in [0, LEASES / 2, LEASES - 1] {
        // Each lasts from a moment after this test began to renew them. Clocks are read to the millisecond.
        let lasts = remaining(&store, number).await + begun.elapsed();
        assert!(lasts + Duration::from_millis(5) >= lease, "{number}: {lasts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_renewals_is_answered_for_itself() {
    for (_schema, pool, store) in both(3).await {
        let mut tokens = claims(&pool, 1_200, MINUTE).await;
        let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
        let claim = |number: usize| Claim::new(id(number), tokens[number], 1, None);
        store.complete(claim(7), result, MINUTE).await.unwrap();
        store.release(claim(300)).await.unwrap();
        tokens[500] = FencingToken::new(tokens[500].get() + 1_000_000);
        // Some for longer, and some for no longer than they have; and some twice. None so short that a busy machine has no time for it.
        let lease = |number: usize| [MINUTE / 2, MINUTE, MINUTE * 2][number % 3];
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
        assert!(remaining(&store, 3).await <= MINUTE);
        assert!(remaining(&store, 2).await <= MINUTE * 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_others_have_locked_delay_no_other_lease() {
    for (schema, pool, store) in both(4).await {
        let tokens = claims(&pool, 100, MINUTE).await;
        let other = schema.pool(1);
        let mut holding = other.begin().await.unwrap();
        let lock = "SELECT 1 FROM oneflight_records WHERE key IN ('k3', 'k60') FOR UPDATE";
        holding.execute(lock).await.unwrap();
        let mut renewing: JoinSet<_> = (0..100)
            .map(|number| {
                let (store, token) = (store.clone(), tokens[number]);
                async move { (number, store.renew(&id(number), token, MINUTE * 2).await) }
            })
            .collect();
        for _ in 0..98 {
            let next = timeout(SOON, renewing.join_next()).await.expect("it is held up");
            let (number, renewed) = next.unwrap().unwrap();
            assert!(![3, 60].contains(&number));
            renewed.unwrap();
        }
        assert!(renewing.try_join_next().is_none());
        holding.rollback().await.unwrap();
        for (_number, renewed) in timeout(SOON, renewing.join_all()).await.unwrap() {
            renewed.unwrap();
        }
        for number in [0, 3, 60] {
            assert!(remaining(&store, number).await > MINUTE, "{number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_completed_while_others_had_it_locked_is_outdated() {
    let [(schema, pool, store), _] = both(4).await;
    let tokens = claims(&pool, 10, MINUTE).await;
    let other = schema.pool(1);
    let mut completing = other.begin().await.unwrap();
    let complete = "UPDATE oneflight_records SET completed_at = 1, expires_at = 9000000000000, lease_expires_at = NULL, result = ''
                    WHERE key = 'k3'";
    completing.execute(complete).await.unwrap();
    let (renewed, ()) = tokio::join!(renewed(&store, &tokens, MINUTE), async {
        while blocked(&pool).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        completing.commit().await.unwrap();
    });
    for (number, renewed) in renewed.into_iter().enumerate() {
        assert_eq!(
            matches!(renewed, Err(StoreError::Outdated { .. })),
            number == 3,
            "{number}: {renewed:?}"
        );
        assert_eq!(renewed.is_ok(), number != 3);
    }
}

/// How many sessions wait for a lock of a row.
async fn blocked(pool: &PgPool) -> i64 {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%oneflight_renew%'";
    sqlx::query_scalar(waiting).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_server_rejects_fails_alone() {
    for (_schema, pool, store) in both(3).await {
        let tokens = claims(&pool, 50, MINUTE).await;
        pool.execute(
            "CREATE FUNCTION rejects() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.key = 'k7' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER rejects BEFORE UPDATE ON oneflight_records FOR EACH ROW EXECUTE FUNCTION rejects()",
        )
        .await
        .unwrap();
        for (number, renewed) in renewed(&store, &tokens, MINUTE * 2).await.into_iter().enumerate() {
            assert_eq!(renewed.is_err(), number == 7, "{number}: {renewed:?}");
        }
        assert!(remaining(&store, 8).await > MINUTE);
        assert!(remaining(&store, 7).await <= MINUTE);
    }
}

// On one thread: the task that gathers has its turn when all have asked, however busy the machine is.
#[tokio::test]
async fn a_connection_that_is_lost_fails_them_all_soon_and_the_next_try_renews_them() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let pool = schema.pool_through(proxy.port(), 2);
    let options = PostgresStore::options().without_prepared_statements();
    let store = options.from_pool(pool.clone()).await.unwrap();
    let lease = Duration::from_secs(9);
    let tokens = claims(&pool, 20, lease).await;
    for cut in [Cut::Before, Cut::AfterAnswer, Cut::Swallowed] {
        let begun = Instant::now();
        proxy.cut("oneflight_renew_together", cut);
        let lost = renewed(&store, &tokens, lease).await;
        assert!(
            lost.iter().all(|it| matches!(it, Err(StoreError::Unavailable { .. }))),
            "{cut:?}: {lost:?}"
        );
        assert_eq!(proxy.cuts(), 1 + cut_before(cut));
        // Whatever happened, there is time for another try.
        assert!(begun.elapsed() < lease, "{cut:?}: {:?}", begun.elapsed());
        let again = renewed(&store, &tokens, lease).await;
        assert!(again.iter().all(Result::is_ok), "{cut:?}: {again:?}");
    }
}

fn cut_before(cut: Cut) -> usize {
    match cut {
        Cut::Before => 0,
        Cut::AfterAnswer => 1,
        _ => 2,
    }
}

// On one thread: the task that gathers has its turn when all have asked, however busy the machine is.
#[tokio::test]
async fn a_short_lease_takes_nothing_from_the_time_of_a_long_one() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let pool = schema.pool_through(proxy.port(), 8);
    let options = PostgresStore::options().without_prepared_statements();
    let store = options.from_pool(pool.clone()).await.unwrap();
    let tokens = claims(&pool, 20, MINUTE).await;
    // Longer than a third of the short ones' lease, and shorter than one of the long ones'.
    proxy.cut_times("oneflight_renew", Cut::Delay(Duration::from_secs(2)), 2);
    let lease = |number: usize| match number % 2 {
        0 => Duration::from_millis(900),
        _ => MINUTE * 2,
    };
    let each = (0..20).map(async |number| store.renew(&id(number), tokens[number], lease(number)).await);
    for (number, renewed) in timeout(SOON, join_all(each)).await.unwrap().into_iter().enumerate() {
        assert_eq!(renewed.is_ok(), number % 2 == 1, "{number}: {renewed:?}");
    }
    assert_eq!(proxy.cuts(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_renewed_while_the_user_keeps_the_whole_pool() {
    for (_schema, pool, store) in both(2).await {
        let tokens = claims(&pool, 100, MINUTE).await;
        let kept = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
        let renewed = renewed(&store, &tokens, MINUTE * 2).await;
        assert!(renewed.iter().all(Result::is_ok), "{renewed:?}");
        drop(kept);
        assert!(remaining(&store, 99).await > MINUTE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_renewed_whatever_state_the_pool_lends_a_connection_in() {
    for prepares in [true, false] {
        let schema = server().schema().await;
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .connect_lazy_with(schema.options.clone());
        let options = PostgresStore::options();
        let options = if prepares {
            options
        } else {
            options.without_prepared_statements()
        };
        let store = options.from_pool(pool.clone()).await.unwrap();
        let direct = schema.pool(1);
        let tokens = claims(&direct, 30, MINUTE).await;
        for (times, left) in (2..).zip([
            "BEGIN; SELECT 1",
            "BEGIN; SELECT 1 / 0",
            "SET default_transaction_read_only = on",
            "SET client_encoding = 'LATIN1'",
            "SET search_path = pg_temp; SET standard_conforming_strings = off; SET bytea_output = 'escape'",
            "DEALLOCATE ALL",
        ]) {
            let mut lent = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
            for connection in &mut lent {
                connection.ping().await.unwrap();
                let _ = connection.execute(left).await;
            }
            drop(lent);
            let renewed = renewed(&store, &tokens, MINUTE * times).await;
            assert!(renewed.iter().all(Result::is_ok), "{left}: {renewed:?}");
            let store = PostgresStore::options().from_pool(direct.clone()).await.unwrap();
            assert!(remaining(&store, 29).await > MINUTE * (times - 1), "{left}");
        }
    }
}

/// As two processes would that hold the same claims, in opposite orders, while others change the records: a statement that
/// waited for a record with others locked would meet the other one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_never_wait_for_each_other_in_a_circle() {
    let schema = server().schema().await;
    let (one, two) = (schema.pool(3), schema.pool(3));
    let stores = [
        PostgresStore::from_pool(one.clone()).await.unwrap(),
        PostgresStore::from_pool(two.clone()).await.unwrap(),
    ];
    let tokens = claims(&one, 60, MINUTE).await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let before: i64 = sqlx::query_scalar(deadlocks).fetch_one(&one).await.unwrap();
    for round in 0..8 {
        // Its window is short, and there is time for an answer of a busy machine's.
        let short = Duration::from_secs(12);
        let renew = async |store: &PostgresStore, backwards: bool| {
            let each = (0..60).map(async |place: usize| {
                let number = if backwards { 59 - place } else { place };
                store.renew(&id(number), tokens[number], short).await
            });
            join_all(each).await
        };
        let write = async || {
            let mut transaction = two.begin().await.unwrap();
            for number in [50 - round, 20 + round] {
                let touch = sqlx::query("UPDATE oneflight_records SET claimed_at = claimed_at WHERE key = $1");
                touch
                    .bind(format!("k{number}"))
                    .execute(&mut *transaction)
                    .await
                    .unwrap();
            }
            transaction.commit().await.unwrap();
        };
        let all = async { tokio::join!(renew(&stores[0], false), renew(&stores[1], true), write()) };
        let (forwards, backwards, ()) = timeout(SOON, all).await.expect("they wait for each other");
        for renewed in forwards.into_iter().chain(backwards) {
            renewed.unwrap();
        }
    }
    let after: i64 = sqlx::query_scalar(deadlocks).fetch_one(&one).await.unwrap();
    assert_eq!(after, before);
}

/// How many statements of a server's log renew.
fn statements_in(log: &str) -> usize {
    let of_ours = |line: &&str| line.contains(r#""oneflight_renew"#) && line.contains("CALL");
    log.lines().filter(of_ours).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_server_rejects_costs_its_window_few_statements() {
    let server = Server::start("-c fsync=off -c log_statement=all -c log_parameter_max_length=0");
    let schema = server.schema().await;
    let pool = schema.pool(2);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let tokens = claims(&pool, 500, MINUTE).await;
    // What does not say that a row is at fault: the time of a statement, a right, or room.
    for (number, code) in ["P0001", "57014", "53200", "54001"].into_iter().enumerate() {
        let rejects = format!(
            "CREATE OR REPLACE FUNCTION rejects() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.key = 'k7' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$;
             CREATE OR REPLACE TRIGGER rejects BEFORE UPDATE ON oneflight_records FOR EACH ROW EXECUTE FUNCTION rejects()"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(rejects))
            .execute(&pool)
            .await
            .unwrap();
        let before = statements_in(&server.log());
        let lease = MINUTE * u32::try_from(number + 2).unwrap();
        for (number, renewed) in renewed(&store, &tokens, lease).await.into_iter().enumerate() {
            assert_eq!(renewed.is_err(), number == 7, "{code}, {number}: {renewed:?}");
        }
        let statements = statements_in(&server.log()) - before;
        // One that may be a session's fault is tried on other connections.
        assert!((10..=90).contains(&statements), "{code}: {statements}");
        assert!(remaining(&store, 8).await > lease - MINUTE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_renew_many_at_once_renews_each() {
    let server = Server::start("-c fsync=off -c log_statement=all -c log_parameter_max_length=0");
    let schema = server.schema().await;
    let owner = schema.pool(1);
    let store = PostgresStore::from_pool(owner.clone()).await.unwrap();
    let tokens = claims(&owner, 50, MINUTE).await;
    let grants = format!(
        "CREATE ROLE older; GRANT USAGE ON SCHEMA {0} TO older;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {0} TO older;
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {0} TO older;
         REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA {0} FROM PUBLIC;
         GRANT EXECUTE ON PROCEDURE {0}.oneflight_renew TO older",
        schema.name
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(grants))
        .execute(&owner)
        .await
        .unwrap();
    let mut as_older = schema.clone();
    as_older.options = as_older.options.options([("role", "older")]);
    let older = PostgresStore::from_pool(as_older.pool(2)).await.unwrap();
    let together = |log: &str| log.matches(r#""oneflight_renew_together""#).count();
    for round in 2..5 {
        let before = together(&server.log());
        let renewed = renewed(&older, &tokens, MINUTE * round).await;
        assert!(renewed.iter().all(Result::is_ok), "{renewed:?}");
        assert!(remaining(&store, 49).await > MINUTE * (round - 1));
        // It is not tried anew each time, since that closes connections.
        let tried = together(&server.log()) - before;
        assert_eq!(tried > 0, round == 2, "{round}: {tried}");
    }
}

/// As if a statement of ours was not answered and is not over. On one thread, so that all have asked before the first statement is sent.
#[tokio::test]
async fn many_that_are_locked_for_a_moment_are_renewed_together_later() {
    let server = Server::start("-c fsync=off -c log_statement=all -c log_parameter_max_length=0");
    let schema = server.schema().await;
    let pool = schema.pool(2);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let tokens = claims(&pool, 100, MINUTE).await;
    let other = schema.pool(1);
    let mut holding = other.begin().await.unwrap();
    holding
        .execute("SELECT 1 FROM oneflight_records FOR UPDATE")
        .await
        .unwrap();
    // There are 2 s until the next try.
    let (renewed, ()) = tokio::join!(renewed(&store, &tokens, MINUTE * 2), async {
        while statements_in(&server.log()) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        holding.rollback().await.unwrap();
    });
    assert!(renewed.iter().all(Result::is_ok), "{renewed:?}");
    let statements = statements_in(&server.log());
    assert!(statements <= 6, "{statements}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_wanted_any_more_is_not_renewed_when_a_connection_comes() {
    let schema = server().schema().await;
    let pool = schema.pool(2);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let tokens = claims(&schema.pool(1), 4, MINUTE).await;
    let watching = schema.pool(1);
    // The reserve is a pool of one beside it.
    let direct = schema.pool(1);
    let lock = "BEGIN; SELECT 1 FROM oneflight_records WHERE key = 'k0' FOR UPDATE";
    let mut holding = direct.acquire().await.unwrap();
    holding.execute(lock).await.unwrap();
    let kept = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let asks = |number: usize| {
        let (store, token) = (store.clone(), tokens[number]);
        tokio::spawn(async move { store.renew(&id(number), token, MINUTE * 2).await })
    };
    // It has the connection in reserve until the lock is gone.
    let first = asks(0);
    while blocked(&watching).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (gone, stays, last) = (asks(1), asks(2), asks(3));
    // They are gathered for a second, and then wait for a connection.
    tokio::time::sleep(Duration::from_secs(4)).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    holding.execute("ROLLBACK").await.unwrap();
    for renewed in [first, stays, last] {
        timeout(SOON, renewed).await.unwrap().unwrap().unwrap();
    }
    drop(kept);
    assert!(remaining(&store, 2).await > MINUTE);
    assert!(remaining(&store, 1).await <= MINUTE);
}
