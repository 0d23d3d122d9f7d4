//! Promise: with `purge_every`, what is past its retention goes by itself, in small batches, for as long as there is an
//! `Idempotency`, and no longer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::scripted::{Fault, Op, Scripted};
use oneflight::Drive;
use oneflight::idempotency::{Idempotency, IdempotencyBuilder};
use oneflight::identity::{RequestIdentity, Scope};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep};

const EVERY: Duration = Duration::from_secs(60);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

fn purging(store: &Scripted) -> IdempotencyBuilder<Scripted> {
    Idempotency::builder(store.clone()).purge_every(EVERY)
}

/// Completes requests that are past their retention at once.
async fn fill(store: &Scripted, records: usize) {
    let idem = Idempotency::builder(store.clone()).retention(Duration::ZERO).build();
    for number in 0..records {
        let _ = idem.run(id(&number.to_string()), |_| async { 1 }).await.unwrap();
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_begins_at_once_in_small_batches_and_again_after_a_pause() {
    let store = Scripted::new();
    fill(&store, 120).await;
    let began = Instant::now();
    let idem = purging(&store).build();
    while !store.inner.is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    // Two pauses between three batches.
    assert_eq!(store.calls(Op::Purge), 3);
    assert!(began.elapsed() >= Duration::from_millis(40), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    fill(&store, 1).await;
    sleep(EVERY - Duration::from_secs(1)).await;
    assert_eq!((store.calls(Op::Purge), store.inner.len()), (3, 1));
    sleep(Duration::from_secs(2)).await;
    assert_eq!((store.calls(Op::Purge), store.inner.len()), (4, 0));
    drop(idem);
}

#[tokio::test(start_paused = true)]
async fn unless_it_is_asked_for_nothing_is_purged() {
    let store = Scripted::new();
    let idem = Idempotency::builder(store.clone()).build();
    let _ = idem.run(id("a"), |_| async { 1 }).await.unwrap();
    sleep(EVERY * 10).await;
    assert_eq!(store.calls(Op::Purge), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_nothing_is_one_of_a_second() {
    let store = Scripted::new();
    let idem = Idempotency::builder(store.clone()).purge_every(Duration::ZERO).build();
    sleep(Duration::from_millis(9_500)).await;
    assert_eq!(store.calls(Op::Purge), 10);
    drop(idem);
}

#[tokio::test(start_paused = true)]
async fn a_round_that_goes_wrong_is_not_the_last() {
    let store = Scripted::new();
    let faults = [Fault::Fails, Fault::Panics, Fault::Hangs, Fault::Busy];
    store.next(Op::Purge, &faults);
    fill(&store, 1).await;
    let idem = purging(&store).build();
    while !store.inner.is_empty() {
        sleep(EVERY).await;
    }
    assert_eq!(store.calls(Op::Purge), faults.len() + 1);
    drop(idem);
}

#[tokio::test(start_paused = true)]
async fn all_copies_have_one_task_and_it_ends_with_the_last() {
    let store = Scripted::new();
    let idem = purging(&store).build();
    let (copy, other) = (idem.clone(), idem.with_retention(Duration::ZERO));
    for (number, idem) in [&idem, &copy, &other].into_iter().enumerate() {
        let _ = idem.run(id(&number.to_string()), |_| async { 1 }).await.unwrap();
    }
    sleep(EVERY * 3 + EVERY / 2).await;
    assert_eq!(store.calls(Op::Purge), 4);

    drop((idem, copy));
    sleep(EVERY).await;
    assert_eq!(store.calls(Op::Purge), 5);

    drop(other);
    let tasks = tokio::runtime::Handle::current().metrics();
    while tasks.num_alive_tasks() > 0 {
        // Not for the whole of a pause: it hears of the end.
        tokio::task::yield_now().await;
    }
    sleep(EVERY * 10).await;
    assert_eq!(store.calls(Op::Purge), 5);
}

#[test]
fn built_where_no_runtime_is_it_begins_with_the_first_call() {
    let store = Scripted::new();
    let idem = purging(&store).build();
    runtime().block_on(async {
        sleep(EVERY).await;
        assert_eq!(store.calls(Op::Purge), 0);
        for key in ["a", "b"] {
            let _ = idem.run(id(key), |_| async { 1 }).await.unwrap();
        }
        sleep(EVERY / 2).await;
        assert_eq!(store.calls(Op::Purge), 1);
    });
}

#[test]
fn it_ends_with_its_runtime_and_begins_on_the_next() {
    let store = Scripted::new();
    let first = runtime();
    let idem = first.block_on(async {
        let idem = purging(&store).build();
        sleep(EVERY / 2).await;
        idem
    });
    assert_eq!(store.calls(Op::Purge), 1);
    drop(first);
    runtime().block_on(async {
        let _ = idem.run(id("a"), |_| async { 1 }).await.unwrap();
        sleep(EVERY / 2).await;
    });
    assert_eq!(store.calls(Op::Purge), 2);
}

#[test]
fn it_runs_on_the_runtime_that_was_set() {
    let store = Scripted::new();
    let set = runtime();
    let idem = purging(&store).runtime(set.handle().clone()).build();
    set.block_on(async { sleep(EVERY / 2).await });
    assert_eq!(store.calls(Op::Purge), 1);
    drop(idem);
}

#[test]
fn when_the_runtime_that_was_set_is_gone_it_begins_on_that_of_the_next_call() {
    let store = Scripted::new();
    let set = runtime();
    let idem = purging(&store)
        .drive(Drive::InPlace)
        .runtime(set.handle().clone())
        .build();
    set.block_on(async { sleep(EVERY / 2).await });
    assert_eq!(store.calls(Op::Purge), 1);
    drop(set);
    runtime().block_on(async {
        for key in ["a", "b"] {
            let _ = idem.run(id(key), |_| async { 1 }).await.unwrap();
        }
        sleep(EVERY / 2).await;
        assert_eq!(store.calls(Op::Purge), 2);
    });
}
