//! Promises 10 and 11: the conformance suite passes on SQLite.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{join, join_all};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, FencingToken, Record, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, InDoubt, Store, StoreError};
use oneflight_conformance as conformance;
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqlite_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let files = AtomicU64::new(0);
    conformance::run(async || {
        let name = format!("{}.db", files.fetch_add(1, Ordering::Relaxed));
        SqliteStore::open(folder.path().join(name)).await.unwrap()
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqlite_store_conforms_on_a_pool_of_one_connection() {
    conformance::run(async || {
        let pool = sqlx::sqlite::SqlitePoolOptions::new()
            .max_connections(1)
            .connect("sqlite::memory:")
            .await
            .unwrap();
        SqliteStore::from_pool(pool).await.unwrap()
    })
    .await
    .unwrap();
}

/// A store that is asked by a crowd at the same time, so that what is asked waits for the writer and is done with others.
struct Crowded {
    inner: SqliteStore,
    requests: AtomicU64,
    /// A check lets a short lease or retention run out. A crowd would take time that this has not, so there is none from then on.
    is_short: AtomicBool,
}

impl Crowded {
    /// Waits for an operation beside others, each of a request of its own.
    async fn beside<T>(&self, lease: Option<Duration>, operation: impl Future<Output = T>) -> T {
        if lease.is_some_and(|lease| lease < Duration::from_secs(1)) {
            self.is_short.store(true, Ordering::Relaxed);
        }
        if self.is_short.load(Ordering::Relaxed) {
            return operation.await;
        }
        let crowd = (0..4).map(|_| async {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let id = RequestIdentity::new(Scope::new("crowd"), number.to_string()).unwrap();
            let lease = Duration::from_secs(600);
            let claimed = self.inner.claim(ClaimRequest::new(&id, lease)).await;
            let Ok(ClaimOutcome::Granted(claim)) = claimed else {
                panic!("{claimed:?}")
            };
            // Not a renewal: those are gathered for a while, which all would wait for.
            self.inner.end_lease(&id, claim.token(), lease).await.unwrap();
            let result = RecordedResult::value(Verdict::Performed, CodecId::Json, b"1");
            self.inner.complete(claim, result, lease).await.unwrap();
        });
        join(join_all(crowd), operation).await.1
    }
}

impl Store for Crowded {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        self.beside(Some(request.lease), self.inner.claim(request)).await
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.beside(Some(lease), self.inner.renew(id, token, lease)).await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.beside(Some(left), self.inner.end_lease(id, token, left)).await
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.beside(Some(retention), self.inner.complete(claim, result, retention))
            .await
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.beside(None, self.inner.release(claim)).await
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        self.inner.load(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.inner.purge(limit).await
    }

    async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        self.inner.in_doubt(limit, after).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqlite_store_conforms_in_a_crowd() {
    for is_lent in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let files = AtomicU64::new(0);
        conformance::run(async || {
            let path = folder
                .path()
                .join(format!("{}.db", files.fetch_add(1, Ordering::Relaxed)));
            let inner = match is_lent {
                false => SqliteStore::open(path).await.unwrap(),
                true => {
                    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
                    let options = options.journal_mode(SqliteJournalMode::Wal);
                    let pool = SqlitePoolOptions::new().max_connections(3).connect_with(options);
                    SqliteStore::from_pool(pool.await.unwrap()).await.unwrap()
                }
            };
            Crowded {
                inner,
                requests: AtomicU64::new(0),
                is_short: AtomicBool::new(false),
            }
        })
        .await
        .unwrap();
    }
}
