//! The suite for transactions that another driver has begun passes on SQLite, and fails on a store that is broken.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::outbox::{Bell, NewMessage};
use oneflight::store::{Asked, ClaimRequest, Denied, ForeignStatement, ForeignTransaction, StoreError, Takeover};
use oneflight_conformance::{self as conformance, Failure, OtherDriver};
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Row};

type BoxError = Box<dyn Error + Send + Sync>;

/// How long the connections wait for the right to write.
const BUSY: Duration = Duration::from_secs(1);

/// How a store is broken, if it is.
#[derive(Clone, Copy, Debug)]
enum Defect {
    None,
    LosesWhatIsCommitted,
    OverlooksRecords,
    IgnoresFingerprints,
    KeepsWhatFails,
    UndoesTheTransaction,
    OverlooksTheEnd,
    SendsNothing,
    WritesValuesIntoTexts,
    TakesOverUnasked,
    CountsNoAttempts,
    BelievesEverything,
}

/// The store's part of a transaction, with a defect.
#[derive(Debug)]
struct Broken {
    within: Box<dyn ForeignTransaction>,
    defect: Defect,
}

impl ForeignTransaction for Broken {
    fn request(&mut self) -> &mut ClaimRequest {
        self.within.request()
    }

    fn nest(&mut self, depth: u32) {
        self.within.nest(depth);
    }

    fn begin(&self) -> Vec<ForeignStatement> {
        let mut begin = self.within.begin();
        if let Defect::WritesValuesIntoTexts = self.defect {
            for statement in &mut begin {
                let values = statement.values.join(" ");
                statement.text.push_str(&format!(" /* {values} */"));
            }
        }
        begin
    }

    fn read(&mut self, answer: &str) -> Result<Option<Record>, StoreError> {
        let read = self.within.read(answer);
        match self.defect {
            Defect::BelievesEverything => Ok(read.unwrap_or_default()),
            Defect::OverlooksRecords => read.map(|_| None),
            Defect::IgnoresFingerprints => {
                let fingerprint = self.within.request().id.fingerprint();
                read.map(|mut record| {
                    if let Some(record) = &mut record {
                        record.fingerprint = fingerprint;
                    }
                    record
                })
            }
            Defect::TakesOverUnasked => {
                self.within.request().takeover = Takeover::Expired;
                read
            }
            _ => read,
        }
    }

    fn grant(&mut self, attempt: u32, took_over: Option<FencingToken>) -> Result<Vec<ForeignStatement>, Denied> {
        match self.defect {
            Defect::CountsNoAttempts => self.within.grant(1, took_over),
            _ => self.within.grant(attempt, took_over),
        }
    }

    fn granted(&mut self, answer: Option<&str>) -> Result<(), StoreError> {
        self.within.granted(answer)
    }

    fn send(&self, message: &NewMessage) -> Vec<ForeignStatement> {
        match self.defect {
            Defect::SendsNothing => vec![ForeignStatement::new("SELECT '1 new' AS oneflight", [])],
            _ => self.within.send(message),
        }
    }

    fn bell(&self) -> &Bell {
        self.within.bell()
    }

    fn record(&self, result: &RecordedResult, retention: Duration) -> Vec<ForeignStatement> {
        match self.defect {
            Defect::LosesWhatIsCommitted => self.within.record(result, Duration::ZERO),
            _ => self.within.record(result, retention),
        }
    }

    fn recorded(&self, answer: Option<&str>) -> Result<Vec<ForeignStatement>, StoreError> {
        self.within.recorded(answer)
    }

    fn undo(&self) -> Vec<ForeignStatement> {
        match self.defect {
            Defect::KeepsWhatFails => Vec::new(),
            Defect::UndoesTheTransaction => ["ROLLBACK", "BEGIN"].map(|it| ForeignStatement::new(it, [])).into(),
            _ => self.within.undo(),
        }
    }

    fn is_ended(&self, failed: bool) -> Asked<'_, bool> {
        match self.defect {
            Defect::OverlooksTheEnd => Box::pin(async { false }),
            _ => self.within.is_ended(failed),
        }
    }

    fn hold(&self) -> Asked<'_, ()> {
        self.within.hold()
    }
}

