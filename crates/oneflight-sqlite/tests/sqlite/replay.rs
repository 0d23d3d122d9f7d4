//! Promise 11, in a transaction: a completed request is replayed, and never to another payload.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use oneflight::idempotency::{Error, ErrorKind, Idempotency, MissingFingerprint, Origin};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[tokio::test]
async fn in_a_transaction_a_fingerprint_on_one_side_only_is_accepted_where_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("deploy.db")).await.unwrap();
    let before = Idempotency::builder(store.clone()).build();
    let _ = before.run(id("k"), |_| async { 1 }).await.unwrap();
    let with = id("k").with_fingerprint("body");
    // The version that adds fingerprints, while the one before is about to end.
    let deployed = Idempotency::builder(store)
        .missing_fingerprint(MissingFingerprint::Accept)
        .build();
    let reply = deployed.run_in_tx(with.clone(), |_| async { Ok(2) }).await.unwrap();
    assert_eq!((*reply, reply.origin()), (1, Origin::Replayed));
    let error = before.run_in_tx(with, |_| async { Ok(2) }).await;
    assert!(
        matches!(error.as_ref().map_err(Error::kind), Err(ErrorKind::Conflict)),
        "{error:?}"
    );
}
