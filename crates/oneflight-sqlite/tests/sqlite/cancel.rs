//! Promise 13, of calls that are cancelled: what leaves a request in doubt is work that has begun, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneflight::OnAbandon;
use oneflight::idempotency::{Context, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::Store;
use oneflight_sqlite::SqliteStore;
use tokio::time::{sleep, timeout};

/// Far more than anything here takes.
const EVER: Duration = Duration::from_secs(60);

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// Calls that are cancelled at any point of their way, over a database that does what it does on other threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_in_doubt_whose_work_never_began() {
    const CALLS: u32 = 400;
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("cancel.db")).await.unwrap();
    let idem = Idempotency::builder(store.clone())
        .lease(Duration::from_millis(900))
        .on_abandon(OnAbandon::Cancel)
        .build();
    let begun = Arc::new(Mutex::new(HashSet::new()));
    for n in 0..CALLS {
        let (idem, begun) = (idem.clone(), Arc::clone(&begun));
        let call = tokio::spawn(async move {
            let work = move |_: Context| async move {
                begun.lock().unwrap().insert(n);
                std::future::pending::<()>().await;
            };
            idem.run(id(&n.to_string()), work).await
        });
        sleep(Duration::from_micros(fastrand::u64(..3_000))).await;
        call.abort();
    }
    timeout(EVER, idem.drain()).await.expect("it does not end");
    // What is left is as good as in doubt.
    let begun = begun.lock().unwrap().clone();
    let mut kept = 0;
    for n in 0..CALLS {
        if store.load(&id(&n.to_string())).await.unwrap().is_some() {
            kept += 1;
            assert!(
                begun.contains(&n),
                "call {n} did nothing and left a record ({kept} so far)"
            );
        }
    }
    println!("{} of {CALLS} calls had begun their work", begun.len());
}
