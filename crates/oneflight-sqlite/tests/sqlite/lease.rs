//! Promise 10, at the edges of a lease: a holder that is alive keeps it, however long others write.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oneflight::idempotency::{Context, Idempotency, Origin, Recovery};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::SqliteSynchronous;
use tokio::task::JoinSet;
use tokio::time::sleep;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_who_is_alive_keeps_his_lease_however_many_transactions_queue() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let open = || SqliteStore::options().synchronous(SqliteSynchronous::Off).open(&path);
    let (store, elsewhere) = (open().await.unwrap(), open().await.unwrap());
    let lease = Duration::from_millis(400);
    let idem = Idempotency::builder(store).lease(lease).build();
    let executions = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&executions);
    let holder = tokio::spawn({
        let idem = idem.clone();
        let work = move |context: Context| async move {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::select! {
                () = context.lease_lost() => false,
                () = sleep(Duration::from_millis(1_500)) => true,
            }
        };
        async move { idem.run(id("holder"), work).await }
    });
    while executions.load(Ordering::SeqCst) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    // Fifteen lease-thirds of transactions, one after another, all in the queue at once.
    let mut business = JoinSet::new();
    for n in 0..30 {
        let idem = idem.clone();
        business.spawn(async move {
            idem.run_in_tx(id(&format!("business {n}")), |_| async {
                sleep(Duration::from_millis(50)).await;
                Ok(1)
            })
            .await
            .map(|it| *it)
        });
    }
    let heir = Idempotency::builder(elsewhere).recovery(Recovery::Rerun).build();
    let heirs_count = Arc::clone(&executions);
    let reply = heir
        .run(id("holder"), move |_| async move {
            heirs_count.fetch_add(1, Ordering::SeqCst);
            false
        })
        .await
        .unwrap();
    assert_eq!((*reply, reply.origin()), (true, Origin::Replayed));
    assert!(*holder.await.unwrap().unwrap());
    assert_eq!(executions.load(Ordering::SeqCst), 1);
    for done in business.join_all().await {
        assert_eq!(done.unwrap(), 1);
    }
}
