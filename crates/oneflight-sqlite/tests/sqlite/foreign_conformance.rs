//! The suite for transactions that another driver has begun passes on SQLite.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use oneflight::store::{ClaimRequest, ForeignStatement, ForeignTransaction};
use oneflight_conformance::{self as conformance, OtherDriver};
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Row};

type BoxError = Box<dyn Error + Send + Sync>;

/// How long the connections wait for the right to write.
const BUSY: Duration = Duration::from_secs(1);

/// A file, and connections to it that the store has not made and knows nothing of.
struct Orders {
    store: SqliteStore,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Orders {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let table = sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY)");
        table.execute(store.pool()).await.unwrap();
        Self {
            store,
            path,
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

    fn foreign(store: &SqliteStore, request: ClaimRequest) -> Box<dyn ForeignTransaction> {
        store.foreign(request)
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_is_promised_in_transactions_of_other_drivers() {
    if let Err(failure) = conformance::run_foreign(Orders::open).await {
        panic!("{failure}: {:?}", failure.source());
    }
}
