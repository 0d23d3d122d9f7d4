//! Promise 18, for what is durable: every line of a request, whoever polls its work, is inside the request's span and so
//! carries its correlation id; and nothing is told that is not so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "common/lines.rs"]
mod lines;

use std::time::Duration;

use lines::Lines;
use oneflight::idempotency::{Idempotency, NotDone, Recovery, Unfinished};
use oneflight::identity::{RequestId, Scope};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, MemoryStore, SqliteStore, Store, StoreError};
use tracing::Instrument;
use tracing::instrument::WithSubscriber;

fn id(key: &str) -> RequestId {
    RequestId::new(Scope::new("tenant-7"), key).unwrap()
}

/// Without a subscriber on the threads of a pool: everything happens on this one.
fn block_on(lines: &Lines, test: impl Future<Output = ()>) {
    let subscriber = lines.subscriber();
    let _default = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test.with_current_subscriber());
}

fn request(correlation: &str) -> tracing::Span {
    tracing::info_span!("request", correlation_id = correlation)
}

#[test]
fn what_the_work_tells_carries_the_correlation_id_of_its_request() {
    let lines = Lines::default();
    block_on(&lines, async {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("told.db")).await.unwrap();
        let idem = Idempotency::builder(store).build();
        let outside = idem.run(id("outside"), |_| async {
            tracing::info!("outside begins");
            tokio::time::sleep(Duration::from_millis(2)).await;
            tracing::info!("outside ends");
            1
        });
        let inside = idem.run_in_tx(id("inside"), |_| {
            Box::pin(async {
                tracing::info!("inside begins");
                tokio::time::sleep(Duration::from_millis(2)).await;
                tracing::info!("inside ends");
                Ok(1)
            })
        });
        let (outside, inside) = tokio::join!(
            outside.instrument(request("c-outside")),
            inside.instrument(request("c-inside"))
        );
        assert_eq!((*outside.unwrap(), *inside.unwrap()), (1, 1));
    });
    for place in ["outside", "inside"] {
        for moment in ["begins", "ends"] {
            let line = lines.the(&format!("{place} {moment}"));
            assert!(
                line.contains(&format!("c-{place}")) && line.contains("oneflight.flight"),
                "{line}"
            );
        }
    }
}

#[test]
fn what_we_tell_of_a_request_carries_its_correlation_id() {
    let lines = Lines::default();
    block_on(&lines, async {
        let store = MemoryStore::new();
        let request_id = id("dead");
        let claimed = store.claim(ClaimRequest::new(&request_id, Duration::ZERO)).await;
        assert!(matches!(claimed, Ok(ClaimOutcome::Granted(_))));
        let lease = Duration::from_millis(60);
        let heir = Idempotency::builder(store.clone())
            .recovery(Recovery::Rerun)
            .lease(lease)
            .build();
        let thief = store.clone();
        let work = move |context: oneflight::idempotency::Context| async move {
            let record = thief.load(&id("dead")).await.unwrap().unwrap();
            thief
                .release(Claim::new(id("dead"), record.token, 2, None))
                .await
                .unwrap();
            context.lease_lost().await;
        };
        let lost = heir.run(id("dead"), work).instrument(request("c-heir")).await;
        assert!(lost.is_err());
    });
    for told in ["took over the claim", "the claim was lost"] {
        let line = lines.the(told);
        assert!(line.contains("c-heir"), "{line}");
    }
}

/// A memory store in which whoever completes or releases has to wait, and renewals need not.
#[derive(Clone)]
struct Slow(MemoryStore);

impl Store for Slow {
    async fn claim(&self, request: ClaimRequest<'_>) -> Result<ClaimOutcome, StoreError> {
        self.0.claim(request).await
    }
    async fn renew(&self, id: &RequestId, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        // Was in the queue behind whatever ended the claim.
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.0.renew(id, token, lease).await
    }
    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.0.complete(claim, result, retention).await?;
        tokio::time::sleep(Duration::from_millis(60)).await;
        Ok(())
    }
    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.0.release(claim).await?;
        tokio::time::sleep(Duration::from_millis(60)).await;
        Ok(())
    }
    async fn load(&self, id: &RequestId) -> Result<Option<Record>, StoreError> {
        self.0.load(id).await
    }
    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.0.purge(limit).await
    }
}

#[test]
fn a_claim_that_we_ended_ourselves_is_not_told_as_lost() {
    let lines = Lines::default();
    block_on(&lines, async {
        let idem = Idempotency::builder(Slow(MemoryStore::new()))
            .lease(Duration::from_millis(60))
            .build();
        let answer = |value: Result<u32, Unfinished>| {
            move |_: oneflight::idempotency::Context| async move {
                // A renewal is under way.
                tokio::time::sleep(Duration::from_millis(35)).await;
                value
            }
        };
        assert!(idem.try_run(id("completed"), answer(Ok(1))).await.is_ok());
        assert!(
            idem.try_run(id("released"), answer(Err(NotDone::because("busy").into())))
                .await
                .is_err()
        );
    });
    let told = lines.with("the claim was lost");
    assert!(told.is_empty(), "{told:#?}");
}
