//! Claims that go out together: whatever becomes of their callers, or of a runtime, concerns no others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use futures::future::{MaybeDone, join_all, maybe_done};
use futures::poll;
use oneflight::store::Store;
use oneflight_postgres::PostgresStore;

use crate::postgres::server;
use crate::together::{CALLERS, claim, granted, in_time};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_are_dropped_or_never_polled_again_hold_up_no_others() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(8)).await.unwrap();
    let mut kept: Vec<Pin<Box<MaybeDone<_>>>> = Vec::new();
    for round in 0..20 {
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("{round}-{number}")).collect();
        let claim = |key| Box::pin(maybe_done(claim(&store, key)));
        let mut claims: Vec<_> = keys.iter().map(|key| Some(claim(key))).collect();
        for claim in claims.iter_mut().flatten() {
            let _ = poll!(claim);
        }
        for (number, claim) in claims.iter_mut().enumerate() {
            match number % 4 {
                // The first was sent by its caller, and has a connection.
                0 if number > 0 || round == 0 => kept.extend(claim.take()),
                1 => drop(claim.take()),
                _ => {}
            }
        }
        let mut others: Vec<_> = claims.into_iter().flatten().collect();
        in_time("the others", join_all(others.iter_mut().map(Pin::as_mut))).await;
        for other in &mut others {
            let claim = granted(other.as_mut().take_output().unwrap());
            store.release(claim).await.unwrap();
        }
    }
    // Those that were kept have an answer.
    in_time("those that were kept", join_all(kept.iter_mut().map(Pin::as_mut))).await;
    for kept in &mut kept {
        drop(granted(kept.as_mut().take_output().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_ends_leaves_no_caller_of_another_one_waiting() {
    let schema = server().schema().await;
    let store = Arc::new(PostgresStore::from_pool(schema.pool(8)).await.unwrap());
    for round in 0..20 {
        let ends = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        for number in 0..CALLERS {
            let store = Arc::clone(&store);
            ends.spawn(async move { claim(&store, &format!("ends-{round}-{number}")).await.map(drop) });
        }
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("stays-{round}-{number}")).collect();
        let staying = join_all(keys.iter().map(|key| claim(&store, key)));
        let ending = async {
            tokio::time::sleep(Duration::from_millis(round % 4)).await;
            ends.shutdown_background();
        };
        // Each is answered, if only with an error: the connection may have been the other runtime's.
        in_time("those that stay", futures::future::join(staying, ending)).await;
    }
    // And the next are answered as ever, once those connections are gone.
    in_time("the next", async {
        while claim(&store, "next").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[test]
fn a_runtime_that_rests_holds_up_no_caller_of_another_one() {
    let rests = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let runs = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let store = runs.block_on(async {
        let schema = server().schema().await;
        PostgresStore::from_pool(schema.pool(8)).await.unwrap()
    });
    let mut resting = Vec::new();
    rests.block_on(async {
        for number in 0..4 {
            let store = store.clone();
            let mut asked = Box::pin(async move { claim(&store, &format!("rests-{number}")).await });
            let _ = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            resting.push(asked);
        }
    });
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let claims = runs.block_on(in_time(
        "the others",
        join_all(keys.iter().map(|key| claim(&store, key))),
    ));
    claims.into_iter().for_each(|outcome| drop(granted(outcome)));
    let _entered = rests.enter();
    drop(resting);
}
