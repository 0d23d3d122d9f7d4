//! A record that cannot be read does not hide the others that are in doubt.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../../../tests/common/in_doubt.rs"]
mod in_doubt;
use crate::postgres;

use in_doubt::{five_in_doubt, the_others_are_listed};
use oneflight_postgres::PostgresStore;

#[tokio::test]
async fn postgres_lists_what_it_can_read() {
    let schema = postgres::server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(1)).await.unwrap();
    let claims = five_in_doubt(&store).await;
    for spoil in [
        "UPDATE oneflight_records SET attempt = 5000000000 WHERE key = 'k1'",
        "UPDATE oneflight_records SET key = '' WHERE key = 'k3'",
    ] {
        sqlx::query(spoil).execute(store.pool()).await.unwrap();
    }
    the_others_are_listed(&store, &claims).await;
}
