//! The suite for transactions that another driver has begun passes on PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;

use oneflight::store::{ClaimRequest, ForeignStatement, ForeignTransaction};
use oneflight_conformance::{self as conformance, OtherDriver};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use crate::postgres::{Schema, server};

type BoxError = Box<dyn Error + Send + Sync>;

/// A schema, and connections to it that the store has not made and knows nothing of.
struct Orders {
    store: PostgresStore,
    schema: Schema,
    begin: &'static str,
}

impl Orders {
    async fn open(begin: &'static str) -> Self {
        let schema = server().schema().await;
        let store = PostgresStore::from_pool(schema.pool(8)).await.unwrap();
        let table = "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)";
        sqlx::query(table).execute(store.pool()).await.unwrap();
        Self { store, schema, begin }
    }
}

async fn say(connection: &mut PgConnection, command: &'static str) -> Result<(), BoxError> {
    sqlx::raw_sql(command).execute(connection).await?;
    Ok(())
}

impl OtherDriver for Orders {
    type Store = PostgresStore;
    type Connection = PgConnection;

    fn store(&self) -> &PostgresStore {
        &self.store
    }

    async fn open_again(&self) -> Result<PostgresStore, BoxError> {
        Ok(PostgresStore::from_pool(self.schema.pool(4)).await?)
    }

    fn foreign(&self, store: &PostgresStore, request: ClaimRequest) -> Box<dyn ForeignTransaction> {
        store.foreign(request)
    }

    async fn begin(&self) -> Result<PgConnection, BoxError> {
        let mut connection = PgConnection::connect_with(&self.schema.options).await?;
        say(&mut connection, "SET lock_timeout = '1s'").await?;
        say(&mut connection, self.begin).await?;
        Ok(connection)
    }

    async fn run(&self, connection: &mut PgConnection, run: &ForeignStatement) -> Result<Option<String>, BoxError> {
        let mut query = sqlx::query(AssertSqlSafe(run.text.clone()));
        for value in &run.values {
            query = query.bind(value);
        }
        let rows = query.fetch_all(connection).await?;
        Ok(rows.last().map(|row| row.try_get("oneflight")).transpose()?)
    }

    async fn commit(&self, connection: &mut PgConnection) -> Result<(), BoxError> {
        say(connection, "COMMIT").await
    }

    async fn roll_back(&self, connection: &mut PgConnection) -> Result<(), BoxError> {
        say(connection, "ROLLBACK").await
    }

    fn insert(&self) -> ForeignStatement {
        ForeignStatement::new("INSERT INTO orders DEFAULT VALUES", [])
    }

    async fn rows(&self) -> Result<u64, BoxError> {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM orders").fetch_one(self.store.pool());
        Ok(u64::try_from(count.await?)?)
    }
}

async fn check(begin: &'static str) {
    if let Err(failure) = conformance::run_foreign(async || Orders::open(begin).await).await {
        panic!("{failure}: {:?}", failure.source());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_is_promised_in_transactions_of_other_drivers() {
    check("BEGIN ISOLATION LEVEL READ COMMITTED").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_it_in_transactions_that_are_serializable() {
    check("BEGIN ISOLATION LEVEL SERIALIZABLE").await;
}
