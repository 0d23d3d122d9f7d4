//! What a policy of row-level security turns down is told as that, and is the affair of its own row.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use futures::future::join_all;
use oneflight::idempotency::{ErrorKind, Idempotency};
use oneflight::store::{Store, StoreError, StoreFailure, find};
use oneflight_postgres::PostgresStore;
use sqlx::AssertSqlSafe;

use crate::postgres::{Schema, server};
use crate::together::{CALLERS, FEW, HOUR, claim, granted, id, result, transactions};

/// A schema with our tables, seen as a role that has all rights, and may write no row of the key `forbidden`, nor the end of `half`.
async fn under_a_policy() -> (Schema, Schema) {
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
         CREATE POLICY most ON {0}.oneflight_records USING (true)
             WITH CHECK (key <> 'forbidden' AND (key <> 'half' OR completed_at IS NULL))",
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
    let (schema, under) = under_a_policy().await;
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
        let outcomes = join_all(keys.iter().map(|key| claim(&store, key))).await;
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
    let (_schema, under) = under_a_policy().await;
    let store = PostgresStore::from_pool(under.pool(2)).await.unwrap();
    let idem = Idempotency::builder(store).build();
    let error = idem.run_in_tx(id("forbidden"), |_| async { Ok(1) }).await.unwrap_err();
    let ErrorKind::RolledBack { .. } = error.kind() else {
        panic!("{error:?}")
    };
    told(&error);
}
