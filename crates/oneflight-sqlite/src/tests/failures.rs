//! Claims and changes that are wanted at the same time, and what is wrong with one, or with all.

use std::sync::atomic::Ordering;

use futures::future::join_all;

use super::super::SqliteStore;
use super::super::queue::Rank;
use super::id;
use super::shop::{LONG, MINUTE, SOON, Shop, end, granted, result};
use oneflight::idempotency::Idempotency;
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{ClaimRequest, Store, StoreError};

#[tokio::test]
async fn a_row_that_is_rejected_fails_alone() {
    for shop in Shop::each().await {
        for (event, is_bad) in [("INSERT", "NEW.key = 'bad'"), ("UPDATE", "NEW.key = 'bad too'")] {
            let trigger = format!(
                "CREATE TRIGGER bad_{event} BEFORE {event} ON oneflight_records WHEN {is_bad}
                 BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            );
            shop.run(trigger.leak()).await;
        }
        let turn = shop.turn().await;
        let keys = ["first", "bad", "bad too", "last"];
        let mut claims: Vec<_> = keys.iter().map(|key| Box::pin(shop.claim(key))).collect();
        shop.lined_up(Rank::Business, 4, &mut claims).await;
        end(turn);
        let mut outcomes = join_all(claims).await;
        let error = outcomes.remove(1).unwrap_err();
        assert!(error.to_string().contains("not this one"), "{error}");
        let turn = shop.turn().await;
        let claims = outcomes.into_iter().map(granted);
        let complete = |claim| Box::pin(shop.store.complete(claim, result(), MINUTE));
        let mut completed: Vec<_> = claims.map(complete).collect();
        shop.lined_up(Rank::Lease, 3, &mut completed).await;
        end(turn);
        let mut completed = join_all(completed).await;
        let error = completed.remove(1).unwrap_err();
        assert!(error.to_string().contains("not this one"), "{error}");
        assert!(completed.into_iter().all(|it| it.is_ok()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_waits_for_the_lock_as_long_as_it_said() {
    for shop in Shop::each().await {
        let elsewhere = SqliteStore::open(shop.folder.path().join("shop.db")).await.unwrap();
        let mut locks = elsewhere.pool().acquire().await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *locks).await.unwrap();
        let turn = shop.turn().await;
        let request = |key: &str| ClaimRequest::new(&id(key), MINUTE);
        let soon = request("soon").patience(SOON);
        let mut claims = vec![
            Box::pin(shop.store.claim(soon)),
            Box::pin(shop.store.claim(request("late"))),
        ];
        shop.lined_up(Rank::Business, 2, &mut claims).await;
        end(turn);
        shop.taken(Rank::Business, &mut claims).await;
        let late = claims.remove(1);
        let busy = claims.remove(0).await;
        assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
        sqlx::raw_sql("COMMIT").execute(&mut *locks).await.unwrap();
        let _ = granted(late.await);
        assert_eq!(shop.store.load(&id("soon")).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_the_user_are_as_they_were_when_all_have_left() {
    for shop in [Shop::lent().await, Shop::on_the_pool_alone(LONG).await] {
        let elsewhere = SqliteStore::open(shop.folder.path().join("shop.db")).await.unwrap();
        let mut locks = elsewhere.pool().acquire().await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *locks).await.unwrap();
        let turn = shop.turn().await;
        let request = ClaimRequest::new(&id("soon"), MINUTE).patience(SOON);
        let mut claims = vec![Box::pin(shop.store.claim(request))];
        shop.lined_up(Rank::Business, 1, &mut claims).await;
        end(turn);
        shop.taken(Rank::Business, &mut claims).await;
        let busy = claims.remove(0).await;
        assert!(matches!(busy, Err(StoreError::Busy { .. })), "{busy:?}");
        end(shop.turn().await);
        let mut connections = Vec::new();
        for _ in 0..3 {
            let mut connection = shop.store.pool().acquire().await.unwrap();
            let timeout = sqlx::query_scalar("PRAGMA busy_timeout");
            let timeout: i64 = timeout.fetch_one(&mut *connection).await.unwrap();
            assert_eq!(timeout, 5_000);
            connections.push(connection);
        }
    }
}

#[tokio::test]
async fn a_lost_answer_to_the_commit_of_many_is_told_to_each() {
    let shop = Shop::open().await;
    let turn = shop.turn().await;
    let requests = ["a", "b"].map(|key| ClaimRequest::new(&id(key), MINUTE));
    let asks = |request: &ClaimRequest| Box::pin(shop.store.claim(request.clone()));
    let mut claims: Vec<_> = requests.iter().map(asks).collect();
    shop.lined_up(Rank::Business, 2, &mut claims).await;
    shop.store
        .writer
        .faults
        .lose_commit_answer
        .store(true, Ordering::SeqCst);
    end(turn);
    for lost in join_all(claims).await {
        assert!(matches!(lost, Err(StoreError::Unavailable { .. })), "{lost:?}");
    }
    // Asked again, each holder has what it has claimed.
    let mut claims = Vec::new();
    for request in &requests {
        claims.push(granted(shop.store.claim(request.clone()).await));
    }
    let turn = shop.turn().await;
    let complete = |claim| Box::pin(shop.store.complete(claim, result(), MINUTE));
    let mut completed: Vec<_> = claims.into_iter().map(complete).collect();
    shop.lined_up(Rank::Lease, 2, &mut completed).await;
    shop.store
        .writer
        .faults
        .lose_commit_answer
        .store(true, Ordering::SeqCst);
    end(turn);
    for completed in join_all(completed).await {
        completed.unwrap();
    }
}

/// A constraint that is looked at when the transaction is committed.
#[tokio::test]
async fn what_is_rejected_at_the_commit_fails_alone() {
    for shop in Shop::each().await {
        shop.run(
            "CREATE TABLE notes (token INTEGER REFERENCES oneflight_records (token) DEFERRABLE INITIALLY DEFERRED)",
        )
        .await;
        let mut claims = Vec::new();
        for key in ["noted", "other", "last"] {
            claims.push(shop.granted(key).await);
        }
        shop.run("INSERT INTO notes SELECT token FROM oneflight_records WHERE key = 'noted'")
            .await;
        let turn = shop.turn().await;
        let mut released: Vec<_> = claims.into_iter().map(|it| Box::pin(shop.store.release(it))).collect();
        shop.lined_up(Rank::Lease, 3, &mut released).await;
        end(turn);
        let mut released = join_all(released).await;
        let error = released.remove(0).unwrap_err();
        assert!(error.to_string().contains("FOREIGN KEY"), "{error}");
        assert!(released.iter().all(Result::is_ok), "{released:?}");
    }
}

/// All of them waited for one, for as long as each would have alone.
#[tokio::test]
async fn without_a_connection_many_wait_once() {
    let shop = Shop::on_the_pool_alone(SOON).await;
    let place = shop.store.writer.enter(Rank::Lease).await;
    let keys: Vec<_> = (0..8).map(|n| format!("{n}")).collect();
    let mut claims: Vec<_> = keys.iter().map(|key| Box::pin(shop.claim(key))).collect();
    shop.lined_up(Rank::Business, 8, &mut claims).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(shop.store.pool().acquire().await.unwrap());
    }
    drop(place);
    for claim in join_all(claims).await {
        assert!(matches!(claim, Err(StoreError::NoConnection)), "{claim:?}");
    }
}

#[tokio::test]
async fn without_its_file_each_is_told_so() {
    for shop in Shop::each().await {
        let place = shop.store.writer.enter(Rank::Lease).await;
        let keys: Vec<_> = (0..8).map(|n| format!("{n}")).collect();
        let mut claims: Vec<_> = keys.iter().map(|key| Box::pin(shop.claim(key))).collect();
        shop.lined_up(Rank::Business, 8, &mut claims).await;
        std::fs::rename(shop.folder.path().join("shop.db"), shop.folder.path().join("moved.db")).unwrap();
        drop(place);
        for claim in join_all(claims).await {
            let error = claim.unwrap_err().to_string();
            assert!(error.contains("shop.db"), "{error}");
        }
    }
}

#[tokio::test]
async fn what_work_has_set_does_not_hold_for_a_change() {
    let shop = Shop::open().await;
    for (key, bytes) in [("in place", 10), ("alone", 100_000)] {
        let claim = shop.granted(key).await;
        let idem = Idempotency::builder(shop.store.clone()).build();
        let sets = idem.run_in_tx(id(&format!("sets {key}")), |mut tx| async move {
            sqlx::query("PRAGMA busy_timeout = 77777").execute(&mut *tx).await?;
            Ok(1)
        });
        let _ = sets.await.unwrap();
        let result = RecordedResult::value(Verdict::Performed, CodecId::Json, &vec![b'1'; bytes]);
        shop.store.complete(claim, result, MINUTE).await.unwrap();
        let mut turn = shop.turn().await;
        let timeout = sqlx::query_scalar("PRAGMA busy_timeout");
        let timeout: i64 = timeout.fetch_one(&mut *turn).await.unwrap();
        assert_ne!(timeout, 77_777, "{key}");
        end(turn);
    }
}
