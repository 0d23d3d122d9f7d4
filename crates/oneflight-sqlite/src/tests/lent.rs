//! Connections of a user's pool that are dropped, or not waited for any more.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::mpsc;
use std::thread;

use futures::future::{Either, select};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePoolOptions};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::queue::Rank;
use super::id;
use super::shop::{LONG, Shop};
use oneflight::OnAbandon;
use oneflight::idempotency::Idempotency;

/// A runtime that rests, and a shop on a pool that replaces what is taken out of it, for which it begins a task.
fn shop(connections: u32) -> (Runtime, Shop) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let pool = SqlitePoolOptions::new().min_connections(1).max_connections(connections);
    let shop = runtime.block_on(Shop::on_a_pool(pool));
    (runtime, shop)
}

/// Fails if the lock is kept.
async fn can_be_written(shop: &Shop) {
    let path = shop.folder.path().join("shop.db");
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(LONG / 2);
    let mut elsewhere = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK")
        .execute(&mut elsewhere)
        .await
        .unwrap();
}

/// Waits until something has begun that goes on.
async fn begun<F: Future<Output: std::fmt::Debug>>(work: F, begun: oneshot::Receiver<()>) {
    match select(pin!(work), begun).await {
        Either::Left((ended, _)) => panic!("{ended:?}"),
        Either::Right((begun, _)) => begun.unwrap(),
    }
}

#[test]
fn a_turn_that_is_dropped_outside_a_runtime_is_rolled_back() {
    let (runtime, shop) = shop(3);
    let turn = runtime.block_on(shop.store.works.begin(Rank::Work, None)).unwrap();
    drop(turn);
    runtime.block_on(can_be_written(&shop));
}

#[test]
fn work_that_is_dropped_outside_a_runtime_is_rolled_back() {
    let (runtime, shop) = shop(3);
    let idem = Idempotency::builder(shop.store.clone());
    let idem = idem.on_abandon(OnAbandon::Cancel).build();
    let (begins, has_begun) = oneshot::channel();
    let mut work = Box::pin(idem.run_in_tx(id("dropped"), |tx| async move {
        begins.send(()).unwrap();
        pending::<()>().await;
        drop(tx);
        Ok(1)
    }));
    runtime.block_on(begun(&mut work, has_begun));
    drop(work);
    runtime.block_on(can_be_written(&shop));
    // So is one that has left its work.
    let (leaves, left) = mpsc::channel();
    let escaped = runtime.block_on(idem.run_in_tx(id("escaped"), move |tx| async move {
        leaves.send(tx).unwrap();
        Ok(1)
    }));
    escaped.unwrap_err();
    thread::spawn(move || drop(left)).join().expect("it does not panic");
    runtime.block_on(can_be_written(&shop));
}

#[test]
fn a_connection_that_is_left_to_one_that_goes_outside_a_runtime_is_closed() {
    let (runtime, shop) = shop(1);
    let (works, pool) = (&shop.store.works, shop.store.pool());
    let mut first = runtime.block_on(works.turn(Rank::Work, None)).unwrap();
    let mut next = Box::pin(works.turn(Rank::Work, None));
    runtime.block_on(async {
        assert!(futures::poll!(&mut next).is_pending(), "it did not wait");
        works.hand_on(&mut first);
    });
    assert!(works.handed.has_any());
    drop(next);
    assert!(!works.handed.has_any());
    let lent = runtime.block_on(async { timeout(LONG / 2, pool.acquire()).await });
    runtime.block_on(async { drop(lent.expect("it is kept").unwrap()) });
}
