//! The tables in PostgreSQL: created once by however many, printed for those who create them otherwise, and refused if
//! newer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::identity::{RequestId, Scope};
use oneflight::store::{ClaimOutcome, ClaimRequest, PostgresStore, Store, StoreError};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

#[path = "common/postgres.rs"]
mod postgres;

use postgres::server;

async fn is_granted(store: &PostgresStore) -> bool {
    let id = RequestId::new(Scope::new("tenant-7"), "k").unwrap();
    let claimed = store.claim(ClaimRequest::new(&id, Duration::from_secs(60))).await;
    matches!(claimed.unwrap(), ClaimOutcome::Granted(_))
}

/// What there is of ours, as the server describes it.
async fn described(pool: &PgPool) -> Vec<String> {
    let describe = "SELECT c.relkind::text || ' ' || c.relname || ' ' || coalesce(pg_get_indexdef(i.indexrelid), '') || ' '
                    || coalesce((SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY attnum)
                                 FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0), '')
                    FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
                    WHERE relnamespace = current_schema()::regnamespace ORDER BY 1";
    let lines: Vec<String> = sqlx::query_scalar(describe).fetch_all(pool).await.unwrap();
    let schema: String = sqlx::query_scalar("SELECT current_schema()::text")
        .fetch_one(pool)
        .await
        .unwrap();
    lines.iter().map(|line| line.replace(&schema, "schema")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_open_a_new_database_at_once_it_is_made_once() {
    for _ in 0..8 {
        let schema = server().schema().await;
        let opens = (0..16).map(|_| PostgresStore::open(schema.pool(1)));
        for store in futures::future::join_all(opens).await {
            store.unwrap();
        }
        let applied: i64 = sqlx::query_scalar("SELECT count(*) FROM oneflight_migrations")
            .fetch_one(&schema.pool(1))
            .await
            .unwrap();
        assert_eq!(applied, 1);
    }
}

#[tokio::test]
async fn what_is_printed_is_what_is_applied() {
    let (ours, theirs) = (server().schema().await, server().schema().await);
    let (ours, theirs) = (ours.pool(1), theirs.pool(1));
    PostgresStore::open(ours.clone()).await.unwrap();
    let missing = PostgresStore::options().without_migrations().open(theirs.clone()).await;
    assert!(matches!(missing, Err(StoreError::Unsupported { .. })), "{missing:?}");
    let script = PostgresStore::options().migrations_sql().unwrap();
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&theirs).await.unwrap();
    assert_eq!(described(&ours).await, described(&theirs).await);
    let store = PostgresStore::options()
        .without_migrations()
        .open(theirs.clone())
        .await
        .unwrap();
    assert!(is_granted(&store).await);
    PostgresStore::open(theirs).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_is_missing_is_made_and_prefixes_keep_stores_apart() {
    let schema = server().schema().await;
    let pool = schema.pool(2);
    let named = format!("{}_more", schema.name);
    let options = || PostgresStore::options().schema(named.clone());
    let one = options().prefix("one_").open(pool.clone()).await.unwrap();
    let two = options().prefix("two_").open(pool.clone()).await.unwrap();
    assert!(is_granted(&one).await && is_granted(&two).await);
    assert!(!is_granted(&one).await && !is_granted(&two).await);
    // And the printed script makes the schema as well.
    let printed = options().schema(format!("{named}_2")).migrations_sql().unwrap();
    sqlx::raw_sql(AssertSqlSafe(printed)).execute(&pool).await.unwrap();
    let there = PostgresStore::options()
        .schema(format!("{named}_2"))
        .without_migrations();
    assert!(is_granted(&there.open(pool).await.unwrap()).await);
}

#[tokio::test]
async fn a_newer_database_and_names_that_are_none_are_refused() {
    let schema = server().schema().await;
    let pool = schema.pool(1);
    PostgresStore::open(pool.clone()).await.unwrap();
    sqlx::query("INSERT INTO oneflight_migrations (version, description) VALUES (99, 'of tomorrow')")
        .execute(&pool)
        .await
        .unwrap();
    for options in [PostgresStore::options(), PostgresStore::options().without_migrations()] {
        let newer = options.open(pool.clone()).await;
        assert!(
            matches!(newer, Err(StoreError::SchemaTooNew { found: 99, known: 1 })),
            "{newer:?}"
        );
    }
    for name in ["", "a b", r#"a"; DROP TABLE orders; --"#, "7a"] {
        let schema = PostgresStore::options().schema(name).migrations_sql();
        assert!(matches!(schema, Err(StoreError::InvalidName { .. })), "{name}");
        let prefix = PostgresStore::options().prefix(name).open(pool.clone()).await;
        assert!(matches!(prefix, Err(StoreError::InvalidName { .. })), "{name}");
    }
}
