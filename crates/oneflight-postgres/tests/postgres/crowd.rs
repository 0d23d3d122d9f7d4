//! A store whose claims and completions go out together with those of others, each time. It decides about each as if that went alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, FencingToken, Record, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, InDoubt, Store, StoreError, Watch};
use oneflight_conformance as conformance;
use oneflight_postgres::PostgresStore;

use crate::decision;
use crate::postgres::server;

const HOUR: Duration = Duration::from_secs(3600);

/// The first of them goes alone, and those after it gather.
#[derive(Clone)]
pub struct Crowd {
    pub store: PostgresStore,
    others: Arc<AtomicUsize>,
}

impl Crowd {
    pub fn around(store: PostgresStore) -> Self {
        let others = Arc::default();
        Self { store, others }
    }

    fn other(&self) -> ClaimRequest {
        let number = self.others.fetch_add(1, SeqCst);
        let id = RequestIdentity::new(Scope::new("crowd"), format!("other-{number}")).unwrap();
        ClaimRequest::new(&id, HOUR)
    }
}

impl Store for Crowd {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        // In boxes: all of them together are more than a thread's stack has.
        let claim = |request| Box::pin(self.store.claim(request));
        let (one, two, claimed, four) = futures::join!(
            claim(self.other()),
            claim(self.other()),
            claim(request),
            claim(self.other())
        );
        for other in [one, two, four] {
            assert!(matches!(other, Ok(ClaimOutcome::Granted(_))), "{other:?}");
        }
        claimed
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        let other = async || match Box::pin(self.store.claim(self.other())).await {
            Ok(ClaimOutcome::Granted(claim)) => claim,
            other => panic!("{other:?}"),
        };
        let (one, two, four) = (other().await, other().await, other().await);
        let theirs = RecordedResult::value(Verdict::Performed, CodecId::Json, b"null");
        let complete = |claim| Box::pin(self.store.complete(claim, theirs.clone(), HOUR));
        let (one, two, completed, four) = futures::join!(
            complete(one),
            complete(two),
            Box::pin(self.store.complete(claim, result, retention)),
            complete(four)
        );
        one.and(two).and(four).unwrap();
        completed
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.store.renew(id, token, lease).await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.store.end_lease(id, token, left).await
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.store.release(claim).await
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        self.store.load(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.store.purge(limit).await
    }

    async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        self.store.in_doubt(limit, after).await
    }

    async fn watch(&self, id: &RequestIdentity) -> Watch {
        self.store.watch(id).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_among_others_is_decided_as_the_function_does() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(3)).await.unwrap();
    decision::agree(&store, &Crowd::around(store.clone())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_others_it_keeps_what_every_store_promises() {
    for prepares in [true, false] {
        let crowd = async || {
            let schema = server().schema().await;
            let options = match prepares {
                true => PostgresStore::options(),
                false => PostgresStore::options().without_prepared_statements(),
            };
            Crowd::around(options.from_pool(schema.pool(4)).await.unwrap())
        };
        if let Err(failure) = conformance::run(crowd).await {
            panic!("{failure}: {:?}", std::error::Error::source(&failure));
        }
    }
}
