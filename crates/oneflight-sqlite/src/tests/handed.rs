//! Works that go on with the connection of the last one, on a pool of the user's in whose line others wait.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, Either, join, join_all, select};
use futures::{FutureExt, poll};
use sqlx::SqlitePool;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::super::handed::IN_A_ROW;
use super::super::queue::Rank;
use super::super::works::Soon;
use super::super::writer::{Turn, Writer};
use super::id;
use super::shop::{LONG, MINUTE, Shop, end};
use oneflight::idempotency::Idempotency;
use oneflight::store::{ClaimRequest, StoreError};

/// A shop on a pool of so many connections, in which the connection of work is handed on for as long.
async fn shop(connections: u32, moment: Duration) -> Shop {
    let shop = Shop::lent_of(connections).await;
    shop.store.works.handed.has_series_last(moment);
    shop
}

async fn turn(works: &Writer) -> Turn {
    works.turn(Rank::Work, None).await.unwrap()
}

/// Returns so many that wait for the turn of another one.
async fn line(works: &Writer, many: usize) -> VecDeque<BoxFuture<'_, Result<Turn, StoreError>>> {
    let mut line: VecDeque<_> = (0..many).map(|_| works.turn(Rank::Work, None).boxed()).collect();
    for waits in &mut line {
        assert!(poll!(waits).is_pending(), "it did not wait");
    }
    line
}

/// Ends a turn after which nothing is under way on its connection.
fn over(works: &Writer, mut turn: Turn) {
    works.hand_on(&mut turn);
}

