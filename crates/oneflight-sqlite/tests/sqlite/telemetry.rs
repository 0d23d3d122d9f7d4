//! Promise 20, for what is durable: every line of a request, whichever task polls its work, is inside the request's
//! span and so carries its correlation id.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::lines::{Lines, block_on, request};
use oneflight::idempotency::{Idempotency, NotDone, Rollback, Unknown};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError};
use oneflight_sqlite::SqliteStore;
use tracing::Instrument;

fn id(key: &str) -> RequestIdentity {
    RequestIdentity::new(Scope::new("tenant-7"), key).unwrap()
}

#[test]
fn what_the_work_tells_carries_the_correlation_id_of_its_request() {
    let lines = Lines::default();
    block_on(&lines, async {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("told.db")).await.unwrap();
        let idem = Idempotency::builder(store).build();
        let outside = idem.run(id("outside"), |_| async {
            tracing::info!("outside begins");
            tokio::time::sleep(Duration::from_millis(2)).await;
            tracing::info!("outside ends");
            1
        });
        let inside = idem.run_in_tx(id("inside"), |_| async {
            tracing::info!("inside begins");
            tokio::time::sleep(Duration::from_millis(2)).await;
            tracing::info!("inside ends");
            Ok(1)
        });
        let (outside, inside) = tokio::join!(
            outside.instrument(request("c-outside")),
            inside.instrument(request("c-inside"))
        );
        assert_eq!((*outside.unwrap(), *inside.unwrap()), (1, 1));
    });
    for place in ["outside", "inside"] {
        for moment in ["begins", "ends"] {
            let line = lines.the(&format!("{place} {moment}"));
            assert!(
                line.contains(&format!("c-{place}")) && line.contains("oneflight.flight"),
                "{line}"
            );
        }
    }
}

#[test]
fn every_failure_is_told_once_with_its_request_its_cause_and_its_correlation_id() {
    let lines = Lines::default();
    block_on(&lines, async {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("failures.db")).await.unwrap();
        sqlx::raw_sql("CREATE TABLE orders (code TEXT UNIQUE); INSERT INTO orders VALUES ('taken')")
            .execute(store.pool())
            .await
            .unwrap();
        let idem = Idempotency::builder(store).build();
        let violated = idem.run_in_tx::<(), _, _>(id("violated"), |mut tx| async move {
            sqlx::query("INSERT INTO orders VALUES ('taken')")
                .execute(&mut *tx)
                .await?;
            Ok(())
        });
        let failed = idem.run_in_tx::<(), _, _>(id("failed"), |_| async { Err(Rollback::failed("no such account")) });
        let broken = idem.run_in_tx::<(), _, _>(id("broken"), |_| async { panic!("out of paper") });
        let panicked = idem.run(id("panicked"), |_| async {
            if true {
                panic!("out of ink");
            }
        });
        let not_done = idem.try_run(id("not-done"), |_| async {
            Err::<(), _>(NotDone::because("refused").into())
        });
        let unknown = idem.try_run(id("unknown"), |_| async {
            Err::<(), _>(Unknown::because("timed out").into())
        });
        assert!(violated.instrument(request("c-violated")).await.is_err());
        assert!(failed.instrument(request("c-failed")).await.is_err());
        assert!(broken.instrument(request("c-broken")).await.is_err());
        assert!(panicked.instrument(request("c-panicked")).await.is_err());
        assert!(not_done.instrument(request("c-not-done")).await.is_err());
        assert!(unknown.instrument(request("c-unknown")).await.is_err());
        let doubtful = idem.run(id("unknown"), |_| async {});
        assert!(doubtful.instrument(request("c-doubtful")).await.is_err());

        assert!(idem.run(id("typed"), |_| async { 1 }).await.is_ok());
        let retyped = idem.run(id("typed"), |_| async { String::new() });
        assert!(retyped.instrument(request("c-retyped")).await.is_err());

        let away = Idempotency::builder(Away).build();
        let away = away.run(id("away"), |_| async {});
        assert!(away.instrument(request("c-away")).await.is_err());
    });
    for (correlation, level, key, cause) in [
        ("c-violated", "ERROR", "violated", "UNIQUE constraint failed"),
        ("c-failed", "WARN", "failed", "no such account"),
        ("c-broken", "ERROR", "broken", "out of paper"),
        ("c-panicked", "ERROR", "panicked", "out of ink"),
        ("c-not-done", "WARN", "not-done", "refused"),
        ("c-unknown", "WARN", "unknown", "timed out"),
        ("c-doubtful", "WARN", "unknown", "attempt 1 ended without telling"),
        ("c-retyped", "ERROR", "typed", "cannot be read as the type asked for"),
        ("c-away", "WARN", "away", "connection refused"),
    ] {
        let told: Vec<_> = lines.with(correlation);
        let line: Vec<_> = told.iter().filter(|line| line.contains("has no reply")).collect();
        assert_eq!(line.len(), 1, "{correlation}: {told:#?}");
        let line = line[0];
        let request = id(key).redacted().to_string();
        assert!(
            line.contains(level) && line.contains(&request) && line.contains(cause),
            "{line}"
        );
        assert_eq!(line.matches(cause).count(), 1, "the cause is told once: {line}");
    }
}

/// A store that is not there.
struct Away;

impl Store for Away {
    async fn claim(&self, _: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }
    async fn renew(&self, _: &RequestIdentity, _: FencingToken, _: Duration) -> Result<(), StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }
    async fn end_lease(&self, _: &RequestIdentity, _: FencingToken, _: Duration) -> Result<(), StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }
    async fn complete(&self, _: Claim, _: RecordedResult, _: Duration) -> Result<(), StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }
    async fn release(&self, _: Claim) -> Result<(), StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }
    async fn load(&self, _: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }
    async fn purge(&self, _: usize) -> Result<usize, StoreError> {
        Err(StoreError::unavailable("connection refused"))
    }
}

#[test]
fn an_error_ends_with_its_cause_and_its_sources_do_not_repeat_that() {
    #[derive(Debug)]
    struct Outer(std::io::Error);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the provider is away")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    // With a subscriber as the other tests have one: a line that is first told where there is none may be taken for one
    // that is not wanted.
    block_on(&Lines::default(), async {
        let outer = || Outer(std::io::Error::other("no route"));
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("causes.db")).await.unwrap();
        let idem = Idempotency::builder(store).build();
        let not_done = idem.try_run(id("1"), move |_| async move {
            Err::<(), _>(NotDone::because(outer()).into())
        });
        let unknown = idem.try_run(id("2"), move |_| async move {
            Err::<(), _>(Unknown::because(outer()).into())
        });
        let rolled_back = idem.run_in_tx::<(), _, _>(id("3"), move |_| async move { Err(outer().into()) });
        for error in [not_done.await, unknown.await, rolled_back.await] {
            let error = error.unwrap_err();
            assert!(error.to_string().ends_with(": the provider is away"), "{error}");
            let source = std::error::Error::source(&error).unwrap();
            assert_eq!(source.to_string(), "no route", "{error}");
        }
        let panicked = idem
            .run(id("4"), |_| async {
                if true {
                    panic!("out of paper")
                }
            })
            .await;
        assert!(panicked.unwrap_err().to_string().ends_with(": out of paper"));
        idem.close();
        let closed = idem.run(id("5"), |_| async {}).await.unwrap_err();
        assert!(closed.to_string().contains("closed"), "{closed}");
        assert!(std::error::Error::source(&closed).is_none());
    });
}
