//! What a policy of row-level security turns down is told as that, and is the affair of its own row.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures::future::join_all;
use oneflight::idempotency::{ErrorKind, Idempotency};
use oneflight::store::{Store, StoreError, StoreFailure, find};
use oneflight_postgres::PostgresStore;
use sqlx::AssertSqlSafe;

use crate::postgres::{Schema, server};
use crate::together::{CALLERS, FEW, HOUR, claim, granted, id, in_time, result, transactions};

/// May write no row of the key `forbidden`, nor the end of `half`.
const MOST: &str = "USING (true) WITH CHECK (key <> 'forbidden' AND (key <> 'half' OR completed_at IS NULL))";

/// A schema with our tables, seen as a role that has all rights, under this policy.
async fn under_a_policy(most: &str) -> (Schema, Schema) {
    let schema = server().schema().await;
    let owner = schema.pool(1);
    PostgresStore::from_pool(owner.clone()).await.unwrap();
    let policy = format!(
        "DO $$ BEGIN CREATE ROLE under_a_policy; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
         GRANT USAGE ON SCHEMA {0} TO under_a_policy;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {0} TO under_a_policy;
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {0} TO under_a_policy;
         GRANT EXECUTE ON ALL ROUTINES IN SCHEMA {0} TO under_a_policy;
         ALTER TABLE {0}.oneflight_records ENABLE ROW LEVEL SECURITY;
         CREATE POLICY most ON {0}.oneflight_records {most}",
        schema.name
    );
    sqlx::raw_sql(AssertSqlSafe(policy)).execute(&owner).await.unwrap();
    let mut under = schema.clone();
    under.options = under.options.options([("role", "under_a_policy")]);
    (schema, under)
}

