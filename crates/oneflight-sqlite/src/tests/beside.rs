//! A connection of the store's own beside a pool of the user's, and where there can be none.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::super::SqliteStore;
use super::super::ending::End;
use super::super::queue::Rank;
use super::super::settings::BUSY_TIMEOUT;
use super::super::writer::Connections;
use super::id;
use super::shop::{LONG, MINUTE, Shop, end, result};
use oneflight::idempotency::{Idempotency, Origin};
use oneflight::store::Store;

fn options(path: &Path) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    options.journal_mode(SqliteJournalMode::Wal)
}

fn one() -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(1)
}

async fn works(store: &SqliteStore) {
    let idem = Idempotency::builder(store.clone()).build();
    assert_eq!(*idem.run(id("run"), |_| async { 1 }).await.unwrap(), 1);
    assert_eq!(*idem.run_in_tx(id("in tx"), |_| async { Ok(2) }).await.unwrap(), 2);
}

#[tokio::test]
async fn where_there_can_be_no_connection_beside_it_the_pool_is_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let fails = Arc::new(AtomicBool::new(false));
    let fails_later = Arc::clone(&fails);
    // It takes the file away from the connection that comes next.
    let breaks = one().after_connect(move |connection, _| {
        let is_second = fails_later.swap(true, Ordering::SeqCst);
        Box::pin(async move {
            if is_second {
                sqlx::raw_sql("PRAGMA locking_mode = EXCLUSIVE")
                    .execute(connection)
                    .await?;
            }
            Ok(())
        })
    });
    let delete = options(&path("delete.db")).journal_mode(SqliteJournalMode::Delete);
    let exclusive = options(&path("exclusive.db")).pragma("locking_mode", "EXCLUSIVE");
    // Its parameters are no part of the name in full.
    let url = format!("file:{}?psow=0", path("url.db").display());
    let shared_url = format!("file:{}?cache=shared", path("shared_url.db").display());
    let shared = options(&path("shared.db")).shared_cache(true);
    let in_memory = SqliteConnectOptions::new().in_memory(true);
    let (own, users) = (Connections::Own, Connections::Users);
    // Whether what has no record is begun without a claim as well.
    for (pool, connections, begins_at_once) in [
        (one().connect_with(options(&path("wal.db"))), own, true),
        (one().connect_with(delete), users, false),
        (one().connect_with(exclusive), users, true),
        (one().connect_with(shared), users, false),
        (one().connect_with(in_memory), users, false),
        (breaks.connect_with(options(&path("hooked.db"))), users, true),
        (one().connect_with(options(Path::new(&url))), users, false),
        (one().connect_with(options(Path::new(&shared_url))), users, false),
    ] {
        let store = SqliteStore::from_pool(pool.await.unwrap()).await.unwrap();
        assert_eq!(store.writer.connections, connections, "{:?}", store.writer.file);
        assert_eq!(store.works.connections, Connections::Users);
        assert_eq!(store.works.begins_at_once(), begins_at_once, "{:?}", store.writer.file);
        works(&store).await;
    }
    let opened = SqliteStore::open(path("opened.db")).await.unwrap();
    assert_eq!(opened.works.connections, Connections::Own);
}

#[tokio::test]
async fn the_connection_beside_a_pool_is_set_as_the_first_of_the_pool_was() {
    let folder = tempfile::tempdir().unwrap();
    let connect = options(&folder.path().join("set.db")).synchronous(SqliteSynchronous::Normal);
    let pool = one().connect_with(connect).await.unwrap();
    sqlx::raw_sql("PRAGMA synchronous = EXTRA")
        .execute(&pool)
        .await
        .unwrap();
    let store = SqliteStore::from_pool(pool).await.unwrap();
    for round in 0..3 {
        works(&store).await;
        let mut turn = store.writer.turn(Rank::Business, None).await.unwrap();
        store.writer.set_if_changed(&mut turn).await;
        let synchronous = sqlx::query_scalar("PRAGMA synchronous");
        let synchronous: i64 = synchronous.fetch_one(&mut *turn).await.unwrap();
        assert_eq!(synchronous, 3, "{round}");
        end(turn);
        let begun = store.writer.begin(Rank::Business, None).await.unwrap();
        let _ = store.writer.end(begun, End::RollBack, ()).await;
        let mut turn = store.writer.turn(Rank::Business, None).await.unwrap();
        let timeout = sqlx::query_scalar("PRAGMA busy_timeout");
        let timeout: i64 = timeout.fetch_one(&mut *turn).await.unwrap();
        assert_eq!(u128::try_from(timeout).unwrap(), BUSY_TIMEOUT.as_millis(), "{round}");
        // The next one is a new one.
        turn.connection.close().await;
    }
}

