//! Promises 3 and 10: no caller is held up by one that is not polled, and none waits longer than it said.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use oneflight::http::Problem;
use oneflight::idempotency::{Effect, Error, ErrorKind, Idempotency, Origin, Recovery, Reply};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimOutcome, ClaimRequest, MemoryStore, Store, StoreError};
use oneflight::{Drive, OnAbandon};
use oneflight_sqlite::SqliteStore;
use tokio::sync::oneshot;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

async fn shop() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    (folder, store)
}

#[tokio::test]
async fn a_call_that_is_kept_and_not_polled_holds_up_no_other_key() {
    let (_folder, store) = shop().await;
    let idem = Idempotency::builder(store).build();
    let (enters, entered) = oneshot::channel();
    let mut idle = Box::pin(idem.run_in_tx(id("a"), |_| async move {
        enters.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(1)
    }));
    tokio::select! {
        biased;
        _ = &mut idle => unreachable!("it is not ready yet"),
        // It has its turn to write by now.
        entered = entered => entered.unwrap(),
    }
    let other = idem.run_in_tx(id("b"), |_| async { Ok(2) });
    let other = tokio::time::timeout(Duration::from_secs(5), other).await;
    assert_eq!(*other.expect("held up by a call that is not polled").unwrap(), 2);
    assert_eq!(*idle.await.unwrap(), 1);
}

/// A transaction of another process, which holds SQLite's one writer until it is told to end.
struct Elsewhere {
    ends: oneshot::Sender<()>,
    transaction: tokio::task::JoinHandle<Result<Reply<u32>, Error>>,
}

impl Elsewhere {
    async fn run_in_tx(folder: &tempfile::TempDir, key: &str) -> Self {
        let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
        let (idem, request) = (Idempotency::builder(store).build(), id(key));
        let (enters, entered) = oneshot::channel();
        let (ends, ended) = oneshot::channel::<()>();
        let (mut enters, mut ended) = (Some(enters), Some(ended));
        let transaction = tokio::spawn(async move {
            idem.run_in_tx(request, move |_| {
                let (enters, ended) = (enters.take().unwrap(), ended.take().unwrap());
                async move {
                    enters.send(()).unwrap();
                    ended.await?;
                    Ok(1)
                }
            })
            .await
        });
        entered.await.unwrap();
        Self { ends, transaction }
    }

    async fn end(self) -> u32 {
        self.ends.send(()).unwrap();
        *self.transaction.await.unwrap().unwrap()
    }
}

const WAIT: Duration = Duration::from_millis(1_200);

/// Checks that a call was told, after its wait, that the store was busy and that it did nothing itself.
fn check_locked_out(error: Error, asked: Instant) {
    let waited = asked.elapsed();
    assert!(
        waited >= WAIT - Duration::from_millis(20) && waited < WAIT * 5,
        "{waited:?}"
    );
    assert!(
        matches!(error.kind(), ErrorKind::Store(source) if matches!(source, StoreError::Busy { .. }))
            && error.effect() == Effect::Nothing,
        "{error:?}"
    );
    let problem = Problem::from(error);
    assert_eq!(problem.status(), 503);
    assert!(problem.retry_after().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_writer_in_vain_is_not_told_that_the_request_is_being_executed() {
    let (folder, store) = shop().await;
    let here = Idempotency::builder(store).wait(WAIT).recovery(Recovery::Rerun).build();
    let elsewhere = Elsewhere::run_in_tx(&folder, "held").await;
    // Of the key that is executed elsewhere, in a transaction, nothing can be seen until it is committed.
    for key in ["new", "held"] {
        let asked = Instant::now();
        let error = here.run_in_tx(id(key), |_| async { Ok(2) }).await;
        check_locked_out(error.unwrap_err(), asked);
        let asked = Instant::now();
        check_locked_out(here.run(id(key), |_| async { 2 }).await.unwrap_err(), asked);
    }
    assert_eq!(elsewhere.end().await, 1);
    for (key, value, source) in [("held", 1, Origin::Replayed), ("new", 2, Origin::Executed)] {
        let reply = here.run_in_tx(id(key), |_| async { Ok(2) }).await.unwrap();
        assert_eq!((*reply, reply.origin()), (value, source));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_writer_in_vain_is_told_what_the_record_says() {
    let (folder, store) = shop().await;
    let asks = ClaimRequest::new;
    let (claimed, doubtful) = (id("claimed"), id("doubtful"));
    for (request, lease) in [(&claimed, Duration::from_secs(60)), (&doubtful, Duration::ZERO)] {
        let granted = store.claim(asks(request, lease)).await;
        assert!(matches!(granted, Ok(ClaimOutcome::Granted(_))), "{granted:?}");
    }
    let elsewhere = Elsewhere::run_in_tx(&folder, "long").await;
    let held = |recovery| {
        let idem = Idempotency::builder(store.clone())
            .wait(WAIT)
            .recovery(recovery)
            .build();
        let (claimed, doubtful) = (claimed.clone(), doubtful.clone());
        async move {
            let claimed = idem.run(claimed, |_| async { 2 }).await.unwrap_err();
            assert!(matches!(claimed.kind(), ErrorKind::InProgress { .. }), "{claimed:?}");
            idem.run(doubtful, |_| async { 2 }).await.unwrap_err()
        }
    };
    let error = held(Recovery::Hold).await;
    assert!(
        matches!(error.kind(), ErrorKind::InDoubt { attempt: 1, .. }),
        "{error:?}"
    );
    // Its policy would take over; what the dead holder did is not known.
    let error = held(Recovery::Rerun).await;
    assert!(
        matches!(error.kind(), ErrorKind::Store(_)) && error.effect() == Effect::Unknown,
        "{error:?}"
    );
    assert_eq!(elsewhere.end().await, 1);
}

#[tokio::test]
async fn who_polls_and_what_becomes_of_abandoned_work_can_be_chosen() {
    tokio::task_local! { static CALLER: u32; }
    let idem = Idempotency::builder(MemoryStore::new()).drive(Drive::InPlace).build();
    let call = idem.run(id("in place"), |_| async { CALLER.try_with(|it| *it).unwrap_or(0) });
    assert_eq!(*CALLER.scope(7, call).await.unwrap(), 7);
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let call = idem.run(id("spawned"), |_| async { CALLER.try_with(|it| *it).unwrap_or(0) });
    assert_eq!(*CALLER.scope(7, call).await.unwrap(), 0);

    let (_folder, store) = shop().await;
    sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY)")
        .execute(store.pool())
        .await
        .unwrap();
    for (policy, rows) in [(OnAbandon::Cancel, 0_i64), (OnAbandon::Finish, 1)] {
        let idem = Idempotency::builder(store.clone()).on_abandon(policy).build();
        let call = idem.run_in_tx(id("abandoned"), |mut tx| async move {
            sqlx::query("INSERT INTO orders DEFAULT VALUES")
                .execute(&mut *tx)
                .await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(1)
        });
        assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
        idem.drain().await;
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
            .fetch_one(store.pool())
            .await
            .unwrap();
        assert_eq!(found, rows, "{policy:?}");
        assert_eq!(idem.status(&id("abandoned")).await.unwrap().is_some(), rows > 0);
    }
}
