//! Promise 16: SQLite keeps the steps of mutations.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, Ending, OpenTransaction, Standing, StepId, StepInTransaction, StepRecord,
    StepStore, StepsClaim, Store, StoreError, TransactionalStepStore, TransactionalStore, UnfinishedQuery,
    UnfinishedSteps, WorkflowRecord, WorkflowStart,
};
use oneflight_conformance::{self as conformance, Ledger, Written};
use oneflight_sqlite::SqliteStore;
use sqlx::SqliteConnection;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_steps() {
    let folder = tempfile::tempdir().unwrap();
    let files = AtomicU64::new(0);
    conformance::run_steps(async || {
        let name = format!("{}.db", files.fetch_add(1, Ordering::Relaxed));
        SqliteStore::open(folder.path().join(name)).await.unwrap()
    })
    .await
    .unwrap();
}

/// Where recursive triggers are on, a record that is replaced is deleted first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_steps_on_a_pool_with_settings_of_its_own() {
    conformance::run_steps(async || {
        let options = sqlx::sqlite::SqliteConnectOptions::new().pragma("recursive_triggers", "ON");
        let pool = sqlx::sqlite::SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .unwrap();
        SqliteStore::from_pool(pool).await.unwrap()
    })
    .await
    .unwrap();
}

/// A store, and the folder that goes with it.
#[derive(Clone)]
struct Shop {
    store: SqliteStore,
    _folder: Arc<tempfile::TempDir>,
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
        let table = sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY)");
        table.execute(store.pool()).await.unwrap();
        let _folder = Arc::new(folder);
        Self { store, _folder }
    }
}

impl Ledger for Shop {
    type Store = SqliteStore;

    fn store(&self) -> &SqliteStore {
        &self.store
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_commits_steps_with_their_rows() {
    conformance::run_steps_in_transactions(Shop::open).await.unwrap();
}

/// How a store is broken.
#[derive(Clone, Copy, Debug)]
enum Defect {
    LosesWhatIsCommitted,
    KeepsWhatIsDeclined,
    KeepsWhatIsRolledBack,
    KeepsRowsWithoutTheStep,
    IgnoresTokens,
    OverlooksWhatEscapes,
}

#[derive(Clone)]
struct BrokenShop(Shop, Defect);

impl Store for BrokenShop {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        self.0.store().claim(request).await
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.0.store().renew(id, token, lease).await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        self.0.store().end_lease(id, token, left).await
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.0.store().complete(claim, result, retention).await
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        self.0.store().release(claim).await
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        self.0.store().load(id).await
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        self.0.store().purge(limit).await
    }
}

impl StepStore for BrokenShop {
    async fn begin_steps(
        &self,
        request: ClaimRequest,
        start: WorkflowStart,
    ) -> Result<ClaimOutcome<StepsClaim>, StoreError> {
        self.0.store().begin_steps(request, start).await
    }

    async fn record_step(&self, id: &RequestIdentity, token: FencingToken, step: StepRecord) -> Result<(), StoreError> {
        self.0.store().record_step(id, token, step).await
    }

    async fn settle_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: &StepId,
        answer: Option<RecordedResult>,
    ) -> Result<(), StoreError> {
        self.0.store().settle_step(id, token, step, answer).await
    }

    async fn load_steps(&self, id: &RequestIdentity) -> Result<Option<WorkflowRecord>, StoreError> {
        self.0.store().load_steps(id).await
    }

    async fn unfinished_steps(&self, query: UnfinishedQuery) -> Result<Vec<UnfinishedSteps>, StoreError> {
        self.0.store().unfinished_steps(query).await
    }

    async fn set_standing(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        standing: Standing,
    ) -> Result<(), StoreError> {
        self.0.store().set_standing(id, token, standing).await
    }
}

impl TransactionalStore for BrokenShop {
    type Connection = SqliteConnection;
    type Names = ();

    async fn transact<W, F, R>(&self, request: ClaimRequest, work: W) -> Result<ClaimOutcome<R>, StoreError>
    where
        W: FnOnce(OpenTransaction<SqliteConnection, ()>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static,
    {
        self.0.store().transact(request, work).await
    }
}

impl TransactionalStepStore for BrokenShop {
    async fn transact_step<W, F, R>(&self, step: StepInTransaction, work: W) -> Result<R, StoreError>
    where
        W: FnOnce(OpenTransaction<SqliteConnection, ()>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static,
    {
        let (defect, mut step, shop) = (self.1, step, self.0.clone());
        if let (Defect::IgnoresTokens, Some(known)) = (defect, self.load_steps(&step.request).await?) {
            step.token = known.token;
        }
        let retention = Duration::ZERO;
        let broken = self.0.store().transact_step(step, move |open| async move {
            let attempt = open.attempt();
            let (open, loan) = OpenTransaction::lend(open, (), attempt);
            let (ending, value) = work(open).await;
            let escaped = loan.take_back().is_err();
            let ending = match (defect, ending) {
                // The store within lets such work have its own answer.
                (Defect::OverlooksWhatEscapes, _) if escaped => Ending::RollBack,
                (Defect::LosesWhatIsCommitted, Ending::Commit { .. }) => Ending::RollBack,
                (Defect::KeepsWhatIsDeclined, Ending::Decline { result, retention }) => {
                    Ending::Commit { result, retention }
                }
                (Defect::KeepsWhatIsRolledBack, Ending::RollBack) => Ending::Commit {
                    result: RecordedResult::not_encodable(),
                    retention,
                },
                (_, ending) => ending,
            };
            (ending, value)
        });
        let done = broken.await;
        if let (Defect::KeepsRowsWithoutTheStep, Ok(_)) = (defect, &done) {
            let lose = sqlx::query("DELETE FROM oneflight_steps");
            lose.execute(shop.store().pool()).await.unwrap();
        }
        done
    }
}

impl Ledger for BrokenShop {
    type Store = Self;

    fn store(&self) -> &Self {
        self
    }

    fn write<'c>(&self, connection: &'c mut SqliteConnection) -> Written<'c> {
        self.0.write(connection)
    }

    async fn rows(&self) -> Result<u64, StoreError> {
        self.0.rows().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_store_does_not_conform() {
    let expected = [
        (Defect::LosesWhatIsCommitted, "rows_and_step_are_one_commit"),
        (Defect::KeepsRowsWithoutTheStep, "rows_and_step_are_one_commit"),
        (
            Defect::KeepsWhatIsDeclined,
            "what_is_declined_is_recorded_without_its_rows",
        ),
        (Defect::KeepsWhatIsRolledBack, "what_is_rolled_back_leaves_nothing"),
        (Defect::IgnoresTokens, "an_outdated_holder_commits_nothing"),
        (Defect::OverlooksWhatEscapes, "what_escapes_leaves_nothing"),
    ];
    for (defect, promise) in expected {
        let checked = conformance::run_steps_in_transactions(async || BrokenShop(Shop::open().await, defect));
        let failure = checked.await.expect_err(&format!("{defect:?} passes"));
        assert_eq!(failure.check(), promise, "{defect:?}: {failure}");
    }
}
