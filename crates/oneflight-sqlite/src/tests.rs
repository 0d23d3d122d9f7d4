//! What can only be shown from inside: lost answers, and statements that are prepared once.

mod beside;
mod failures;
mod full;
mod handed;
mod lent;
mod renewals;
mod shop;
mod spans;
mod thread;
mod together;
mod turns;
mod works;

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::Connection;

use super::SqliteStore;
use super::in_doubt::{Kept, look_up};
use super::queue::Rank;
use oneflight::idempotency::{Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, HolderId, RecordedResult, Verdict};
use oneflight::store::{ClaimOutcome, ClaimRequest, Ending, Store, StoreError};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tests"), key).expect("a valid identity")
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_looked_up_and_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("lost.db")).await.unwrap();
    sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY, item TEXT)")
        .execute(store.pool())
        .await
        .unwrap();
    let idem = Idempotency::builder(store.clone()).build();
    for key in ["one", "two"] {
        store.writer.faults.lose_commit_answer.store(true, Ordering::SeqCst);
        let reply = idem
            .run_in_tx(id(key), |mut tx| async move {
                let insert = sqlx::query("INSERT INTO orders (item) VALUES ('tea')");
                Ok(insert.execute(&mut *tx).await?.last_insert_rowid())
            })
            .await
            .unwrap();
        assert_eq!(reply.origin(), Origin::Executed);
    }
    let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert_eq!(orders, 2);
}

#[tokio::test]
async fn a_commit_whose_record_may_be_past_its_retention_is_not_said_to_be_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("gone.db")).await.unwrap();
    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
    for (retention, is_known) in [(Duration::from_secs(60), true), (Duration::from_millis(1), false)] {
        let kept = Kept::from_now(&Ending::Commit {
            result: result.clone(),
            retention,
        });
        tokio::time::sleep(Duration::from_millis(2)).await;
        let lost = sqlx::Error::WorkerCrashed;
        let ended = look_up(&store, &id("gone"), HolderId::random(), kept, lost).await;
        match is_known {
            true => assert!(matches!(ended, Err(StoreError::RolledBack { .. })), "{ended:?}"),
            false => assert!(matches!(ended, Err(StoreError::Unavailable { .. })), "{ended:?}"),
        }
    }
}

#[tokio::test]
async fn a_commit_that_cannot_be_looked_up_is_not_said_to_have_found_the_store_busy() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteStore::options().busy_deadline(Duration::from_secs(1));
    let store = options.open(folder.path().join("busy.db")).await.unwrap();
    let mut other = store.pool().acquire().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *other).await.unwrap();
    let kept = Kept::from_now(&Ending::RollBack);
    let lost = sqlx::Error::WorkerCrashed;
    let ended = look_up(&store, &id("busy"), HolderId::random(), kept, lost).await;
    assert!(matches!(ended, Err(StoreError::Unavailable { .. })), "{ended:?}");
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("claim.db")).await.unwrap();
    store.writer.faults.lose_commit_answer.store(true, Ordering::SeqCst);
    let idem = Idempotency::builder(store).build();
    let reply = idem
        .run(id("claim"), |context| async move { context.attempt() })
        .await
        .unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Executed));
}

#[tokio::test]
async fn statements_are_prepared_once_a_connection() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("prepared.db")).await.unwrap();
    let mut sizes = Vec::new();
    for round in 0..20 {
        for n in 0..5 {
            let request = id(&format!("{round}-{n}"));
            let ClaimOutcome::Granted(claim) = store
                .claim(ClaimRequest::new(&request, Duration::from_secs(9)))
                .await
                .unwrap()
            else {
                panic!("not granted")
            };
            store
                .renew(&request, claim.token(), Duration::from_secs(9))
                .await
                .unwrap();
            match n {
                0 => store.release(claim).await.unwrap(),
                _ => {
                    let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
                    store.complete(claim, result, Duration::ZERO).await.unwrap();
                }
            }
        }
        store.purge(3).await.unwrap();
        let idem = Idempotency::builder(store.clone()).build();
        let _ = idem
            .run_in_tx(id(&format!("tx-{round}")), |_| async { Ok(1) })
            .await
            .unwrap();
        let mut turn = store.writer.turn(Rank::Business, None).await.unwrap();
        sizes.push(turn.connection.cached_statements_size());
        turn.connection.give_back();
    }
    assert!(sizes[0] > 5, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
    assert_eq!(store.writer.pool.size(), 1);
}

#[tokio::test]
async fn writers_of_one_process_take_turns_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("turns.db")).await.unwrap();
    let mut held = store.writer.turn(Rank::Business, None).await.unwrap();
    let mut waiting: Vec<_> = (0..20)
        .map(|_| Box::pin(store.writer.turn(Rank::Business, None)))
        .collect();
    for turn in &mut waiting {
        assert!(futures::poll!(turn).is_pending());
    }
    while !waiting.is_empty() {
        held.connection.give_back();
        drop(held);
        let first = waiting.remove(0);
        for later in &mut waiting {
            assert!(futures::poll!(later).is_pending(), "a later one went first");
        }
        held = first.await.unwrap();
    }
}

#[tokio::test]
async fn what_concerns_a_lease_goes_before_the_whole_line() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("ranks.db")).await.unwrap();
    let mut held = store.writer.turn(Rank::Business, None).await.unwrap();
    let mut business: Vec<_> = (0..5)
        .map(|_| Box::pin(store.writer.turn(Rank::Business, None)))
        .collect();
    for turn in &mut business {
        assert!(futures::poll!(turn).is_pending());
    }
    let mut urgent = Box::pin(store.writer.turn(Rank::Lease, None));
    let mut gives_up = Box::pin(store.writer.turn(Rank::Lease, None));
    assert!(futures::poll!(&mut urgent).is_pending() && futures::poll!(&mut gives_up).is_pending());
    held.connection.give_back();
    drop(held);
    for turn in &mut business {
        assert!(futures::poll!(turn).is_pending(), "business went first");
    }
    let mut turn = urgent.await.unwrap();
    turn.connection.give_back();
    drop(turn);
    drop(gives_up);
    for waiting in business {
        waiting.await.unwrap().connection.give_back();
    }
}

#[tokio::test]
async fn steps_and_business_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("steps.db")).await.unwrap();
    for (many, one) in [(Rank::Step, Rank::Business), (Rank::Business, Rank::Step)] {
        let held = store.writer.turn(Rank::Lease, None).await.unwrap();
        let mut crowd: Vec<_> = (0..10).map(|_| Box::pin(store.writer.turn(many, None))).collect();
        for turn in &mut crowd {
            assert!(futures::poll!(turn).is_pending());
        }
        let mut waits = Box::pin(store.writer.turn(one, None));
        assert!(futures::poll!(&mut waits).is_pending());
        let mut turn = held;
        turn.connection.give_back();
        drop(turn);
        // The head of the other line was at the gate first.
        let mut first = crowd.remove(0).await.unwrap();
        assert!(futures::poll!(&mut waits).is_pending());
        for later in &mut crowd {
            assert!(futures::poll!(later).is_pending());
        }
        first.connection.give_back();
        drop(first);
        for later in &mut crowd {
            assert!(futures::poll!(later).is_pending(), "the crowd goes first");
        }
        waits.await.unwrap().connection.give_back();
        for turn in crowd {
            turn.await.unwrap().connection.give_back();
        }
    }
}
