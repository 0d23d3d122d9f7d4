//! Promise 10, of the wait: work that has its turn to write does not wait for a call that waits for that turn.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::idempotency::{Context, Effect, Error, ErrorKind, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::StoreError;
use oneflight_sqlite::SqliteStore;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

async fn shop() -> (tempfile::TempDir, Idempotency<SqliteStore>) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    (folder, Idempotency::builder(store).build())
}

fn is_unsupported(error: &Error, took: Duration) {
    let ErrorKind::Store(source) = error.kind() else {
        panic!("{error:?}")
    };
    assert!(matches!(source, StoreError::Unsupported { .. }), "{error:?}");
    // Far less than the wait, of ten seconds.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_has_its_turn_to_write_does_not_join_who_waits_for_it() {
    for in_tx in [true, false] {
        let (_folder, idem) = shop().await;
        let (inner, before) = (idem.clone(), idem.clone());
        let outer = idem.run_in_tx(id("outer"), move |_| async move {
            // It comes to wait for the turn to write, which is ours.
            let waits = tokio::spawn(async move {
                match in_tx {
                    true => before.run_in_tx(id("inner"), |_| async { Ok(1) }).await,
                    false => before.run(id("inner"), |_| async { 1 }).await,
                }
            });
            while inner.in_flight() < 2 {
                sleep(Duration::from_millis(1)).await;
            }
            let asked = Instant::now();
            let joined = inner.run_in_tx(id("inner"), |_| async { Ok(2) }).await;
            is_unsupported(&joined.unwrap_err(), asked.elapsed());
            drop(waits);
            Ok(1)
        });
        assert_eq!(*timeout(Duration::from_secs(9), outer).await.unwrap().unwrap(), 1);
    }
}

/// Its work runs when it is joined; it is its result that has to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_has_its_turn_to_write_does_not_stay_with_who_comes_to_wait_for_it() {
    let (_folder, idem) = shop().await;
    let (begins, begun) = oneshot::channel();
    let (leave, left) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let idem = idem.clone();
        async move {
            let work = |_: Context| async move {
                begins.send(()).unwrap();
                left.await.unwrap();
                1
            };
            idem.run(id("inner"), work).await.map(|reply| *reply)
        }
    });
    begun.await.unwrap();
    let inner = idem.clone();
    let outer = idem.run_in_tx(id("outer"), move |_| async move {
        let asked = Instant::now();
        let mut joined = Box::pin(inner.run(id("inner"), |_| async { 2 }));
        assert!(futures::poll!(&mut joined).is_pending());
        leave.send(()).unwrap();
        let error = joined.await.unwrap_err();
        is_unsupported(&error, asked.elapsed());
        assert_eq!(error.effect(), Effect::Unknown);
        Ok(3)
    });
    assert_eq!(*timeout(Duration::from_secs(9), outer).await.unwrap().unwrap(), 3);
    assert_eq!(running.await.unwrap().unwrap(), 1);
}
