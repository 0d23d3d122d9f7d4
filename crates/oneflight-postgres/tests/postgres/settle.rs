//! Promise 14 on PostgreSQL: what is said of a commit whose answer never arrived, where the server or the record is gone since.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::idempotency::{Effect, ErrorKind, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::StoreError;
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
    proxy.has_cut(1).await;
    drop(proxy);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RolledBack { .. }), "{error:?}");
    assert_eq!(error.effect(), Effect::Nothing);
    assert_eq!(orders(&direct, "rejected").await, 0);
}

/// It is not the work's own, of which nothing would be known either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_record_was_purged_meanwhile_is_not_taken_for_the_work_s_own() {
    let (proxy, idem, direct, _schema) = shop(server(), Duration::from_secs(5)).await;
    for retention in [Duration::from_secs(60), Duration::from_millis(1)] {
        let idem = Idempotency::builder(idem.store().clone()).retention(retention).build();
        let is_known = retention > Duration::from_secs(1);
        let mut asked_too_soon = 0;
        let (key, error) = loop {
            let key = format!("purged-{is_known}-{asked_too_soon}");
            // The answer to the commit, and the time until somebody asks.
            proxy.cut("COMMIT", Cut::AfterAnswer);
            let purge = tokio::spawn({
                let direct = direct.clone();
                async move {
                    let purge = "DELETE FROM oneflight_records WHERE completed_at IS NOT NULL";
                    while sqlx::query(purge).execute(&direct).await.unwrap().rows_affected() == 0 {}
                }
            });
            let bound = key.clone();
            let answer = idem.run_in_tx(id(&key), move |mut tx| {
                let key = bound.clone();
                async move {
                    let insert = "INSERT INTO orders (key) VALUES ($1)";
                    sqlx::query(insert).bind(key).execute(&mut *tx).await?;
                    Ok(1)
                }
            });
            let answer = answer.await;
            purge.await.unwrap();
            match answer {
                Ok(_) => asked_too_soon += 1,
                Err(error) => break (key, error),
            }
            assert!(asked_too_soon < 8);
        };
        assert_eq!(orders(&direct, &key).await, 1, "{key}");
        let is_work_s = matches!(error.kind(), ErrorKind::Store(StoreError::CommittedByWork));
        assert_eq!(is_work_s, is_known, "{key}: {error:?}");
        if !is_known {
            assert_eq!(error.effect(), Effect::Unknown, "{key}: {error:?}");
        }
    }
}
