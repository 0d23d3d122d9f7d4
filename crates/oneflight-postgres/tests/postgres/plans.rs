//! No table that grows is read whole, also by sessions that have planned while it was empty.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io;
use std::time::Duration;

use futures::future::join_all;
use oneflight::idempotency::Idempotency;
use oneflight_postgres::PostgresStore;
use sqlx::postgres::PgPool;

use crate::postgres::server;
use crate::together::{CALLERS, id, in_time, make_tables};

/// How many entries of the indexes of what grows were looked up, and how many rows were read one after the other.
async fn read(pool: &PgPool) -> (i64, i64) {
    let read = "SELECT sum(idx_scan)::bigint, sum(seq_tup_read)::bigint FROM pg_stat_user_tables
                WHERE schemaname = current_schema()
                  AND relname IN ('oneflight_records', 'oneflight_workflows', 'oneflight_steps')";
    sqlx::query_as(read).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_vacuumed_as_it_was_empty_is_not_read_whole() {
    const CALLS: usize = 100;
    let schema = server().schema().await;
    let direct = schema.pool(1);
    make_tables(&schema, &direct).await;
    let empty = "VACUUM (ANALYZE) oneflight_records, oneflight_workflows, oneflight_steps";
    sqlx::raw_sql(empty).execute(&direct).await.unwrap();
    let store = PostgresStore::from_pool(schema.pool(1)).await.unwrap();
    let before = read(&direct).await;

    let idem = Idempotency::builder(store.clone()).build();
    let idem = &idem;
    let run = |key: String| async move { idem.run(id(&key), |_| async { 1 }).await.map(drop).unwrap() };
    for number in 0..CALLS {
        run(format!("alone-{number}")).await;
        idem.run_in_tx(id(&format!("transaction-{number}")), |_| async { Ok(1) })
            .await
            .map(drop)
            .unwrap();
        idem.run_steps(id(&format!("steps-{number}")), &7, |steps| async move {
            steps.run("first", |_| async { Ok::<_, io::Error>(1) }).await?;
            steps.run_in_tx("second", |_| async { Ok(2) }).await
        })
        .await
        .map(drop)
        .unwrap();
        join_all((0..CALLERS / 8).map(|caller| run(format!("together-{number}-{caller}")))).await;
    }
    // A session that ends has told what it has read.
    store.pool().close().await;
    in_time("the statistics", async {
        while read(&direct).await.0 - before.0 < i64::try_from(3 * CALLS).unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(read(&direct).await.1, before.1, "rows were read one after the other");
}
