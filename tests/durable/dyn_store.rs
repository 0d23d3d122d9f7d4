//! A store without its type does all that the one behind it does: nothing falls back to what a store may leave out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use oneflight::idempotency::{Effect, Error, Idempotency, NotDone, Origin, Reply, Resolution};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimOutcome, ClaimRequest, DynStore, ManualClock, MemoryStore, Store};

/// What an application keeps: without a parameter.
#[derive(Clone)]
struct App {
    idem: Idempotency<DynStore>,
}

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[tokio::test]
async fn a_request_lives_its_whole_life() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    let app = App {
        idem: Idempotency::builder(DynStore::from(store.clone()))
            .retention(Duration::from_secs(60))
            .build(),
    };
    let first = app.idem.run(id("a"), |_| async { 1 }).await.unwrap();
    let again = app.idem.run(id("a"), |_| async { 2 }).await.unwrap();
    assert_eq!((*first, first.origin()), (1, Origin::Executed));
    assert_eq!((*again, again.origin()), (1, Origin::Replayed));
    assert!(app.idem.status(&id("a")).await.unwrap().unwrap().result().is_some());

    let refused: Result<Reply<u32>, Error> = app
        .idem
        .try_run(id("b"), |_| async { Err(NotDone::because("refused").into()) })
        .await;
    assert_eq!(refused.unwrap_err().effect(), Effect::Nothing);
    assert!(app.idem.status(&id("b")).await.unwrap().is_none());

    let died: Result<Reply<u32>, Error> = app.idem.run(id("c"), |_| async { panic!("died") }).await;
    assert_eq!(died.unwrap_err().effect(), Effect::Unknown);
    let doubtful = app.idem.in_doubt(10, None).await.unwrap();
    assert_eq!(doubtful.len(), 1);
    app.idem.resolve(&doubtful[0].id, Resolution::Rerun).await.unwrap();
    assert!(app.idem.in_doubt(10, None).await.unwrap().is_empty());

    clock.advance(Duration::from_secs(61));
    assert_eq!(app.idem.store().purge(10).await.unwrap(), 1);
    assert!(store.is_empty());
}

#[tokio::test]
async fn the_watch_is_that_of_the_store_behind_it() {
    let shared = Arc::new(MemoryStore::new());
    let store = DynStore::from(Arc::clone(&shared));
    let request = ClaimRequest::new(&id("watched"), Duration::from_secs(10));
    let ClaimOutcome::Granted(claim) = store.claim(request).await.unwrap() else {
        panic!("nobody else has it");
    };
    let mut watch = store.watch(&id("watched")).await;
    assert!(!watch.is_none());
    shared.release(claim).await.unwrap();
    watch.changed().await;
}
