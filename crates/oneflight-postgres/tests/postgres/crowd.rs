//! A store whose claims and completions go out together with those of others, each time. It decides about each as if that went alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, FencingToken, Record, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, InDoubt, Store, StoreError, Watch};
use oneflight_conformance as conformance;
use oneflight_postgres::{PostgresOptions, PostgresStore};

use crate::decision;
use crate::postgres::server;

const HOUR: Duration = Duration::from_secs(3600);

/// The first of them goes alone, and those after it gather.
#[derive(Clone)]
pub struct Crowd {
    pub store: PostgresStore,
    others: Arc<AtomicUsize>,
    counts: Arc<Counts>,
    /// A check lets a short lease or retention run out. A crowd would take time that this has not, so there is none from then on.
    is_short: Arc<AtomicBool>,
}

/// How many claims and completions there were, and how many of them shared a commit. On a busy machine some do not.
#[derive(Debug, Default)]
pub struct Counts {
    all: AtomicUsize,
    shared: AtomicUsize,
}

impl Counts {
    fn most_are_shared(&self) -> bool {
        self.all.load(SeqCst) < 2 * self.shared.load(SeqCst)
    }
}

impl Crowd {
    pub fn around(store: PostgresStore, counts: Arc<Counts>) -> Self {
        Self {
            store,
            others: Arc::default(),
            counts,
            is_short: Arc::default(),
        }
    }

    /// Counts whether one transaction has written two records last.
    async fn count(&self, one: &RequestIdentity, other: &RequestIdentity) {
        let shared =
            "SELECT count(DISTINCT xmin::text) = 1 FROM oneflight_records WHERE scope = $1 AND key IN ($2, $3)";
        let shared = sqlx::query_scalar(shared)
            .bind(one.scope())
            .bind(one.key())
            .bind(other.key());
        let shared: bool = shared.fetch_one(self.store.pool()).await.unwrap();
        self.counts.all.fetch_add(1, SeqCst);
        self.counts.shared.fetch_add(usize::from(shared), SeqCst);
    }

    fn other(&self) -> ClaimRequest {
        let number = self.others.fetch_add(1, SeqCst);
        let id = RequestIdentity::new(Scope::new("crowd"), format!("other-{number}")).unwrap();
        ClaimRequest::new(&id, HOUR)
    }
}

impl Store for Crowd {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        if request.lease < Duration::from_secs(1) {
            self.is_short.store(true, SeqCst);
        }
        if self.is_short.load(SeqCst) {
            return self.store.claim(request).await;
        }
        // In boxes: all of them together are more than a thread's stack has.
        let claim = |request| Box::pin(self.store.claim(request));
        let (one, two, claimed, four) = futures::join!(
            claim(self.other()),
            claim(self.other()),
            claim(request),
            claim(self.other())
        );
        let [_, two, four] = [one, two, four].map(|other| match other {
            Ok(ClaimOutcome::Granted(claim)) => claim,
            other => panic!("{other:?}"),
        });
        self.count(two.id(), four.id()).await;
        claimed
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        if retention < Duration::from_secs(1) {
            self.is_short.store(true, SeqCst);
        }
        if self.is_short.load(SeqCst) {
            return self.store.complete(claim, result, retention).await;
        }
        let other = async || match Box::pin(self.store.claim(self.other())).await {
            Ok(ClaimOutcome::Granted(claim)) => claim,
            other => panic!("{other:?}"),
        };
        let (one, two, four) = (other().await, other().await, other().await);
        let ids = [two.id().clone(), four.id().clone()];
        let theirs = RecordedResult::value(Verdict::Performed, CodecId::Json, b"null");
        let complete = |claim| Box::pin(self.store.complete(claim, theirs.clone(), HOUR));
        let (one, two, completed, four) = futures::join!(
            complete(one),
            complete(two),
            Box::pin(self.store.complete(claim, result, retention)),
            complete(four)
        );
        one.and(two).and(four).unwrap();
        self.count(&ids[0], &ids[1]).await;
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
    let counts = Arc::<Counts>::default();
    decision::agree(&store, &Crowd::around(store.clone(), Arc::clone(&counts))).await;
    assert!(counts.most_are_shared(), "{counts:?}");
}

async fn it_keeps_what_every_store_promises(options: PostgresOptions) {
    let counts = Arc::<Counts>::default();
    let crowd = async || {
        let schema = server().schema().await;
        let store = options.clone().from_pool(schema.pool(4)).await.unwrap();
        Crowd::around(store, Arc::clone(&counts))
    };
    if let Err(failure) = conformance::run(crowd).await {
        panic!("{failure}: {:?}", std::error::Error::source(&failure));
    }
    assert!(counts.most_are_shared(), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_others_it_keeps_what_every_store_promises() {
    it_keeps_what_every_store_promises(PostgresStore::options()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_others_it_keeps_them_without_prepared_statements() {
    it_keeps_what_every_store_promises(PostgresStore::options().without_prepared_statements()).await;
}
