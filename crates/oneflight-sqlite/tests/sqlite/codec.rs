//! Promise 11: a result that does not survive its own JSON is not recorded as if it did, and what its work wrote in the
//! transaction is not kept.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use oneflight::idempotency::{Effect, ErrorKind, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[tokio::test]
async fn in_a_transaction_such_a_result_is_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("codec.db")).await.unwrap();
    sqlx::query("CREATE TABLE orders (number INTEGER PRIMARY KEY)")
        .execute(store.pool())
        .await
        .unwrap();
    let idem = Idempotency::builder(store.clone()).build();
    let error = idem
        .run_in_tx(id("nan"), |mut tx| async move {
            sqlx::query("INSERT INTO orders DEFAULT VALUES")
                .execute(&mut *tx)
                .await?;
            Ok(f64::NAN)
        })
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Codec(_)) && error.effect() == Effect::Nothing,
        "{error:?}"
    );
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM orders")
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert_eq!(rows, 0);
    assert!(idem.status(&id("nan")).await.unwrap().is_none());
}
