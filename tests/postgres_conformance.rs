//! `PostgresStore` keeps what every store promises, and decides as every store does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use oneflight::store::{PostgresStore, conformance};

#[path = "common/postgres.rs"]
mod postgres;

use postgres::server;

async fn store() -> PostgresStore {
    let schema = server().schema().await;
    PostgresStore::open(schema.pool(8)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms() {
    conformance::run(async || store().await).await.unwrap_or_else(|failure| {
        panic!("{failure}: {:?}", std::error::Error::source(&failure))
    });
}
