//! Transactions of work on a pool of the user's that has much to do, beside the connection on which the store writes.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::future::{Either, join, select};
use futures::poll;
use sqlx::SqlitePool;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::Sqlite;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::super::SqliteStore;
use super::super::begun::Begun;
use super::super::ending::End;
use super::super::queue::Rank;
use super::id;
use super::shop::{LONG, MINUTE, Shop, end};
use oneflight::idempotency::Idempotency;
use oneflight::store::ClaimRequest;

fn idempotency(shop: &Shop) -> Idempotency<SqliteStore> {
    Idempotency::builder(shop.store.clone()).build()
}

/// Has a crowd pass the connections of a pool around, until it is dropped. The line for one takes some 500 ms.
async fn crowd(pool: &SqlitePool) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    for _ in 0..20 {
        let pool = pool.clone();
        crowd.spawn(async move {
            loop {
                let lent = pool.acquire().await;
                sleep(Duration::from_millis(50)).await;
                drop(lent);
            }
        });
    }
    while pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections() {
        sleep(Duration::from_millis(1)).await;
    }
    crowd
}

/// Takes all connections of a pool.
async fn all(pool: &SqlitePool) -> Vec<PoolConnection<Sqlite>> {
    let mut all = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        all.push(pool.acquire().await.unwrap());
    }
    all
}

