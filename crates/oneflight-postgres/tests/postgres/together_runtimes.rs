//! Claims that go out together: whatever becomes of their callers, or of a runtime, concerns no others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures::future::{MaybeDone, join_all, maybe_done};
use futures::poll;
use oneflight::store::Store;
use oneflight_postgres::PostgresStore;

use crate::postgres::server;
use crate::proxy::{Cut, Proxy};
use crate::together::{CALLERS, LONG, claim, granted, in_time, quiet};

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

/// What a worker has spawned last waits for it, and no other one takes that over.
#[test]
fn a_task_that_is_late_sends_what_is_left_to_it_and_holds_up_no_others() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (proxy, store) = runtime.block_on(async {
        let schema = server().schema().await;
        let proxy = Proxy::before(server().port()).await;
        let store = PostgresStore::from_pool(quiet(&schema, proxy.port(), 8)).await.unwrap();
        drop(granted(claim(&store, "prepares").await));
        (proxy, store)
    });
    let ((asks, asked), (leaves, left)) = (mpsc::channel(), mpsc::channel::<()>());
    let blocked = runtime.spawn({
        let store = store.clone();
        async move {
            let mut first = Box::pin(claim(&store, "first"));
            let mut waits = Box::pin(claim(&store, "waits"));
            // It goes out at once, or would: the worker blocks.
            assert!(poll!(&mut first).is_pending());
            // It waits for that, and has a task spawned.
            assert!(poll!(&mut waits).is_pending());
            asks.send(()).unwrap();
            left.recv().unwrap();
            // The task has its turn before this is polled again, and long after its time.
            tokio::task::yield_now().await;
            (first.await, waits.await)
        }
    });
    asked.recv().unwrap();
    let keys: Vec<_> = (0..CALLERS).map(|number| format!("key-{number}")).collect();
    let others = runtime.block_on(in_time(
        "the others",
        join_all(keys.iter().map(|key| claim(&store, key))),
    ));
    others.into_iter().for_each(|outcome| drop(granted(outcome)));
    assert!(!blocked.is_finished());
    leaves.send(()).unwrap();
    let (first, waited) = runtime.block_on(in_time("those of the worker", blocked)).unwrap();
    assert_ne!(granted(first).token(), granted(waited).token());
    drop(proxy);
}

/// A waker that is gone asks for something of its own.
struct Asks<A: Fn() + Send + Sync>(A);

impl<A: Fn() + Send + Sync> Wake for Asks<A> {
    fn wake(self: Arc<Self>) {}
}

impl<A: Fn() + Send + Sync> Drop for Asks<A> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waker_that_is_dropped_with_what_nobody_wants_holds_no_other_up() {
    let schema = server().schema().await;
    let proxy = Proxy::before(server().port()).await;
    let store = PostgresStore::from_pool(quiet(&schema, proxy.port(), 8)).await.unwrap();
    let (tells, told) = mpsc::channel();
    let waker = Waker::from(Arc::new(Asks({
        let (runtime, store) = (tokio::runtime::Handle::current(), store.clone());
        move || {
            let ((asks, asked), runtime, store) = (mpsc::channel(), runtime.clone(), store.clone());
            std::thread::spawn(move || {
                let _entered = runtime.enter();
                let mut claim = Box::pin(claim(&store, "asked by a waker"));
                let _ = claim.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                asks.send(())
            });
            tells.send(asked.recv_timeout(LONG / 3).is_ok()).unwrap();
        }
    })));
    // The message of the first is under way, and the others wait for it.
    proxy.cut("", Cut::Delay(Duration::from_millis(100)));
    let (mut first, mut gone, mut other) = (
        Box::pin(claim(&store, "first")),
        Box::pin(claim(&store, "gone")),
        Box::pin(claim(&store, "other")),
    );
    assert!(poll!(&mut first).is_pending());
    assert!(gone.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(poll!(&mut other).is_pending());
    drop(waker);
    assert!(told.try_recv().is_err());
    drop(gone);
    let (first, other) = in_time("the others", futures::future::join(first, other)).await;
    drop((granted(first), granted(other)));
    assert!(told.recv_timeout(LONG / 3).unwrap());
}
