//! The tables in PostgreSQL: created once by however many, printed for those who create them otherwise, and refused if
//! newer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store, StoreError};
use oneflight_conformance as conformance;
use oneflight_postgres::PostgresStore;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use crate::postgres::{Server, server};

async fn is_granted(store: &PostgresStore) -> bool {
    let id = RequestIdentity::new(Scope::new("tenant-7"), "k").unwrap();
    let claimed = store.claim(ClaimRequest::new(&id, Duration::from_secs(60))).await;
    matches!(claimed.unwrap(), ClaimOutcome::Granted(_))
}

/// What there is of ours, as the server describes it.
async fn described(pool: &PgPool) -> Vec<String> {
    let describe = "SELECT c.relkind::text || ' ' || c.relname || ' ' || coalesce(pg_get_indexdef(i.indexrelid), '') || ' '
                    || coalesce((SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY attnum)
                                 FROM pg_attribute a WHERE a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped), '')
                    FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
                    WHERE relnamespace = current_schema()::regnamespace
                    UNION ALL
                    SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
                    UNION ALL
                    SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
                    ORDER BY 1";
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
        let opens = (0..16).map(|_| PostgresStore::from_pool(schema.pool(1)));
        for store in futures::future::join_all(opens).await {
            store.unwrap();
        }
        let applied: Vec<i64> = sqlx::query_scalar("SELECT version FROM oneflight_migrations ORDER BY version")
            .fetch_all(&schema.pool(1))
            .await
            .unwrap();
        let once_each: Vec<i64> = (1..).take(applied.len()).collect();
        assert!(!applied.is_empty());
        assert_eq!(applied, once_each);
    }
}

#[tokio::test]
async fn what_is_printed_is_what_is_applied() {
    let (ours, theirs) = (server().schema().await, server().schema().await);
    let (ours, theirs) = (ours.pool(1), theirs.pool(1));
    PostgresStore::from_pool(ours.clone()).await.unwrap();
    let missing = PostgresStore::options()
        .without_migrations()
        .from_pool(theirs.clone())
        .await;
    assert!(matches!(missing, Err(StoreError::Unsupported { .. })), "{missing:?}");
    let script = PostgresStore::options().migrations_sql().unwrap();
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&theirs).await.unwrap();
    assert_eq!(described(&ours).await, described(&theirs).await);
    let store = PostgresStore::options()
        .without_migrations()
        .from_pool(theirs.clone())
        .await
        .unwrap();
    assert!(is_granted(&store).await);
    PostgresStore::from_pool(theirs).await.unwrap();
}

/// Takes away what version 4 added.
const WITHOUT_OUTBOX: &str = "
    DROP VIEW oneflight_debezium;
    DROP TABLE oneflight_messages, oneflight_receipts, oneflight_parked, oneflight_withdrawn, oneflight_rotation,
               oneflight_relays, oneflight_shards;
    DROP SEQUENCE oneflight_positions, oneflight_relay_tokens;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT oid::regprocedure FROM pg_proc
                    WHERE pronamespace = current_schema()::regnamespace AND prokind = 'f' LOOP
            EXECUTE 'DROP FUNCTION ' || name;
        END LOOP;
    END $$";

/// What versions before 5 do not have.
const STEPS: &str = "DROP TRIGGER oneflight_forget_steps ON oneflight_records;
                     DROP FUNCTION oneflight_forget_steps;
                     DROP TRIGGER oneflight_outdate_steps ON oneflight_records;
                     DROP FUNCTION oneflight_outdate_steps, oneflight_goes_on;
                     DROP PROCEDURE oneflight_begin_steps;
                     DROP PROCEDURE oneflight_record_step;
                     DROP PROCEDURE oneflight_load_steps;
                     DROP TABLE oneflight_steps, oneflight_workflows";

/// What versions before 6 do not have.
const INCARNATION: &str = "DROP FUNCTION oneflight_incarnate; DROP TABLE oneflight_incarnation";