/// Polls work until it is the first one in its line.
async fn waits_as_head<F: Future>(shop: &Shop, works: &mut Pin<Box<F>>) {
    let begun = Instant::now();
    while !shop.store.writer.queue.has_head(Rank::Work) {
        assert!(begun.elapsed() < LONG, "it is not in line");
        assert!(poll!(&mut *works).is_pending(), "it did not wait");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Returns whether work leaves the turn to others, for which no time has to pass. A task may have taken it over that polls it.
async fn leaves_the_turn<F: Future>(shop: &Shop, works: &mut Pin<Box<F>>) -> bool {
    for _ in 0..100 {
        assert!(poll!(&mut *works).is_pending());
        if shop.store.writer.queue.try_enter(Rank::Business).is_some() {
            return true;
        }
        yield_now().await;
    }
    false
}

/// Claims something that was never claimed, for which the pool is not needed.
async fn claims(shop: &Shop, key: &str) {
    let claim = ClaimRequest::new(&id(key), MINUTE);
    let token = shop.store.writer.claim_new(&claim, None).await.unwrap();
    assert!(token.is_some(), "{key}");
}

#[tokio::test]
async fn work_has_its_turn_although_the_line_of_the_pool_is_long() {
    let shop = Shop::lent_of(2).await;
    let idem = idempotency(&shop);
    let crowd = crowd(shop.store.pool()).await;
    let turn = shop.turn().await;
    let mut works = Box::pin(idem.run_in_tx(id("in tx"), |_| async { Ok(1) }));
    waits_as_head(&shop, &mut works).await;
    end(turn);
    let reply = timeout(LONG / 2, works).await.expect("it never has both");
    assert_eq!(*reply.unwrap(), 1);
    assert_eq!(crowd.len(), 20);
}

#[tokio::test]
async fn a_step_in_a_transaction_has_its_turn_although_the_line_of_the_pool_is_long() {
    let shop = Shop::lent_of(2).await;
    let idem = idempotency(&shop);
    let crowd = crowd(shop.store.pool()).await;
    let works = idem.run_steps(id("steps"), &(), |steps| async move {
        steps.run_in_tx("book", |_| async { Ok(1) }).await
    });
    let reply = timeout(LONG / 2, works).await.expect("it never has both");
    assert_eq!(*reply.unwrap(), 1);
    assert_eq!(crowd.len(), 20);
}

#[tokio::test]
async fn others_have_as_many_turns_as_they_want_while_work_waits_for_the_pool() {
    let shop = Shop::lent_of(2).await;
    let idem = idempotency(&shop);
    let turn = shop.turn().await;
    let mut works = Box::pin(idem.run_in_tx(id("in tx"), |_| async { Ok(1) }));
    waits_as_head(&shop, &mut works).await;
    let users = all(shop.store.pool()).await;
    end(turn);
    let queue = &shop.store.writer.queue;
    for n in 0..100 {
        assert!(leaves_the_turn(&shop, &mut works).await, "{n}: it has the turn");
        assert!(queue.try_enter(Rank::Work).is_none(), "{n}: other work would go first");
        claims(&shop, &n.to_string()).await;
    }
    drop(users);
    assert_eq!(*works.await.unwrap(), 1);
}

/// It is begun without a look, if it can be.
#[tokio::test]
async fn what_is_probably_new_waits_for_the_pool_without_the_turn() {
    let shop = Shop::lent_of(2).await;
    let idem = idempotency(&shop);
    for n in 0..20 {
        let new = idem.run_in_tx(id(&format!("new {n}")), |_| async { Ok(1) }).await;
        assert_eq!(*new.unwrap(), 1);
    }
    let users = all(shop.store.pool()).await;
    let mut works = Box::pin(idem.run_in_tx(id("in tx"), |_| async { Ok(1) }));
    for n in 0..100 {
        assert!(leaves_the_turn(&shop, &mut works).await, "{n}: it has the turn");
    }
    drop(users);
    assert_eq!(*works.await.unwrap(), 1);
}

#[tokio::test]
async fn what_waits_for_its_turn_leaves_the_pool_to_the_work_that_has_it() {
    let shop = Shop::lent_of(2).await;
    let idem = idempotency(&shop);
    let pool = shop.store.pool().clone();
    let (begins, begun) = oneshot::channel();
    let (goes_on, told) = oneshot::channel::<()>();
    let first = Box::pin(idem.run_in_tx(id("first"), move |_| async move {
        begins.send(()).unwrap();
        told.await.unwrap();
        let mut another = pool.acquire().await?;
        let one: i64 = sqlx::query_scalar("SELECT 1").fetch_one(&mut *another).await?;
        Ok(one)
    }));
    let first = match select(first, begun).await {
        Either::Left((ended, _)) => panic!("{ended:?}"),
        Either::Right((begun, first)) => {
            begun.unwrap();
            first
        }
    };
    let mut second = Box::pin(idem.run_in_tx(id("second"), |_| async { Ok(2) }));
    waits_as_head(&shop, &mut second).await;
    goes_on.send(()).unwrap();
    let both = timeout(LONG / 2, join(first, second)).await;
    let (first, second) = both.expect("each waits for the other");
    assert_eq!((*first.unwrap(), *second.unwrap()), (1, 2));
}

#[tokio::test]
async fn a_connection_in_hand_is_given_back_if_others_keep_the_turn() {
    let shop = Shop::lent_of(2).await;
    let (idem, pool) = (idempotency(&shop), shop.store.pool());
    let turn = shop.turn().await;
    let mut works = Box::pin(idem.run_in_tx(id("in tx"), |_| async { Ok(1) }));
    waits_as_head(&shop, &mut works).await;
    let mut users = all(pool).await;
    end(turn);
    // It waits for the pool from now on.
    assert!(poll!(&mut works).is_pending());
    let turn = shop.turn().await;
    drop(users.pop());
    // It is lent that connection first.
    let again = timeout(LONG / 2, pool.acquire());
    match select(works, Box::pin(again)).await {
        Either::Left((ended, _)) => panic!("{ended:?}"),
        Either::Right((again, works)) => {
            drop(again.expect("it keeps the connection").unwrap());
            drop(users);
            end(turn);
            assert_eq!(*works.await.unwrap(), 1);
        }
    }
}

/// It was left in a transaction, and somebody else in the pool's line gets the place of it.
#[tokio::test]
async fn a_connection_that_has_to_be_replaced_is_waited_for_without_the_turn() {
    let shop = Shop::lent_of(1).await;
    let (pool, works) = (shop.store.pool(), &shop.store.works);
    shop.run("BEGIN").await;
    let mut turn = works.turn(Rank::Work, None).await.unwrap();
    let mut users = Box::pin(pool.acquire());
    assert!(poll!(&mut users).is_pending());
    let begins = Box::pin(works.begin_in(&mut turn));
    let (users, mut begins) = match select(users, begins).await {
        Either::Left((users, begins)) => (users.unwrap(), begins),
        Either::Right((begun, _)) => panic!("{begun:?}"),
    };
    let waits = Instant::now();
    while shop.store.writer.queue.try_enter(Rank::Business).is_none() {
        assert!(waits.elapsed() < LONG / 2, "it has the turn, and waits for the pool");
        assert!(poll!(&mut begins).is_pending());
        sleep(Duration::from_millis(1)).await;
    }
    claims(&shop, "meanwhile").await;
    assert!(poll!(&mut begins).is_pending());
    drop(users);
    begins.await.unwrap();
    let _ = works.end(turn, End::RollBack, ()).await;
}

/// What is seen in that transaction may be past, and whatever is open on the connection would go back to the pool.
#[tokio::test]
async fn a_guess_looks_at_nothing_on_a_connection_that_was_left_in_a_transaction() {
    let shop = Shop::lent_of(1).await;
    let works = &shop.store.works;
    drop(shop.granted("seven").await);
    for left in ["BEGIN", "BEGIN IMMEDIATE"] {
        shop.run(left).await;
        let mut turn = works.turn(Rank::Work, None).await.unwrap();
        let request = ClaimRequest::new(&id("seven"), MINUTE);
        assert_eq!(works.begin_new(&mut turn, &request, false).await.unwrap(), Begun::No);
        for statement in ["BEGIN IMMEDIATE", "ROLLBACK"] {
            let ran = sqlx::raw_sql(statement).execute(&mut *turn).await;
            ran.unwrap_or_else(|error| panic!("{left}, {statement}: {error}"));
        }
        end(turn);
    }
}
