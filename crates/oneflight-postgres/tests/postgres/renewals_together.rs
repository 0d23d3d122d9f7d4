//! The statement that renews many leases: what it reads, and what is done where it cannot be called.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight_postgres::PostgresStore;
use sqlx::Executor;

use crate::postgres::{Server, server};
use crate::renewals::{MINUTE, claims, remaining, renewed};
use crate::together::{FEW, in_time, make_tables, transactions};

/// A join may read all that is in progress, or the whole table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_read_their_own_entries_of_what_is_in_progress_and_no_others() {
    const RENEWED: usize = 64;
    const ROUNDS: u32 = 3;
    let schema = server().schema().await;
    let direct = schema.pool(1);
    make_tables(&schema, &direct).await;
    for analyzed in [false, true] {
        let pool = schema.pool(2);
        let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
        direct.execute("DELETE FROM oneflight_records").await.unwrap();
        let tokens = claims(&direct, 3_000, MINUTE).await;
        if analyzed {
            direct.execute("ANALYZE oneflight_records").await.unwrap();
        }
        let read = async || {
            let read = "SELECT (SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes
                     WHERE schemaname = current_schema() AND indexrelname LIKE 'oneflight\\_records\\_%'),
                    (SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes
                     WHERE schemaname = current_schema() AND indexrelname LIKE 'oneflight\\_records\\_%'),
                    (SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables
                     WHERE schemaname = current_schema() AND relname = 'oneflight_records')";
            sqlx::query_as::<_, (i64, i64, i64)>(read)
                .fetch_one(&direct)
                .await
                .unwrap()
        };
        // What has been read before is told at once.
        direct.execute("SELECT pg_stat_force_next_flush()").await.unwrap();
        let before = read().await;
        for round in 0..ROUNDS {
            let renewed = renewed(&store, &tokens[..RENEWED], MINUTE * (round + 2)).await;
            assert!(renewed.iter().all(Result::is_ok), "{renewed:?}");
        }
        assert!(remaining(&store, RENEWED - 1).await > MINUTE * ROUNDS);
        // A session that ends has told what it has read.
        store.pool().close().await;
        let looks = i64::from(ROUNDS) * i64::try_from(RENEWED).unwrap();
        in_time("the statistics", async {
            while read().await.0 - before.0 < looks {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let after = read().await;
        let (entries, rows) = (after.1 - before.1, after.2 - before.2);
        println!("{looks} renewals: {entries} entries of indexes, {rows} rows of the table");
        // Each may be looked for three times: to be locked, to be changed, and to be told.
        assert!(entries <= 4 * looks && rows == 0, "{entries} entries, {rows} rows");
        assert!(transactions(&direct).await <= FEW, "each was renewed by itself");
    }
}

/// As where a role may not call it, which is told by another error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_for_many_that_is_not_there_is_not_tried_again_and_again() {
    let server = Server::start("-c fsync=off -c log_statement=all -c log_parameter_max_length=0");
    let schema = server.schema().await;
    let pool = schema.pool(2);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let tokens = claims(&pool, 50, MINUTE).await;
    let drop_it = "DO $$ BEGIN EXECUTE (SELECT 'DROP PROCEDURE ' || oid::regprocedure FROM pg_proc
                   WHERE proname = 'oneflight_renew_together' AND pronamespace = current_schema()::regnamespace); END $$";
    pool.execute(drop_it).await.unwrap();
    let together = |log: &str| log.matches(r#""oneflight_renew_together""#).count();
    for round in 2..5 {
        let before = together(&server.log());
        let renewed = renewed(&store, &tokens, MINUTE * round).await;
        assert!(renewed.iter().all(Result::is_ok), "{renewed:?}");
        assert!(remaining(&store, 49).await > MINUTE * (round - 1));
        let tried = together(&server.log()) - before;
        assert_eq!(tried > 0, round == 2, "{round}: {tried}");
    }
}
