//! Connections of a user's pool that are dropped, or not waited for any more.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use futures::future::{Either, join_all, select};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePoolOptions};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

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
    for ends in [false, true] {
        let (runtime, shop) = shop(3);
        let turn = runtime.block_on(shop.store.works.begin(Rank::Work, None)).unwrap();
        let runtime = (!ends).then_some(runtime);
        drop(turn);
        let (another, _) = self::shop(1);
        runtime.unwrap_or(another).block_on(can_be_written(&shop));
    }
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

/// A pool that was about to lend one, and finds that nobody waits any more, closes it.
#[tokio::test]
async fn no_connection_is_closed_because_it_takes_the_pool_its_time_to_lend_it() {
    const MANY: usize = 6;
    let (connected, tried) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let counts = [Arc::clone(&connected), Arc::clone(&tried)];
    let [connects, tries] = counts.map(|count| move || count.fetch_add(1, Ordering::SeqCst));
    let pool = SqlitePoolOptions::new()
        .max_connections(2)
        .after_connect(move |_, _| {
            connects();
            Box::pin(async { Ok(()) })
        })
        .before_acquire(move |_, _| {
            tries();
            Box::pin(async {
                sleep(Duration::from_millis(120)).await;
                Ok(true)
            })
        });
    let shop = Shop::on_a_pool(pool).await;
    let idem = Idempotency::builder(shop.store.clone()).build();
    let run = |n: usize| idem.run_in_tx(id(&format!("{n}")), |_| async { Ok(1) });
    tried.store(0, Ordering::SeqCst);
    // So many that they are taken for new ones, which is not worth it here.
    for n in 0..2 * MANY {
        assert_eq!(*run(n).await.unwrap(), 1);
    }
    let tried = tried.load(Ordering::SeqCst);
    assert!(tried <= 2 * MANY + 1, "{tried}");
    // The head of a line looks for one in its turn.
    for done in join_all((0..MANY).map(|n| run(100 + n))).await {
        assert_eq!(*done.unwrap(), 1);
    }
    // The store's own is one of them.
    let connected = connected.load(Ordering::SeqCst);
    assert!(connected <= 3, "{connected}");
}
