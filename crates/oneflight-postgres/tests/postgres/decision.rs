//! The claim decides in SQL, in one round trip. It must decide as `decide` does, in every case that there is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{FencingToken, HolderId, Record, State, Timestamp};
use oneflight::store::{ClaimOutcome, ClaimRequest, Denied, Store, Takeover};
use oneflight_postgres::PostgresStore;

#[path = "../../../../tests/common/decision.rs"]
mod cases;

use crate::postgres::server;
use cases::{Answer, HOUR, There, of_outcome, offset, record};

const TOKEN: FencingToken = FencingToken::new(1_000_000);

/// Puts the row there that the record stands for, with its times about the server's now.
async fn put(store: &PostgresStore, id: &RequestIdentity, record: &Record) {
    let (lease, completed, expires, result) = match &record.state {
        State::InProgress { lease_expires } => (Some(*lease_expires), None, None, None),
        State::Completed {
            result,
            completed,
            expires,
        } => (None, Some(*completed), Some(*expires), Some(result)),
        other => panic!("{other:?}"),
    };
    let offset = |at: Option<Timestamp>| at.map(|at| offset(record, at));
    sqlx::query(
        "INSERT INTO oneflight_records
            (scope, key, token, fingerprint, holder, attempt, claimed_at, lease_expires_at, completed_at, expires_at, result,
             held)
         SELECT $1, $2, $3, $4, $5, $6, now, now + $7, now + $8, now + $9, $10, $11
         FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now) AS instant",
    )
    .bind(id.scope())
    .bind(id.key())
    .bind(record.token.get().cast_signed())
    .bind(record.fingerprint.as_ref().map(|it| it.as_bytes().to_vec()))
    .bind(record.holder.as_bytes().to_vec())
    .bind(i64::from(record.attempt))
    .bind(offset(lease))
    .bind(offset(completed))
    .bind(offset(expires))
    .bind(result.map(|it| it.as_bytes().to_vec()))
    .bind(record.held)
    .execute(store.pool())
    .await
    .unwrap();
}

#[tokio::test]
async fn the_statement_decides_as_the_function_does() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(2)).await.unwrap();
    agree(&store, &store).await;
}

/// Holds what stands before a store against the function.
pub async fn agree(store: &PostgresStore, before: &impl Store) {
    cases::agrees(
        before,
        &[false, true],
        async |_, number| FencingToken::new(TOKEN.get() + number),
        async |id, record| put(store, id, record).await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_the_statement_runs_is_what_it_answers_with() {
    let schema = server().schema().await;
    let store = PostgresStore::from_pool(schema.pool(4)).await.unwrap();
    let now = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let renews = format!("UPDATE oneflight_records SET lease_expires_at = {now} + 3600000 WHERE key = $1");
    let completes = format!(
        "UPDATE oneflight_records SET lease_expires_at = NULL, completed_at = {now}, expires_at = {now} + 3600000,
                result = '\\x0100013100' WHERE key = $1"
    );
    let takes_over = format!(
        "UPDATE oneflight_records SET token = 2000000, attempt = 2, lease_expires_at = {now} + 3600000 WHERE key = $1"
    );
    let releases = "DELETE FROM oneflight_records WHERE key = $1".to_owned();
    for (change, sql) in [
        ("renews", renews),
        ("completes", completes),
        ("takes over", takes_over),
        ("releases", releases),
    ] {
        let id = RequestIdentity::new(Scope::new("case"), change.replace(' ', "-")).unwrap();
        let there = There::InProgress { lease_runs: false };
        let record = record(there, None, HolderId::random(), 1, TOKEN).unwrap();
        put(&store, &id, &record).await;
        let mut elsewhere = store.pool().begin().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.key())
            .execute(&mut *elsewhere)
            .await
            .unwrap();
        let claiming = tokio::spawn({
            let (store, id) = (store.clone(), id.clone());
            async move {
                store
                    .claim(ClaimRequest::new(&id, HOUR).takeover(Takeover::Expired))
                    .await
            }
        });
        // It has seen a lease that is over by then, and waits for the row.
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CALL %_claim%'";
        while sqlx::query_scalar::<_, i64>(waits)
            .fetch_one(store.pool())
            .await
            .unwrap()
            == 0
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        elsewhere.commit().await.unwrap();
        let answer = claiming.await.unwrap().unwrap();
        match change {
            "renews" => assert!(
                matches!(answer, ClaimOutcome::Denied(Denied::InProgress { attempt: 1, .. })),
                "{answer:?}"
            ),
            "completes" => assert!(
                matches!(answer, ClaimOutcome::Denied(Denied::Completed(_))),
                "{answer:?}"
            ),
            "takes over" => assert!(
                matches!(answer, ClaimOutcome::Denied(Denied::InProgress { attempt: 2, .. })),
                "{answer:?}"
            ),
            _ => assert_eq!(
                of_outcome(answer, Some(TOKEN)),
                Answer::Granted {
                    new: true,
                    attempt: 1,
                    took_over: None
                }
            ),
        }
    }
}
