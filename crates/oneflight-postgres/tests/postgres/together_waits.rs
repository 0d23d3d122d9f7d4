//! Claims and completions that go out together: none waits for what holds another one up, a row or a message.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use futures::poll;
use oneflight::idempotency::Idempotency;
use oneflight::store::{ClaimOutcome, ClaimRequest, Denied, Store, StoreError, Takeover};
use oneflight_postgres::PostgresStore;
use sqlx::Executor;
use sqlx::postgres::PgPoolOptions;

use crate::postgres::server;
use crate::proxy::{Cut, Proxy};
use crate::together::{CALLERS, HOUR, LONG, claim, granted, id, in_time, result, until_idle};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_others_have_locked_holds_up_its_own_callers_and_no_others() {
    let schema = server().schema().await;
    let (store, direct) = (PostgresStore::from_pool(schema.pool(8)).await.unwrap(), schema.pool(1));
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let lock = "SELECT FROM oneflight_records WHERE key IN ('key-5', 'key-50') FOR UPDATE";
    let expire = "UPDATE oneflight_records SET lease_expires_at = 1 WHERE key IN ('key-5', 'key-50')";

    let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
    let mut elsewhere = direct.begin().await.unwrap();
    elsewhere.execute(lock).await.unwrap();
    let completions = claims
        .into_iter()
        .map(|outcome| Box::pin(store.complete(granted(outcome), result(b"1"), HOUR)));
    let held_up = in_time("the completions", all_but(2, completions)).await;
    assert_eq!(held_up.len(), 2);
    elsewhere.rollback().await.unwrap();
    for held_up in held_up {
        in_time("a completion that was held up", held_up).await.unwrap();
    }

    // What is free as soon as a lease is over is locked by its holder's claim.
    direct.execute("DELETE FROM oneflight_records").await.unwrap();
    join_all([5, 50].map(|number| claim(&store, &keys[number]))).await;
    direct.execute(expire).await.unwrap();
    let mut elsewhere = direct.begin().await.unwrap();
    elsewhere.execute(lock).await.unwrap();
    let claims = keys.iter().map(|key| {
        let request = ClaimRequest::new(&id(key), HOUR).takeover(Takeover::Expired);
        Box::pin(store.claim(request.patience(LONG)))
    });
    let held_up = in_time("the claims", all_but(2, claims)).await;
    assert_eq!(held_up.len(), 2);
    elsewhere.rollback().await.unwrap();
    for held_up in held_up {
        let claim = granted(in_time("a claim that was held up", held_up).await);
        assert_eq!(claim.attempt(), 2);
    }
}

