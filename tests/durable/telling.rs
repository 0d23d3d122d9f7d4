//! Promise 20, for what is durable: what is told of a request is inside the request's span and so carries its correlation id;
//! and nothing is told that is not so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::lines::{Lines, block_on, request};
use oneflight::idempotency::{Idempotency, NotDone, Recovery, Steps, Stopped, Unfinished, Workflow};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, MemoryStore, Store, StoreError};
use tracing::Instrument;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[test]
fn what_we_tell_of_a_request_carries_its_correlation_id() {
    let lines = Lines::default();
    block_on(&lines, async {
        let store = MemoryStore::new();
        let request_id = id("dead");
        let claimed = store.claim(ClaimRequest::new(&request_id, Duration::ZERO)).await;
        assert!(matches!(claimed, Ok(ClaimOutcome::Granted(_))));
        // It is renewed after a third. A busy machine has the rest, before it is over by itself, of which nothing is told.
        let lease = Duration::from_millis(1_500);
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

/// A memory store in which completing and releasing have to wait, and renewing need not.
#[derive(Clone)]
struct Slow(MemoryStore);

impl Store for Slow {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        self.0.claim(request).await
    }
    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        // Was in the queue behind whatever ended the claim.
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.0.renew(id, token, lease).await
    }
    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        // Was in the queue behind whatever ended the claim.
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.0.end_lease(id, token, left).await
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
    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
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

#[test]
fn what_a_step_tells_stands_in_its_span_and_a_mutation_that_is_held_is_told_as_an_error() {
    let lines = Lines::default();
    block_on(&lines, async {
        let idem = Idempotency::builder(MemoryStore::new()).build();
        let orders = idem.with_workflow("place_order");
        for key in ["steps", "old"] {
            let orders = match key {
                "old" => orders.with_workflow(Workflow::new("place_order").version("0")),
                _ => orders.clone(),
            };
            let run = orders.run_steps(id(key), &7, |steps| async move {
                let told = steps.run("charge", |_| async {
                    tracing::info!("in the middle of a step");
                    Ok::<_, std::io::Error>(())
                });
                told.await?;
                Err::<(), _>(Stopped::because("its client never comes back"))
            });
            assert!(run.instrument(request("c-steps")).await.is_err());
        }
        let often = Duration::from_millis(1);
        let completer = idem.completer().every(often).pauses(often, often).max_tries(2);
        let completer = completer.handler("place_order", |_: u32, _: Steps<MemoryStore>| async {
            Err::<(), _>(Stopped::because("poisonous"))
        });
        let completer = completer.spawn().unwrap();
        while !idem.unfinished_steps(10).await.unwrap().iter().any(|it| it.held) {
            tokio::time::sleep(often).await;
        }
        completer.stop().await;
    });
    for line in lines.with("in the middle of a step") {
        assert!(
            line.contains("oneflight.step") && line.contains("step=charge"),
            "{line}"
        );
        assert!(line.contains("c-steps"), "{line}");
    }
    assert_eq!(lines.with("a completer took up").len(), 2);
    let held = lines.the("a mutation is held");
    assert!(
        held.contains("ERROR") && held.contains("place_order") && held.contains("tries=2"),
        "{held}"
    );
    let unknown = lines.the("mutations wait for code that knows them");
    assert!(
        unknown.contains("WARN") && unknown.contains("version=\"0\""),
        "{unknown}"
    );
}
