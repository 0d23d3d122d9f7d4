//! A claim that was taken without an answer, and what is said of it when the store cannot be asked again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oneflight::idempotency::{Effect, ErrorKind, Idempotency, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store, StoreError};
use oneflight_sqlite::SqliteStore;

#[path = "../../../../tests/common/inner.rs"]
#[macro_use]
mod inner;

/// A store which takes the first claim and loses the answer, and does not take the next one.
struct Loses {
    inner: SqliteStore,
    asked: AtomicU32,
    then: fn() -> StoreError,
}

impl Store for Loses {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        match self.asked.fetch_add(1, Ordering::SeqCst) {
            0 => {
                let granted = self.inner.claim(request).await?;
                assert!(matches!(granted, ClaimOutcome::Granted(_)), "{granted:?}");
                Err(StoreError::unavailable("the connection broke"))
            }
            1 => Err((self.then)()),
            _ => self.inner.claim(request).await,
        }
    }

    all_but_claim!();
}

#[tokio::test]
async fn what_an_earlier_try_may_have_claimed_is_given_back_whatever_the_last_one_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("lost.db")).await.unwrap();
    let id = RequestIdentity::new(Scope::new("tenant"), "key").unwrap();
    let then: [fn() -> StoreError; 2] = [
        || StoreError::NoConnection,
        || StoreError::Busy {
            waited: Duration::from_secs(1),
        },
    ];
    for then in then {
        let idem = Idempotency::builder(Loses {
            inner: store.clone(),
            asked: AtomicU32::new(0),
            then,
        })
        .build();
        let error = idem.run(id.clone(), |_| async { 1 }).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Store(_)) && error.effect() == Effect::Nothing,
            "{error:?}"
        );
        // As it was told: the identity is new, and not held by a claim without work.
        assert_eq!(store.load(&id).await.unwrap(), None, "{error:?}");
    }
    let idem = Idempotency::builder(store).build();
    let reply = idem.run(id, |_| async { 1 }).await.unwrap();
    assert_eq!(reply.origin(), Origin::Executed);
}