/// Fails unless this says what forbids it.
fn told(error: &(dyn std::error::Error + 'static)) {
    let told = error.to_string();
    for words in ["policy of row-level security", "BYPASSRLS", "\"oneflight_records\""] {
        assert!(told.contains(words), "{told}");
    }
    let cause = find::<sqlx::Error>(error).unwrap().as_database_error().unwrap();
    assert_eq!(cause.code().as_deref(), Some("42501"));
}

fn forbidden(answer: Result<(), StoreError>) {
    let error = answer.unwrap_err();
    let StoreError::Failed { failure, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*failure, StoreFailure::Forbidden);
    told(&error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_policy_turns_down_is_told_as_that_and_has_no_others_go_alone() {
    let (schema, under) = under_a_policy(MOST).await;
    let direct = schema.pool(1);
    let store = PostgresStore::from_pool(under.pool(4)).await.unwrap();
    let mut least = usize::MAX;
    for round in 0..5 {
        let keys: Vec<_> = (0..CALLERS)
            .map(|number| match number {
                13 => "forbidden".to_owned(),
                50 if round == 0 => "half".to_owned(),
                _ => format!("{round}-{number}"),
            })
            .collect();
        let outcomes = join_all(keys.iter().map(|key| claim(&store, key))).await;
        let store = &store;
        let completions = keys.iter().zip(outcomes).filter_map(|(key, outcome)| match &**key {
            "forbidden" => {
                forbidden(outcome.map(drop));
                None
            }
            _ => Some(async move {
                let claim = granted(outcome);
                (key, store.complete(claim, result(b"1"), HOUR).await)
            }),
        });
        for (key, completed) in join_all(completions).await {
            match &**key {
                "half" => forbidden(completed),
                _ => completed.unwrap(),
            }
        }
        // And the next ones share their messages.
        sqlx::query("DELETE FROM oneflight_records")
            .execute(&direct)
            .await
            .unwrap();
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("next-{round}-{number}")).collect();
        let outcomes = join_all(keys.iter().map(|key| claim(store, key))).await;
        outcomes.into_iter().for_each(|outcome| drop(granted(outcome)));
        least = least.min(transactions(&direct).await);
        sqlx::query("DELETE FROM oneflight_records")
            .execute(&direct)
            .await
            .unwrap();
    }
    assert!(least <= FEW, "{least}");
}

#[tokio::test]
async fn a_transaction_whose_record_a_policy_turns_down_is_told_so() {
    let (_schema, under) = under_a_policy(MOST).await;
    let store = PostgresStore::from_pool(under.pool(2)).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let error = idem.run_in_tx(id("forbidden"), |_| async { Ok(1) }).await.unwrap_err();
    let ErrorKind::RolledBack { .. } = error.kind() else {
        panic!("{error:?}")
    };
    told(&error);
}

/// The rights to write and to read are two: what may be written and not be read is not granted, since nothing could be recorded of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_read_is_not_granted_to_one_of_several_either() {
    let (schema, under) = under_a_policy("USING (key <> 'hidden')").await;
    let direct = schema.pool(1);
    let writes = format!(
        "CREATE POLICY writes ON {}.oneflight_records FOR INSERT WITH CHECK (true)",
        schema.name
    );
    sqlx::raw_sql(AssertSqlSafe(writes)).execute(&direct).await.unwrap();
    let store = PostgresStore::from_pool(under.pool(2)).await.unwrap();
    for round in 0..3 {
        let keys: Vec<_> = (0..CALLERS)
            .map(|number| match number {
                40 => "hidden".to_owned(),
                _ => format!("{round}-{number}"),
            })
            .collect();
        for (key, outcome) in keys
            .iter()
            .zip(join_all(keys.iter().map(|key| claim(&store, key))).await)
        {
            match &**key {
                "hidden" => forbidden(outcome.map(drop)),
                _ => drop(granted(outcome)),
            }
        }
    }
}

/// Statements of many go by the index and by places, although their settings make a scan of another table dear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_policy_that_reads_a_table_no_message_reads_all_records() {
    const ROUNDS: usize = 3;
    let (schema, under) = under_a_policy("USING (false)").await;
    let direct = schema.pool(1);
    let store = PostgresStore::from_pool(under.pool(2)).await.unwrap();
    let scope = id("any").scope().to_owned();
    let policy = format!(
        "CREATE TABLE {0}.tenants (name text, owner name);
         INSERT INTO {0}.tenants SELECT 'tenant-' || n, 'nobody' FROM generate_series(1, 50) n;
         INSERT INTO {0}.tenants VALUES ($scope${scope}$scope$, 'under_a_policy');
         GRANT SELECT ON {0}.tenants TO under_a_policy;
         DROP POLICY most ON {0}.oneflight_records;
         CREATE POLICY most ON {0}.oneflight_records
             USING (scope IN (SELECT name FROM {0}.tenants WHERE owner = current_user));
         INSERT INTO {0}.oneflight_records (scope, key, token, holder, attempt, claimed_at, completed_at, expires_at, result)
             SELECT 'other', n, -n, '\\x00000000000000000000000000000000', 1, 0, 1, 9000000000000000, '' FROM generate_series(1, 30000) n;
         ANALYZE {0}.oneflight_records, {0}.tenants",
        schema.name
    );
    sqlx::raw_sql(AssertSqlSafe(policy)).execute(&direct).await.unwrap();
    // Entries of indexes that were looked up, and rows that were read one after the other.
    let read = async || {
        let read = "SELECT coalesce(idx_scan, 0)::bigint, seq_tup_read::bigint FROM pg_stat_user_tables
                    WHERE schemaname = current_schema() AND relname = 'oneflight_records'";
        sqlx::query_as::<_, (i64, i64)>(read).fetch_one(&direct).await.unwrap()
    };
    let flush = "SELECT pg_stat_force_next_flush()";
    sqlx::raw_sql(flush).execute(&direct).await.unwrap();
    let before = read().await;
    for round in 0..ROUNDS {
        let keys: Vec<_> = (0..CALLERS).map(|number| format!("{round}-{number}")).collect();
        let claims = join_all(keys.iter().map(|key| claim(&store, key))).await;
        let claims: Vec<_> = claims.into_iter().map(granted).collect();
        let renewals = claims.iter().map(|claim| store.renew(claim.id(), claim.token(), HOUR));
        join_all(renewals).await.into_iter().for_each(Result::unwrap);
        let completions = claims
            .into_iter()
            .map(|claim| store.complete(claim, result(b"1"), HOUR));
        join_all(completions).await.into_iter().for_each(Result::unwrap);
    }
    // A session that ends has told what it has read.
    store.pool().close().await;
    let looks = i64::try_from(ROUNDS * CALLERS).unwrap();
    in_time("the statistics", async {
        while read().await.0 - before.0 < 3 * looks {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(read().await.1, before.1, "records were read one after the other");
}