/// What versions before 7 do not have.
const CORRELATION: &str = "
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT oid::regprocedure FROM pg_proc
                    WHERE pronamespace = current_schema()::regnamespace
                      AND (proname, pronargs) IN (('oneflight_claim', 21), ('oneflight_begin_steps', 34)) LOOP
            EXECUTE 'DROP PROCEDURE ' || name;
        END LOOP;
    END $$;
    ALTER TABLE oneflight_records DROP COLUMN correlation_id";

/// What versions before topics could be paused do not have.
const PAUSED: &str = "DROP TABLE oneflight_paused";

/// What versions do not have that say of no schema which versions work with it.
const COMPATIBILITY: &str = "ALTER TABLE oneflight_migrations DROP COLUMN compatible_from";

/// What versions before 13 have instead.
const CONSTRAINTS: &str = "
    ALTER TABLE oneflight_records DROP CONSTRAINT oneflight_records_state, ADD CHECK (length(fingerprint) = 32),
        ADD CHECK (length(holder) = 16), ADD CHECK (attempt > 0),
        ADD CHECK ((completed_at IS NULL) = (lease_expires_at IS NOT NULL)), ADD CHECK ((completed_at IS NULL) = (result IS NULL)),
        ADD CHECK ((completed_at IS NULL) = (expires_at IS NULL));
    DROP FUNCTION oneflight_keepalive";

/// As version 1 left it, with what was in it.
async fn of_version_1(pool: &PgPool) -> PostgresStore {
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    assert!(is_granted(&store).await);
    sqlx::raw_sql(CONSTRAINTS).execute(pool).await.unwrap();
    sqlx::raw_sql(COMPATIBILITY).execute(pool).await.unwrap();
    sqlx::raw_sql(PAUSED).execute(pool).await.unwrap();
    sqlx::raw_sql(CORRELATION).execute(pool).await.unwrap();
    sqlx::raw_sql(INCARNATION).execute(pool).await.unwrap();
    sqlx::raw_sql(STEPS).execute(pool).await.unwrap();
    sqlx::raw_sql(WITHOUT_OUTBOX).execute(pool).await.unwrap();
    let back = "DO $$ DECLARE name text; BEGIN
                    FOR name IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = current_schema()::regnamespace LOOP
                        EXECUTE 'DROP PROCEDURE ' || name;
                    END LOOP;
                END $$;
                ALTER TABLE oneflight_records DROP COLUMN held;
                DELETE FROM oneflight_migrations WHERE version > 1";
    sqlx::raw_sql(back).execute(pool).await.unwrap();
    store
}

#[tokio::test]
async fn a_database_of_version_1_is_upgraded_with_its_records_by_us_or_by_a_script() {
    let (ours, theirs) = (server().schema().await, server().schema().await);
    let (ours, theirs) = (ours.pool(2), theirs.pool(2));
    of_version_1(&ours).await;
    of_version_1(&theirs).await;
    let store = PostgresStore::from_pool(ours.clone()).await.unwrap();
    let older = PostgresStore::options()
        .without_migrations()
        .from_pool(theirs.clone())
        .await;
    assert!(matches!(older, Err(StoreError::Unsupported { .. })), "{older:?}");
    let script = PostgresStore::options().upgrade_sql(1).unwrap();
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&theirs).await.unwrap();
    let other = PostgresStore::options()
        .without_migrations()
        .from_pool(theirs.clone())
        .await
        .unwrap();
    assert_eq!(described(&ours).await, described(&theirs).await);
    // What was claimed before is in progress still.
    assert!(!is_granted(&store).await && !is_granted(&other).await);
}

