//! `PostgresStore` keeps what every store promises.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::error::Error;

use oneflight::store::StoreError;
use oneflight_conformance::{self as conformance, Failure, Ledger, Written};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::PgConnection;

use crate::postgres::{Server, server};
use crate::schema::opened_anew_on;

#[derive(Clone)]
struct Orders(PostgresStore);

impl Ledger for Orders {
    type Store = PostgresStore;

    fn store(&self) -> &PostgresStore {
        &self.0
    }

    fn write<'c>(&self, connection: &'c mut PgConnection) -> Written<'c> {
        Box::pin(async move {
            sqlx::query("INSERT INTO orders DEFAULT VALUES")
                .execute(connection)
                .await?;
            Ok(())
        })
    }

    async fn rows(&self) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM orders").fetch_one(self.0.pool());
        Ok(u64::try_from(count.await.map_err(StoreError::unavailable)?).unwrap())
    }
}

/// A store in a schema of its own, whose connections are isolated like this unless they say otherwise.
async fn orders(isolation: &str) -> Orders {
    orders_on(server(), isolation).await
}

async fn orders_on(server: &Server, isolation: &str) -> Orders {
    let mut schema = server.schema().await;
    schema.options = schema.options.options([("default_transaction_isolation", isolation)]);
    let store = PostgresStore::from_pool(schema.pool(8)).await.unwrap();
    let table = "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)";
    sqlx::query(table).execute(store.pool()).await.unwrap();
    Orders(store)
}

fn kept(checked: Result<(), Failure>) {
    if let Err(failure) = checked {
        panic!("{failure}: {:?}", failure.source());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_every_store_promises() {
    kept(conformance::run(async || orders("read committed").await.0).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_every_transactional_store_promises() {
    kept(conformance::run_transactional(async || orders("read committed").await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_them_in_a_database_that_is_serializable_unless_told_otherwise() {
    kept(conformance::run(async || orders("serializable").await.0).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_every_outbox_promises() {
    kept(conformance::run_outbox(async || orders("read committed").await.0).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_every_outbox_promises_in_a_database_that_is_serializable_unless_told_otherwise() {
    // Two of these suites at once have more connections than one server takes.
    let own = Server::start("-c fsync=off -c full_page_writes=off");
    kept(conformance::run_outbox(async || orders_on(&own, "serializable").await.0).await);
}

// Here, and so among the first: it takes as long as the ones above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_what_every_outbox_promises_in_a_schema_to_which_later_versions_have_added() {
    let own = Server::start("-c fsync=off -c full_page_writes=off");
    kept(conformance::run_outbox(async || opened_anew_on(&own).await).await);
}
