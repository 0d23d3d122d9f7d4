//! Promise 14 on PostgreSQL: what is said of a commit whose answer never arrived, where the server or the record is gone since.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::idempotency::{Effect, ErrorKind, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use sqlx::postgres::PgPool;

use crate::postgres::{Schema, Server, server};
use crate::proxy::{Cut, Proxy};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// A shop behind a proxy, and a pool that does not go through it.
async fn shop(server: &Server, patience: Duration) -> (Proxy, Idempotency<PostgresStore>, PgPool, Schema) {
    let schema = server.schema().await;
    let direct = schema.pool(2);
    sqlx::query("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text)")
        .execute(&direct)
        .await
        .unwrap();
    let proxy = Proxy::before(server.port()).await;
    let store = PostgresStore::options()
        .patience(patience)
        .from_pool(schema.pool_through(proxy.port(), 4))
        .await
        .unwrap();
    (proxy, Idempotency::builder(store).build(), direct, schema)
}

async fn orders(pool: &PgPool, key: &str) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM orders WHERE key = $1").bind(key);
    count.fetch_one(pool).await.unwrap()
}

/// The server said so before it was gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_was_rejected_was_not_committed_although_nobody_answers_any_more() {
    let (proxy, idem, direct, _schema) = shop(server(), Duration::from_secs(1)).await;
    proxy.cut("ROLLBACK TO oneflight_work", Cut::Swallowed);
    let call = tokio::spawn(async move {
        let work = idem.run_in_tx(id("rejected"), |mut tx| async move {
            let insert = "INSERT INTO orders (key) VALUES ('rejected')";
            sqlx::query(insert).execute(&mut *tx).await?;
            assert!(sqlx::query("SELECT 1 / 0").execute(&mut *tx).await.is_err());
            Ok(1)
        });
        work.await.map(|reply| *reply)
    });
    while proxy.cuts() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(proxy);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RolledBack { .. }), "{error:?}");
    assert_eq!(error.effect(), Effect::Nothing);
    assert_eq!(orders(&direct, "rejected").await, 0);
}