/// Waits for all of these but so many, which it returns.
async fn all_but<T: std::fmt::Debug, F>(left: usize, futures: impl Iterator<Item = Pin<Box<F>>>) -> Vec<Pin<Box<F>>>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut futures: Vec<_> = futures.collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(answer) => {
                answer.unwrap();
                false
            }
            Poll::Pending => true,
        });
        match futures.len() <= left {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    futures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_transaction_is_about_to_do_is_in_progress_for_a_claim_among_others() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(8)).await.unwrap();
    let (enters, entered) = tokio::sync::oneshot::channel();
    let (leaves, left) = tokio::sync::oneshot::channel::<()>();
    let transaction = tokio::spawn({
        let idem = Idempotency::builder(store.clone()).build();
        async move {
            let work = idem.run_in_tx(id("key-7"), move |_| async move {
                enters.send(()).unwrap();
                left.await.unwrap();
                Ok(1)
            });
            work.await.map(|reply| *reply)
        }
    });
    entered.await.unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let outcomes = in_time("the claims", join_all(keys.iter().map(|key| claim(&store, key)))).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match number {
            7 => assert!(
                matches!(outcome, Ok(ClaimOutcome::Denied(Denied::InProgress { .. }))),
                "{outcome:?}"
            ),
            _ => drop(granted(outcome)),
        }
    }
    leaves.send(()).unwrap();
    assert_eq!(transaction.await.unwrap().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_answered_holds_up_its_own_callers_and_no_others() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    // Its connections are made, and none is tested: the first message is swallowed.
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .min_connections(4)
        .test_before_acquire(false)
        .connect_with(schema.options.clone().port(proxy.port()))
        .await
        .unwrap();
    let options = PostgresStore::options().patience(Duration::from_secs(60));
    let store = options.from_pool(pool.clone()).await.unwrap();
    until_idle(&pool, 4).await;
    proxy.cut("", Cut::Swallowed);
    let mut unanswered = Box::pin(claim(&store, "unanswered"));
    assert!(poll!(&mut unanswered).is_pending());
    proxy.has_cut(1).await;
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let outcomes = in_time("the others", join_all(keys.iter().map(|key| claim(&store, key)))).await;
    let claims: Vec<_> = outcomes.into_iter().map(granted).collect();
    assert!(poll!(&mut unanswered).is_pending());

    // And now one of several: each is told when its own patience is over.
    let (short, long) = (Duration::from_secs(2), Duration::from_secs(6));
    proxy.cut("", Cut::Swallowed);
    let mut second = Box::pin(claim(&store, "second"));
    assert!(poll!(&mut second).is_pending());
    proxy.has_cut(2).await;
    proxy.cut("", Cut::Swallowed);
    let asked = (0..CALLERS).map(async |number| {
        let (id, patience) = (id(&format!("late-{number}")), [short, long][number % 2]);
        let request = ClaimRequest::new(&id, HOUR).patience(patience);
        let answer = store.claim(request).await;
        (patience, answer, Instant::now())
    });
    let answers = in_time("those of one message", join_all(asked)).await;
    assert_eq!(proxy.cuts(), 3);
    let late = |of| {
        let told = answers
            .iter()
            .filter(move |(patience, answer, _)| *patience == of && answer.is_err());
        told.map(|(.., told)| *told)
    };
    // The message that is not answered may be of one claim, on a machine that was busy.
    if let (Some(short), Some(long)) = (late(short).max(), late(long).min()) {
        assert!(short < long, "{answers:?}");
    }
    assert!(late(short).count() + late(long).count() > 0, "{answers:?}");
    for (_, answer, _) in &answers {
        if let Err(error) = answer {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        }
    }
    proxy.disarm();
    let complete = |claim| store.complete(claim, result(b"1"), HOUR);
    in_time("the completions", try_join_all(claims.into_iter().map(complete)))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_of_one_moment_go_over_the_reserve_while_the_pool_is_used_up() {
    let schema = server().schema().await;
    let pool = schema.pool(2);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
    let kept = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let completions = claims
        .into_iter()
        .map(|outcome| store.complete(granted(outcome), result(b"1"), HOUR));
    in_time("the completions", try_join_all(completions)).await.unwrap();
    // Who asks for a claim is told within its own time, and nothing was done.
    let asked = keys.iter().map(|key| {
        let id = id(&format!("asked-{key}"));
        store.claim(ClaimRequest::new(&id, HOUR).patience(Duration::from_millis(300)))
    });
    for answer in in_time("the claims", join_all(asked)).await {
        assert!(matches!(answer, Err(StoreError::NoConnection)), "{answer:?}");
    }
    drop(kept);
    assert!(matches!(
        claim(&store, "asked-key-1").await,
        Ok(ClaimOutcome::Granted(_))
    ));
}

/// The pool asks before it lends a connection, and is not answered. It has more of them than there are callers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_not_told_as_a_pool_that_is_used_up_however_soon() {
    const ASKED: usize = 8;
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let pool = schema.pool_through(proxy.port(), 3 * u32::try_from(ASKED).unwrap());
    let store = PostgresStore::from_pool(pool).await.unwrap();
    proxy.cut_times("", Cut::Swallowed, usize::MAX);
    for patience in [100, 200, 400].map(Duration::from_millis) {
        let asked = (0..ASKED).map(async |number| {
            let id = id(&format!("asked-{number}"));
            store.claim(ClaimRequest::new(&id, HOUR).patience(patience)).await
        });
        for answer in in_time("the claims", join_all(asked)).await {
            assert!(
                matches!(answer, Err(StoreError::Unavailable { .. })),
                "{patience:?}: {answer:?}"
            );
        }
    }
}

/// The pool asks before it lends a connection, and the answer takes its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_server_costs_no_connection() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let pool = schema.pool_through(proxy.port(), 4);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let made = join_all((0..4).map(|_| pool.acquire())).await;
    drop(made);
    until_idle(&pool, 4).await;
    let before = proxy.connections();
    proxy.cut_times("", Cut::Delay(Duration::from_millis(150)), 100_000);
    for round in 0..3 {
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("{round}-{number}")).collect();
        let outcomes = in_time("the claims", join_all(keys.iter().map(|key| claim(&store, key)))).await;
        outcomes.into_iter().for_each(|outcome| drop(granted(outcome)));
        until_idle(&pool, 4).await;
    }
    assert_eq!(proxy.connections(), before);
}
