//! What the server says is told as what is to be done about it, and is asked again only where that may help.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::postgres::server;
use oneflight::idempotency::{Context, Effect, ErrorKind, Idempotency};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{ClaimRequest, Store, StoreError, StoreFailure, find};
use oneflight_postgres::PostgresStore;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgDatabaseError, PgPool};

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

/// A store whose claims end with an error of the server's. It counts how often they are put to the server.
struct Failing {
    store: PostgresStore,
    pool: PgPool,
}

impl Failing {
    async fn new() -> Self {
        let pool = server().schema().await.pool(1);
        let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
        Self { store, pool }
    }

    async fn with(&self, code: &str) {
        let fail = format!(
            "DROP TRIGGER IF EXISTS fail ON oneflight_records;
             DROP SEQUENCE IF EXISTS asked;
             CREATE SEQUENCE asked MINVALUE 0 START 0;
             SELECT nextval('asked');
             DO $$ BEGIN EXECUTE format('
                CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $fail$ BEGIN
                    PERFORM pg_catalog.nextval(%L);
                    RAISE EXCEPTION USING ERRCODE = %L, MESSAGE = %L;
                END $fail$', current_schema() || '.asked', '{code}', 'it cannot be done'); END $$;
             CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON oneflight_records FOR EACH ROW EXECUTE FUNCTION fail()"
        );
        sqlx::raw_sql(AssertSqlSafe(fail)).execute(&self.pool).await.unwrap();
    }

    async fn asked(&self) -> i64 {
        let asked = sqlx::query_scalar("SELECT last_value FROM asked");
        asked.fetch_one(&self.pool).await.unwrap()
    }

    async fn claim(&self) -> StoreError {
        let claimed = self
            .store
            .claim(ClaimRequest::new(&id("a7f3"), Duration::from_secs(60)))
            .await;
        claimed.unwrap_err()
    }
}

#[tokio::test]
async fn what_the_server_says_is_told_as_what_is_to_be_done() {
    let failing = Failing::new().await;
    for (code, expected, words) in [
        ("42501", Some(StoreFailure::Forbidden), "no right"),
        ("28000", Some(StoreFailure::NotLoggedIn), "let this user in"),
        ("28P01", Some(StoreFailure::NotLoggedIn), "password"),
        ("25006", Some(StoreFailure::ReadOnly), "primary"),
        ("53100", Some(StoreFailure::Full), "no room"),
        ("55P03", Some(StoreFailure::Locked), "held a lock"),
        ("57014", Some(StoreFailure::Cancelled), "limit of time"),
        ("42P01", Some(StoreFailure::NotFound), "migrations"),
        ("XX001", Some(StoreFailure::Damaged), "backup"),
        ("08006", None, "not available"),
        ("57P01", None, "not available"),
        ("53300", None, "not available"),
    ] {
        failing.with(code).await;
        let error = failing.claim().await;
        let found = match &error {
            StoreError::Failed { failure, .. } => Some(*failure),
            StoreError::Unavailable { .. } => None,
            _ => panic!("{code}: {error:?}"),
        };
        assert_eq!(found, expected, "{code}: {error}");
        let told = error.to_string();
        assert!(
            told.contains(words) && told.contains("it cannot be done"),
            "{code}: {told}"
        );
        // A program learns all of it.
        let cause = find::<sqlx::Error>(&error).unwrap().as_database_error().unwrap();
        assert_eq!(cause.code().as_deref(), Some(code));
        assert!(cause.try_downcast_ref::<PgDatabaseError>().unwrap().line().is_some());
    }
}

/// Everything that is shown of an error: itself, its causes, and how it is printed for a programmer.
fn shown(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|error| format!("{error}\n{error:?}\n")).collect()
}

#[tokio::test]
async fn no_line_of_the_server_s_source_is_shown() {
    let failing = Failing::new().await;
    failing.with("53100").await;
    let claimed = failing.claim().await;
    let idem = Idempotency::builder(failing.store.clone()).build();
    let transacted = idem.run_in_tx(id("a7f3"), |_| async { Ok(1) }).await.unwrap_err();
    assert!(
        matches!(transacted.kind(), ErrorKind::RolledBack { .. }),
        "{transacted:?}"
    );
    let nowhere = server().options(server().port()).database("nowhere");
    let lost = sqlx::ConnectOptions::connect(&nowhere).await.unwrap_err();
    assert!(
        lost.to_string().contains(" at line "),
        "there is something to hide: {lost}"
    );
    let lost = oneflight_postgres::store_error(lost);
    for error in [&claimed as &(dyn std::error::Error + 'static), &transacted, &lost] {
        let shown = shown(error);
        for hidden in [" at line ", "line: Some", ".c\"", "routine"] {
            assert!(!shown.contains(hidden), "{hidden}: {shown}");
        }
    }
}

/// As if it were away: a claim whose answer was lost is asked for three times.
#[tokio::test]
async fn what_cannot_have_been_done_is_not_asked_for_as_if_the_server_were_away() {
    let failing = Failing::new().await;
    let idem = Idempotency::builder(failing.store.clone()).build();
    let mut asked = Vec::new();
    for code in ["42P01", "28000", "53100"] {
        failing.with(code).await;
        let error = idem.run(id("a7f3"), |_: Context| async { 1 }).await.unwrap_err();
        let ErrorKind::Store(StoreError::Failed { .. }) = error.kind() else {
            panic!("{code}: {error:?}")
        };
        asked.push((code, failing.asked().await, error.effect()));
    }
    let expected = [
        ("42P01", 1, Effect::Nothing),
        ("28000", 1, Effect::Nothing),
        ("53100", 3, Effect::Nothing),
    ];
    assert_eq!(asked, expected);
    // A right may be missing because of what somebody left the session in, so other sessions are tried: of one connection, three
    // more.
    failing.with("42501").await;
    let error = idem.run(id("a7f3"), |_: Context| async { 1 }).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Store(_)), "{error:?}");
    assert_eq!(failing.asked().await, 4);
}
