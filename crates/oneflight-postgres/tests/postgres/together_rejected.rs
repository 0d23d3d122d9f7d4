//! Claims and completions that go out together: what one of them is rejected for is its own affair, and what all are rejected for is remembered.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use futures::future::join_all;
use oneflight::record::FencingToken;
use oneflight::store::{Claim, Store, StoreError};
use oneflight_postgres::PostgresStore;
use sqlx::Executor;

use crate::postgres::server;
use crate::proxy::Proxy;
use crate::together::{CALLERS, FEW, HOUR, claim, granted, id, quiet, result, transactions, until_idle};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_rejects_fails_alone() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let guard = "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.key = 'claim-13' OR (NEW.key = 'complete-13' AND NEW.result IS NOT NULL) THEN
                 RAISE check_violation USING MESSAGE = 'not this one';
             END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON oneflight_records FOR EACH ROW EXECUTE FUNCTION guard()";
    store.pool().execute(guard).await.unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("claim-{number}")).collect();
    let outcomes = join_all(keys.iter().map(|key| claim(&store, key))).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match number {
            13 => assert!(outcome.unwrap_err().to_string().contains("not this one")),
            _ => drop(granted(outcome)),
        }
    }
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("complete-{number}")).collect();
    let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
    let completions = claims
        .into_iter()
        .map(|outcome| store.complete(granted(outcome), result(b"1"), HOUR));
    for (number, completed) in join_all(completions).await.into_iter().enumerate() {
        assert_eq!(completed.is_err(), number == 13, "{number}: {completed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_was_taken_over_learns_it_among_others_as_well() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
    let completions = claims.into_iter().enumerate().map(|(number, outcome)| {
        let claim = granted(outcome);
        let claim = match number {
            7 => Claim::new(id("key-7"), FencingToken::new(claim.token().get() + 1_000), 1, None),
            _ => claim,
        };
        store.complete(claim, result(b"1"), HOUR)
    });
    for (number, completed) in join_all(completions).await.into_iter().enumerate() {
        match number {
            7 => assert!(matches!(completed, Err(StoreError::Outdated { .. })), "{completed:?}"),
            _ => completed.unwrap(),
        }
    }
}

/// As a pooler does that has lost the server: what it says is no word of the server's that nothing is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_server_is_a_lost_answer_for_each() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let guard = "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.key LIKE '%-13' THEN
                 RAISE EXCEPTION USING ERRCODE = '08P01', MESSAGE = 'server conn crashed?';
             END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER guard BEFORE INSERT ON oneflight_records FOR EACH ROW EXECUTE FUNCTION guard()";
    store.pool().execute(guard).await.unwrap();
    let mut lost = 0;
    // On a busy machine some go alone.
    for round in 0..5 {
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("{round}-{number}")).collect();
        for outcome in join_all(keys.iter().map(|key| claim(&store, key))).await {
            match outcome {
                Err(error) => {
                    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
                    lost += 1;
                }
                granted => drop(self::granted(granted)),
            }
        }
    }
    assert!(lost > 5, "{lost}: each went alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_left_in_a_transaction_has_no_step_go_alone() {
    let schema = server().schema().await;
    let direct = schema.pool(1);
    let pool = quiet(&schema, server().port(), 3);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let mut least = usize::MAX;
    for round in 0..5 {
        direct.execute("DELETE FROM oneflight_records").await.unwrap();
        // The one that was given back first is lent first.
        let (clean, mut left, last) = (
            pool.acquire().await.unwrap(),
            pool.acquire().await.unwrap(),
            pool.acquire().await.unwrap(),
        );
        left.execute("BEGIN; SELECT txid_current()").await.unwrap();
        for (idle, connection) in [clean, left, last].into_iter().enumerate() {
            drop(connection);
            until_idle(&pool, idle + 1).await;
        }
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("{round}-{number}")).collect();
        let outcomes = join_all(keys.iter().map(|key| claim(&store, key))).await;
        outcomes.into_iter().for_each(|outcome| drop(granted(outcome)));
        least = least.min(transactions(&direct).await);
    }
    assert!(least <= FEW, "{least}");
}

/// As a role does that may not call it. Each message that is rejected closes a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_procedure_that_cannot_be_called_is_not_tried_again_and_again() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let store = PostgresStore::from_pool(quiet(&schema, proxy.port(), 4)).await.unwrap();
    let drop_it = "DO $$ BEGIN EXECUTE (SELECT 'DROP PROCEDURE ' || oid::regprocedure FROM pg_proc
                   WHERE proname = 'oneflight_claim_together' AND pronamespace = current_schema()::regnamespace); END $$";
    store.pool().execute(drop_it).await.unwrap();
    let mut before = 0;
    for round in 0..8 {
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("{round}-{number}")).collect();
        let outcomes = join_all(keys.iter().map(|key| claim(&store, key))).await;
        outcomes.into_iter().for_each(|outcome| drop(granted(outcome)));
        if round == 2 {
            before = proxy.connections();
        }
    }
    assert!(proxy.connections() <= before + 1, "{before}, {}", proxy.connections());
}
