//! Promise 13: work that died with its process is in doubt, and found as that by the next process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../../tests/common/crash.rs"]
mod crash;

use std::time::Duration;

use crash::crash;
use oneflight::idempotency::{Error, ErrorKind, Idempotency, Recovery};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;
use tokio::runtime::Runtime;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[test]
fn a_crash_over_sqlite_is_found_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crash.db");
    let lease = Duration::from_millis(300);
    let opener = Runtime::new().unwrap();
    let store = opener.block_on(SqliteStore::open(&path)).unwrap();
    let downstream = crash(&store, lease, "sqlite");
    drop(store);
    drop(opener);
    Runtime::new().unwrap().block_on(async {
        let store = SqliteStore::open(&path).await.unwrap();
        let eager = Idempotency::builder(store.clone())
            .recovery(Recovery::Rerun)
            .wait(Duration::ZERO)
            .build();
        let error = eager.run(id("sqlite"), |_| async { String::new() }).await;
        assert!(
            matches!(error.as_ref().map_err(Error::kind), Err(ErrorKind::InProgress { .. })),
            "the lease still runs"
        );
        // Waits for the lease of the dead to end, and then runs.
        let heir = Idempotency::builder(store).recovery(Recovery::Rerun).build();
        let reply = heir
            .run(id("sqlite"), |context| async move { context.downstream_key("charge") })
            .await
            .unwrap();
        assert_eq!((reply.as_str(), reply.attempt()), (downstream.as_str(), 2));
    });
}