/// In version 2, renewals could shorten a lease, and ended it as well.
#[tokio::test]
async fn a_database_of_version_2_gets_the_procedures_of_today() {
    let (ours, new) = (server().schema().await, server().schema().await);
    let (ours, new) = (ours.pool(2), new.pool(2));
    PostgresStore::from_pool(ours.clone()).await.unwrap();
    sqlx::raw_sql(CONSTRAINTS).execute(&ours).await.unwrap();
    sqlx::raw_sql(COMPATIBILITY).execute(&ours).await.unwrap();
    sqlx::raw_sql(PAUSED).execute(&ours).await.unwrap();
    sqlx::raw_sql(CORRELATION).execute(&ours).await.unwrap();
    sqlx::raw_sql(INCARNATION).execute(&ours).await.unwrap();
    sqlx::raw_sql(STEPS).execute(&ours).await.unwrap();
    sqlx::raw_sql(WITHOUT_OUTBOX).execute(&ours).await.unwrap();
    let back = "DROP PROCEDURE oneflight_renew;
                DROP PROCEDURE oneflight_end_lease;
                DROP PROCEDURE oneflight_claim_together;
                DROP PROCEDURE oneflight_complete_together;
                CREATE PROCEDURE oneflight_renew(text, text, bigint, bigint, bigint, text, INOUT bigint, INOUT text)
                    LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
                DELETE FROM oneflight_migrations WHERE version > 2";
    sqlx::raw_sql(back).execute(&ours).await.unwrap();
    let store = PostgresStore::from_pool(ours.clone()).await.unwrap();
    PostgresStore::from_pool(new.clone()).await.unwrap();
    assert_eq!(described(&ours).await, described(&new).await);
    assert!(is_granted(&store).await);
}

#[tokio::test]
async fn a_schema_that_is_missing_is_made_and_prefixes_keep_stores_apart() {
    let schema = server().schema().await;
    let pool = schema.pool(2);
    let named = format!("{}_more", schema.name);
    let options = || PostgresStore::options().schema(named.clone());
    let one = options().prefix("one_").from_pool(pool.clone()).await.unwrap();
    let two = options().prefix("two_").from_pool(pool.clone()).await.unwrap();
    assert!(is_granted(&one).await && is_granted(&two).await);
    assert!(!is_granted(&one).await && !is_granted(&two).await);
    // And the printed script makes the schema as well.
    let printed = options().schema(format!("{named}_2")).migrations_sql().unwrap();
    sqlx::raw_sql(AssertSqlSafe(printed)).execute(&pool).await.unwrap();
    let there = PostgresStore::options()
        .schema(format!("{named}_2"))
        .without_migrations();
    assert!(is_granted(&there.from_pool(pool).await.unwrap()).await);
}

/// The newest version that is known here.
async fn known(pool: &PgPool) -> i64 {
    let newest = sqlx::query_scalar("SELECT max(version) FROM oneflight_migrations");
    newest.fetch_one(pool).await.unwrap()
}

/// Upgrades a schema as a version after this one would, from which on it works with the version `compatible_from`.
async fn upgrade(pool: &PgPool, version: i64, compatible_from: i64) {
    let added = format!(
        "BEGIN;
         ALTER TABLE oneflight_records ADD COLUMN of_{version} bigint NOT NULL DEFAULT 7;
         ALTER TABLE oneflight_messages ADD COLUMN of_{version} text;
         ALTER TABLE oneflight_parked ADD COLUMN of_{version} text NOT NULL DEFAULT '';
         ALTER TABLE oneflight_workflows ADD COLUMN of_{version} bytea;
         ALTER TABLE oneflight_steps ADD COLUMN of_{version} text;
         CREATE INDEX oneflight_records_of_{version} ON oneflight_records (of_{version});
         CREATE TABLE oneflight_of_{version} (one bigint PRIMARY KEY);
         CREATE FUNCTION oneflight_of_{version}() RETURNS bigint LANGUAGE sql AS 'SELECT 7::bigint';
         INSERT INTO oneflight_migrations (version, description, compatible_from)
         VALUES ({version}, 'of tomorrow', {compatible_from});
         COMMIT"
    );
    sqlx::raw_sql(AssertSqlSafe(added)).execute(pool).await.unwrap();
}