/// However short the deadline is, a connection can be made.
#[tokio::test]
async fn a_short_deadline_is_none_for_connecting_beside_a_pool() {
    let folder = tempfile::tempdir().unwrap();
    let pool = one().connect_with(options(&folder.path().join("short.db")));
    let store = SqliteStore::options().busy_deadline(Duration::from_secs(2));
    let store = store.from_pool(pool.await.unwrap()).await.unwrap();
    assert_eq!(store.writer.connections, Connections::Own);
    assert!(store.writer.pool.options().get_acquire_timeout() > Duration::from_secs(5));
}

/// It is at the head of its line, and waits for a connection that the user has.
#[tokio::test]
async fn a_transaction_that_waits_for_the_pool_keeps_none_waiting_that_need_nothing_of_it() {
    let shop = Shop::lent().await;
    let held = shop.granted("held").await;
    let turn = shop.turn().await;
    let idem = Idempotency::builder(shop.store.clone()).build();
    let mut works = Box::pin(idem.run_in_tx(id("in tx"), |_| async { Ok(1) }));
    while !shop.store.writer.queue.has_head(Rank::Work) {
        assert!(futures::poll!(&mut works).is_pending());
        tokio::task::yield_now().await;
    }
    let mut users = Vec::new();
    for _ in 0..3 {
        users.push(shop.store.pool().acquire().await.unwrap());
    }
    end(turn);
    let waits = Instant::now();
    let completed = shop.store.complete(held, result(), MINUTE);
    match select(works, pin!(completed)).await {
        Either::Left((ended, _)) => panic!("{ended:?}"),
        Either::Right((completed, works)) => {
            completed.unwrap();
            assert!(waits.elapsed() < LONG / 2, "{:?}", waits.elapsed());
            drop(users);
            assert_eq!(*works.await.unwrap(), 1);
        }
    }
}

/// What was written since the last one that had no record is seen, and no lock is waited for to see it.
#[tokio::test]
async fn a_guess_that_is_wrong_is_answered_without_the_lock() {
    for shop in Shop::each().await {
        let idem = Idempotency::builder(shop.store.clone()).build();
        let work = || |_| async { Ok(1) };
        for n in 0..20 {
            let new = idem.run_in_tx(id(&format!("{n}")), work()).await.unwrap();
            assert_eq!(new.origin(), Origin::Executed);
        }
        let elsewhere = SqliteStore::open(shop.folder.path().join("shop.db")).await.unwrap();
        let mut locks = elsewhere.pool().acquire().await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *locks).await.unwrap();
        let replayed = idem.run_in_tx(id("7"), work()).await.unwrap();
        assert_eq!(replayed.origin(), Origin::Replayed);
    }
}

/// What is still under way on that connection, with nobody who waits for it, keeps it open.
#[tokio::test]
async fn a_store_that_is_closed_has_waited_for_its_connection() {
    const TAKES_ITS_TIME: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000)
                                  SELECT count(*) FROM n";
    for is_in_use in [false, true] {
        let shop = Shop::lent().await;
        drop(shop.granted("any").await);
        let log = shop.folder.path().join("shop.db-wal");
        assert!(log.exists());
        let mut turn = shop.turn().await;
        if is_in_use {
            let mut closes = Box::pin(shop.store.close());
            assert!(futures::poll!(&mut closes).is_pending());
            assert!(!shop.store.pool().is_closed(), "it has not waited");
            end(turn);
            closes.await;
        } else {
            let under_way = sqlx::raw_sql(TAKES_ITS_TIME).execute(&mut *turn);
            assert!(futures::poll!(pin!(under_way)).is_pending());
            end(turn);
            shop.store.close().await;
        }
        assert!(!log.exists(), "the file is still open");
    }
}