/// A file, and connections to it that the store has not made and knows nothing of.
struct Orders {
    store: SqliteStore,
    path: PathBuf,
    defect: Defect,
    _folder: tempfile::TempDir,
}

impl Orders {
    async fn open(defect: Defect) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let table = sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY)");
        table.execute(store.pool()).await.unwrap();
        Self {
            store,
            path,
            defect,
            _folder: folder,
        }
    }

    async fn connect(&self) -> Result<SqliteConnection, BoxError> {
        let options = SqliteConnectOptions::new().filename(&self.path).busy_timeout(BUSY);
        Ok(SqliteConnection::connect_with(&options).await?)
    }
}

async fn say(connection: &mut SqliteConnection, command: &'static str) -> Result<(), BoxError> {
    sqlx::query(command).execute(connection).await?;
    Ok(())
}

impl OtherDriver for Orders {
    type Store = SqliteStore;
    type Connection = SqliteConnection;

    fn store(&self) -> &SqliteStore {
        &self.store
    }

    async fn open_again(&self) -> Result<SqliteStore, BoxError> {
        Ok(SqliteStore::open(&self.path).await?)
    }

    fn foreign(&self, store: &SqliteStore, request: ClaimRequest) -> Box<dyn ForeignTransaction> {
        let defect = self.defect;
        Box::new(Broken {
            within: store.foreign(request),
            defect,
        })
    }

    async fn begin(&self) -> Result<SqliteConnection, BoxError> {
        let mut connection = self.connect().await?;
        // Not `IMMEDIATE`: our first statement takes the right to write.
        say(&mut connection, "BEGIN").await?;
        Ok(connection)
    }

    async fn run(&self, connection: &mut SqliteConnection, run: &ForeignStatement) -> Result<Option<String>, BoxError> {
        let mut query = sqlx::query(AssertSqlSafe(run.text.clone()));
        for value in &run.values {
            query = query.bind(value);
        }
        let rows = query.fetch_all(connection).await?;
        Ok(rows.last().map(|row| row.try_get("oneflight")).transpose()?)
    }

    async fn commit(&self, connection: &mut SqliteConnection) -> Result<(), BoxError> {
        say(connection, "COMMIT").await
    }

    async fn roll_back(&self, connection: &mut SqliteConnection) -> Result<(), BoxError> {
        say(connection, "ROLLBACK").await
    }

    fn insert(&self) -> ForeignStatement {
        ForeignStatement::new("INSERT INTO orders DEFAULT VALUES", [])
    }

    async fn rows(&self) -> Result<u64, BoxError> {
        let count = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(self.store.pool());
        Ok(count.await?)
    }
}

async fn check(defect: Defect) -> Result<(), Failure> {
    conformance::run_foreign(async || Orders::open(defect).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_is_promised_in_transactions_of_other_drivers() {
    if let Err(failure) = check(Defect::None).await {
        panic!("{failure}: {:?}", failure.source());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_store_does_not_keep_it() {
    let expected = [
        (Defect::LosesWhatIsCommitted, "what_is_executed_is_replayed"),
        (Defect::OverlooksRecords, "what_is_executed_is_replayed"),
        (Defect::IgnoresFingerprints, "another_fingerprint_is_a_conflict"),
        (Defect::KeepsWhatFails, "what_fails_is_undone_to_its_savepoint"),
        (Defect::UndoesTheTransaction, "what_fails_is_undone_to_its_savepoint"),
        (Defect::OverlooksTheEnd, "work_that_ends_the_transaction_leaves_a_doubt"),
        (Defect::SendsNothing, "a_message_is_sent_with_the_commit"),
        (Defect::WritesValuesIntoTexts, "values_are_in_no_text"),
        (
            Defect::TakesOverUnasked,
            "work_that_ends_the_transaction_leaves_a_doubt",
        ),
        (
            Defect::CountsNoAttempts,
            "what_is_in_doubt_is_taken_over_only_if_wanted",
        ),
        (Defect::BelievesEverything, "an_answer_that_is_garbage_is_an_error"),
    ];
    // At once: they wait for locks most of the time, each for its own.
    let checks = expected.map(|(defect, promise)| async move {
        let failure = check(defect).await.expect_err(&format!("{defect:?} passes"));
        assert_eq!(failure.check(), promise, "{defect:?}: {failure}");
    });
    futures::future::join_all(checks).await;
}