/// A schema to which two later versions have added something, while a store of this version had it open.
async fn upgraded(server: &Server) -> PgPool {
    let pool = server.schema().await.pool(8);
    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    assert!(is_granted(&store).await);
    let known = known(&pool).await;
    for added in 1..=2 {
        upgrade(&pool, known + added, known).await;
    }
    assert!(!is_granted(&store).await, "a store that is open goes on");
    sqlx::raw_sql("DELETE FROM oneflight_records")
        .execute(&pool)
        .await
        .unwrap();
    pool
}

pub async fn opened_anew_on(server: &Server) -> PostgresStore {
    Box::pin(async { PostgresStore::from_pool(upgraded(server).await).await.unwrap() }).await
}

async fn opened_anew() -> PostgresStore {
    opened_anew_on(server()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_to_which_later_versions_have_added_is_opened_and_worked_with() {
    let options = PostgresStore::options().without_migrations();
    options.from_pool(upgraded(server()).await).await.unwrap();
    Box::pin(conformance::run(opened_anew)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_are_kept_in_a_schema_to_which_later_versions_have_added() {
    Box::pin(conformance::run_steps(opened_anew)).await.unwrap();
}

#[tokio::test]
async fn a_schema_with_which_a_later_version_breaks_is_an_error_that_says_which_version_it_needs() {
    let pool = server().schema().await.pool(2);
    PostgresStore::from_pool(pool.clone()).await.unwrap();
    let known = known(&pool).await;
    upgrade(&pool, known + 1, known).await;
    upgrade(&pool, known + 2, known + 2).await;
    // What is added after that does not mend it.
    upgrade(&pool, known + 3, known + 2).await;
    for options in [PostgresStore::options(), PostgresStore::options().without_migrations()] {
        let error = options.from_pool(pool.clone()).await.unwrap_err();
        let StoreError::SchemaTooNew {
            found, compatible_from, ..
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!((found, compatible_from), (known + 3, known + 2));
        let told = format!("needs version {} or newer", known + 2);
        assert!(error.to_string().contains(&told), "{error}");
    }
}

#[tokio::test]
async fn a_newer_database_that_says_nothing_and_names_that_are_none_are_refused() {
    let schema = server().schema().await;
    let pool = schema.pool(1);
    PostgresStore::from_pool(pool.clone()).await.unwrap();
    sqlx::query("INSERT INTO oneflight_migrations (version, description) VALUES (99, 'of tomorrow')")
        .execute(&pool)
        .await
        .unwrap();
    for options in [PostgresStore::options(), PostgresStore::options().without_migrations()] {
        let newer = options.from_pool(pool.clone()).await;
        assert!(
            matches!(newer, Err(StoreError::SchemaTooNew { found: 99, .. })),
            "{newer:?}"
        );
    }
    for name in ["", "a b", r#"a"; DROP TABLE orders; --"#, "7a"] {
        let schema = PostgresStore::options().schema(name).migrations_sql();
        assert!(matches!(schema, Err(StoreError::InvalidName { .. })), "{name}");
        let prefix = PostgresStore::options().prefix(name).from_pool(pool.clone()).await;
        assert!(matches!(prefix, Err(StoreError::InvalidName { .. })), "{name}");
    }
}

#[tokio::test]
async fn a_store_is_opened_by_its_url() {
    let schema = server().schema().await;
    let url = sqlx::ConnectOptions::to_url_lossy(&*schema.pool(1).connect_options());
    let store = PostgresStore::open(url.as_str()).await.unwrap();
    assert!(is_granted(&store).await);
    let nowhere = PostgresStore::open("shop.db").await;
    assert!(matches!(nowhere, Err(StoreError::Unavailable { .. })), "{nowhere:?}");
}