/// Takes the turn that somebody else has ended, for which no time has to pass.
async fn at_once(waits: Option<BoxFuture<'_, Result<Turn, StoreError>>>) -> Turn {
    match poll!(waits.expect("one that waits")) {
        Poll::Ready(turn) => turn.unwrap(),
        Poll::Pending => panic!("it still waits"),
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG / 2, "not in time: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

async fn until_all_are_idle(pool: &SqlitePool) {
    until("all connections are back", || pool.num_idle() == pool.size() as usize).await;
}

/// Polls works until all of them are in line.
async fn lined_up<F: Future>(shop: &Shop, works: &mut [Pin<Box<F>>]) {
    let begun = Instant::now();
    while shop.store.works.handed.in_line() < works.len() {
        assert!(begun.elapsed() < LONG, "they are not in line");
        for work in &mut *works {
            assert!(poll!(work).is_pending(), "it did not wait");
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The user has the other connection, and keeps this one too once it is lent.
#[tokio::test]
async fn the_next_in_line_goes_on_with_the_connection_of_the_last_one() {
    const MANY: usize = 8;
    let shop = shop(2, LONG).await;
    let (idem, pool) = (Idempotency::builder(shop.store.clone()).build(), shop.store.pool());
    let ran = Arc::new(AtomicUsize::new(0));
    let (begins, begun) = oneshot::channel();
    let (goes_on, told) = oneshot::channel::<()>();
    let mut first = Some((begins, told));
    let work = |n: usize| {
        let (first, ran) = (first.take(), Arc::clone(&ran));
        Box::pin(idem.run_in_tx(id(&format!("{n}")), move |mut tx| async move {
            if let Some((begins, told)) = first {
                begins.send(()).unwrap();
                told.await.unwrap();
            }
            ran.fetch_add(1, Ordering::SeqCst);
            // Every other one fails, and is rolled back.
            let select = ["SELECT 1", "SELECT 1 FROM nowhere"][n % 2];
            sqlx::query(select).execute(&mut *tx).await?;
            Ok(n)
        }))
    };
    let turn = shop.turn().await;
    let mut works: Vec<_> = (0..MANY).map(work).collect();
    lined_up(&shop, &mut works).await;
    let other = pool.acquire().await.unwrap();
    end(turn);
    let works = match select(join_all(works), begun).await {
        Either::Left((ended, _)) => panic!("{ended:?}"),
        Either::Right((begun, works)) => {
            begun.unwrap();
            works
        }
    };
    let mut user = Box::pin(pool.acquire());
    assert!(poll!(&mut user).is_pending());
    let user = user.map(|lent| (lent.unwrap(), ran.load(Ordering::SeqCst)));
    goes_on.send(()).unwrap();
    let ended = timeout(LONG / 2, join(works, user)).await;
    let (ended, (this, ran)) = ended.expect("they wait for the pool");
    assert_eq!(ran, MANY);
    for (n, ended) in ended.into_iter().enumerate() {
        assert_eq!(ended.map(|it| *it).ok(), (n % 2 == 0).then_some(n));
    }
    drop((other, this));
    until_all_are_idle(pool).await;
}

#[tokio::test]
async fn what_waits_for_the_turn_for_a_moment_has_the_connection_as_well() {
    let shop = shop(1, LONG).await;
    let (works, pool) = (&shop.store.works, shop.store.pool());
    let first = turn(works).await;
    let mut soon = Box::pin(works.turn_soon(LONG, None));
    let mut user = Box::pin(pool.acquire());
    assert!(poll!(&mut soon).is_pending() && poll!(&mut user).is_pending());
    over(works, first);
    let soon = timeout(LONG / 2, soon).await.unwrap();
    match soon {
        Soon::Turn(soon) => over(works, soon),
        Soon::TheTurnAlone | Soon::No => panic!("it finds no connection"),
    }
    drop(user.await.unwrap());
}

/// Also if the line is empty now and then.
#[tokio::test]
async fn after_some_in_a_row_the_pool_has_the_connection_back() {
    for many in [1, 2 * IN_A_ROW as usize] {
        let shop = shop(1, LONG).await;
        let (works, pool) = (&shop.store.works, shop.store.pool());
        let mut now = turn(works).await;
        let mut waiting = line(works, many).await;
        let mut user = Box::pin(pool.acquire());
        assert!(poll!(&mut user).is_pending());
        let mut turns = 1;
        let user = loop {
            over(works, now);
            let next = waiting.pop_front().unwrap();
            match select(next, user).await {
                Either::Left((next, waits)) => (now, user) = (next.unwrap(), waits),
                Either::Right((lent, next)) => {
                    waiting.push_front(next);
                    break lent.unwrap();
                }
            }
            turns += 1;
            assert!(turns < 2 * IN_A_ROW, "the pool never has it");
            if waiting.is_empty() {
                waiting = line(works, 1).await;
            }
        };
        assert_eq!(turns, IN_A_ROW + 1);
        drop(user);
        for next in waiting {
            let next = timeout(LONG / 2, next).await.expect("it has no turn");
            over(works, next.unwrap());
        }
        until_all_are_idle(pool).await;
    }
}

/// However few they were.
#[tokio::test]
async fn after_a_moment_the_pool_has_the_connection_back() {
    let shop = shop(1, Duration::ZERO).await;
    let (works, pool) = (&shop.store.works, shop.store.pool());
    let first = turn(works).await;
    let mut line = line(works, 2).await;
    over(works, first);
    let second = at_once(line.pop_front()).await;
    let mut user = Box::pin(pool.acquire());
    assert!(poll!(&mut user).is_pending());
    until("the moment is over", || works.handed.has_ended()).await;
    over(works, second);
    match timeout(LONG / 2, select(line.remove(0).unwrap(), user)).await.unwrap() {
        Either::Left(_) => panic!("it is handed on"),
        Either::Right((lent, third)) => {
            drop(lent.unwrap());
            over(works, third.await.unwrap());
        }
    }
}

#[tokio::test]
async fn what_the_next_in_line_does_not_take_goes_back_to_the_pool() {
    let shop = shop(1, Duration::ZERO).await;
    let (works, pool) = (&shop.store.works, shop.store.pool());
    let first = turn(works).await;
    let mut line = line(works, 1).await;
    over(works, first);
    assert!(works.handed.has_any());
    // It is not polled.
    let lent = timeout(LONG / 2, pool.acquire()).await.expect("it is kept");
    drop(lent.unwrap());
    over(works, line.remove(0).unwrap().await.unwrap());
}

#[tokio::test]
async fn one_that_leaves_the_line_leaves_the_connection_to_the_next_one_or_to_the_pool() {
    let shop = shop(1, LONG).await;
    let (works, pool) = (&shop.store.works, shop.store.pool());
    let first = turn(works).await;
    let mut line = line(works, 3).await;
    over(works, first);
    drop(line.pop_front());
    assert!(works.handed.has_any());
    let third = at_once(line.pop_front()).await;
    over(works, third);
    assert!(works.handed.has_any());
    drop(line);
    assert!(!works.handed.has_any());
    until_all_are_idle(pool).await;
    assert_eq!(pool.size(), 1, "it was closed");
}

/// So work that wants one more of the pool has that to itself.
#[tokio::test]
async fn works_have_one_connection_among_them() {
    let shop = shop(2, LONG).await;
    let (works, pool) = (&shop.store.works, shop.store.pool());
    let new = shop
        .store
        .look_first(&ClaimRequest::new(&id("new"), MINUTE))
        .await
        .unwrap();
    let first = turn(works).await;
    // It has come to the line, and is not at its door yet.
    let _in_line = works.handed.line_up();
    over(works, first);
    assert!(works.handed.has_any());
    let turn = works
        .turn_after_look(new.connection, &new.databases, None)
        .await
        .unwrap();
    let one_more = timeout(LONG / 2, pool.acquire()).await.expect("it is kept");
    drop(one_more.unwrap());
    end(turn);
}

#[tokio::test]
async fn a_pool_that_is_closed_waits_for_none_that_is_handed_on() {
    for is_kept in [true, false] {
        let shop = shop(1, LONG).await;
        let (works, pool) = (&shop.store.works, shop.store.pool());
        let first = turn(works).await;
        let mut line = line(works, 1).await;
        let closes = if is_kept {
            over(works, first);
            assert!(works.handed.has_any());
            Box::pin(pool.close())
        } else {
            let mut closes = Box::pin(pool.close());
            assert!(poll!(&mut closes).is_pending());
            over(works, first);
            closes
        };
        // The next one is not polled.
        timeout(LONG / 2, closes).await.expect("it is kept");
        let next = line.remove(0).unwrap().await;
        assert!(matches!(next, Err(StoreError::NoConnection)), "{:?}", next.err());
    }
}

/// No task sees to it: its runtime rests.
#[tokio::test]
async fn a_series_ends_whatever_runtime_it_was_begun_in() {
    let (short, long) = (Duration::from_millis(20), LONG);
    for (moment, closes) in [(short, false), (long, true)] {
        let shop = shop(1, moment).await;
        let (works, pool) = (&shop.store.works, shop.store.pool());
        let first = turn(works).await;
        let mut line = line(works, 2).await;
        // What has begun it ends nowhere else than there.
        let rests = thread::scope(|scope| {
            let elsewhere = scope.spawn(|| {
                let runtime = Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { over(works, first) });
                runtime
            });
            elsewhere.join().unwrap()
        });
        let second = at_once(line.pop_front()).await;
        let closed = closes.then(|| pool.close());
        sleep(short).await;
        over(works, second);
        assert!(!works.handed.has_any());
        if let Some(closed) = closed {
            timeout(LONG / 2, closed).await.expect("it is kept");
        }
        thread::spawn(|| drop(rests)).join().unwrap();
    }
}

#[tokio::test]
async fn what_is_kept_when_a_runtime_ends_is_given_up() {
    let shop = shop(1, LONG).await;
    let (works, pool) = (&shop.store.works, shop.store.pool());
    let first = turn(works).await;
    let mut line = line(works, 1).await;
    thread::scope(|scope| {
        let elsewhere = scope.spawn(|| {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                over(works, first);
                yield_now().await;
            });
            assert!(works.handed.has_any());
        });
        elsewhere.join().unwrap();
    });
    assert!(!works.handed.has_any());
    // The next one is not polled.
    let lent = timeout(LONG / 2, pool.acquire()).await.expect("it is kept");
    drop(lent.unwrap());
    over(works, line.remove(0).unwrap().await.unwrap());
}
