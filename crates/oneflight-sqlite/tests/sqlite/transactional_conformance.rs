//! The suite for stores in whose transaction the work runs passes on SQLite, and fails on a store that is broken.
//! (PostgreSQL has a test of its own.)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use oneflight::identity::RequestIdentity;
use oneflight::record::{CodecId, FencingToken, Record, RecordedResult, Verdict};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Ending, OpenTransaction, Store, StoreError, Takeover, TransactionalStore,
};
use oneflight_conformance::{self as conformance, Failure, Ledger, Written};
use oneflight_sqlite::SqliteStore;
use sqlx::SqliteConnection;

/// How a store is broken, if it is.
#[derive(Clone, Copy, Debug)]
enum Defect {
    None,
    KeepsWhatIsRefused,
    KeepsWhatIsRolledBack,
    LosesWhatIsCommitted,
    KeepsRowsWithoutRecord,
    IgnoresFingerprints,
    TakesOverUnasked,
    RunsBesideAClaim,
    CountsNoAttempts,
    OverlooksWhatEscapes,
}

#[derive(Clone)]
struct Shop {
    store: SqliteStore,
    defect: Defect,
    others: Arc<AtomicU64>,
    _folder: Arc<tempfile::TempDir>,
}

impl Shop {
    async fn open(defect: Defect) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
        let table = sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY)");
        table.execute(store.pool()).await.unwrap();
        Self {
            store,
            defect,
            others: Arc::default(),
            _folder: Arc::new(folder),
        }
    }
}

impl Ledger for Shop {
    type Store = Self;

    fn store(&self) -> &Self {
        self
    }

    fn write<'c>(&self, connection: &'c mut SqliteConnection) -> Written<'c> {
        Box::pin(async move {
            sqlx::query("INSERT INTO orders DEFAULT VALUES")
                .execute(connection)
                .await?;
            Ok(())
        })
    }

    async fn rows(&self) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(self.store.pool());
        count.await.map_err(StoreError::unavailable)
    }
}

impl Store for Shop {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        self.store.claim(request).await
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.store.renew(id, token, lease).await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.store.end_lease(id, token, left).await
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.store.complete(claim, result, retention).await
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
}

impl TransactionalStore for Shop {
    type Connection = SqliteConnection;
    type Names = ();

    async fn transact<W, F, R>(&self, request: ClaimRequest, work: W) -> Result<ClaimOutcome<R>, StoreError>
    where
        W: FnOnce(OpenTransaction<SqliteConnection, ()>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static,
    {
        let defect = self.defect;
        let mut id = request.id.clone();
        let mut takeover = request.takeover;
        match defect {
            Defect::IgnoresFingerprints => {
                if let Some(record) = self.load(&id).await?
                    && let Some(fingerprint) = record.fingerprint
                {
                    id = id.with_known_fingerprint(fingerprint);
                }
            }
            Defect::TakesOverUnasked => takeover = Takeover::Expired,
            Defect::RunsBesideAClaim => {
                let there = self.load(&id).await?;
                if there.is_some_and(|record| record.result().is_none()) {
                    let other = self.others.fetch_add(1, SeqCst);
                    id = RequestIdentity::from_stored(id.scope(), &format!("other-{other}")).unwrap();
                }
            }
            _ => {}
        }
        let request = ClaimRequest::new(&id, request.lease)
            .holder(request.holder)
            .takeover(takeover);
        let broken = self.store.transact(request, move |open| async move {
            let attempt = match defect {
                Defect::CountsNoAttempts => 1,
                _ => open.attempt(),
            };
            let (open, loan) = OpenTransaction::lend(open, (), attempt);
            let (ending, value) = work(open).await;
            let escaped = loan.take_back().is_err();
            let ending = match defect {
                // The store within lets such work have its own answer.
                Defect::OverlooksWhatEscapes if escaped => Ending::RollBack,
                _ => spoilt(defect, ending),
            };
            (ending, value)
        });
        broken.await
    }
}

fn spoilt(defect: Defect, ending: Ending) -> Ending {
    let retention = Duration::from_secs(60);
    match (defect, ending) {
        (Defect::KeepsWhatIsRefused, Ending::Decline { result, retention }) => Ending::Commit { result, retention },
        (Defect::KeepsWhatIsRolledBack, Ending::RollBack) => Ending::Commit {
            result: RecordedResult::value(Verdict::Performed, CodecId::Json, b"1"),
            retention,
        },
        (Defect::LosesWhatIsCommitted, Ending::Commit { .. }) => Ending::RollBack,
        (Defect::KeepsRowsWithoutRecord, Ending::Commit { result, .. }) => Ending::Commit {
            result,
            retention: Duration::ZERO,
        },
        (_, ending) => ending,
    }
}

async fn check(defect: Defect) -> Result<(), Failure> {
    conformance::run_transactional(async || Shop::open(defect).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqlite_store_conforms() {
    if let Err(failure) = check(Defect::None).await {
        panic!("{failure}: {:?}", failure.source());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_store_does_not_conform() {
    let expected = [
        (
            Defect::KeepsWhatIsRefused,
            "what_is_declined_is_recorded_without_its_rows",
        ),
        (Defect::KeepsWhatIsRolledBack, "what_is_rolled_back_leaves_nothing"),
        (Defect::LosesWhatIsCommitted, "rows_and_record_are_one_commit"),
        (Defect::KeepsRowsWithoutRecord, "rows_and_record_are_one_commit"),
        (Defect::IgnoresFingerprints, "another_fingerprint_is_a_conflict"),
        (
            Defect::TakesOverUnasked,
            "what_is_in_doubt_is_taken_over_only_if_wanted",
        ),
        (Defect::RunsBesideAClaim, "a_claim_outside_is_respected"),
        (
            Defect::CountsNoAttempts,
            "what_is_in_doubt_is_taken_over_only_if_wanted",
        ),
        (Defect::OverlooksWhatEscapes, "what_escapes_leaves_nothing"),
    ];
    for (defect, promise) in expected {
        let failure = check(defect).await.expect_err(&format!("{defect:?} passes"));
        println!("{defect:?}: {failure}");
        assert_eq!(failure.check(), promise, "{defect:?}: {failure}");
    }
}
