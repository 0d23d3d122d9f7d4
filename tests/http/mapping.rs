//! Promise 17: every way in which a request can fail has its status and its type, and tells no secrets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use oneflight::http::{Problem, kind};
use oneflight::idempotency::{
    CodecError, Effect, Error, ErrorKind, Idempotency, NotDone, RollbackKind, StepError, Unknown,
};
use oneflight::identity::{RequestIdentity, Scope};
use oneflight::store::{MemoryStore, StepId, StoreError, StoreFailure};
use oneflight::{FlightError, group};

fn id() -> RequestIdentity {
    RequestIdentity::new(Scope::new("secret-tenant"), "secret-key").unwrap()
}

fn store(source: StoreError) -> Error {
    Error::new(id(), ErrorKind::Store(source)).with_effect(Effect::Nothing)
}

fn rolled_back(kind: RollbackKind, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let source = source.into();
    Error::new(id(), ErrorKind::RolledBack { kind, source })
}

fn flight(source: FlightError) -> Error {
    Error::new(id(), ErrorKind::Flight(source))
}

/// Error, status, type, whether the client is asked to come back, effect.
fn table() -> Vec<(Error, u16, &'static str, bool, &'static str)> {
    let error = |kind| Error::new(id(), kind);
    let token = || StoreError::unavailable("secret-host:5432 refused");
    vec![
        (error(ErrorKind::Conflict), 422, kind::KEY_REUSED, false, "nothing"),
        (
            error(ErrorKind::InProgress {
                retry_after: Duration::from_millis(1_500),
            }),
            409,
            kind::IN_PROGRESS,
            true,
            "unknown",
        ),
        (
            error(ErrorKind::InDoubt { attempt: 2 }),
            409,
            kind::IN_DOUBT,
            false,
            "unknown",
        ),
        (
            error(ErrorKind::NotDone(NotDone::because("secret-host refused"))),
            503,
            kind::NOT_DONE,
            true,
            "nothing",
        ),
        (
            error(ErrorKind::Unknown(Unknown::because("secret-host timed out"))),
            503,
            kind::OUTCOME_UNKNOWN,
            true,
            "unknown",
        ),
        (
            rolled_back(RollbackKind::Failure, "secret-account is not there".into()),
            503,
            kind::NOT_DONE,
            true,
            "nothing",
        ),
        (
            rolled_back(
                RollbackKind::Violation,
                Box::new(StoreError::rolled_back("UNIQUE constraint failed: secret.table")),
            ),
            500,
            kind::INTERNAL,
            false,
            "nothing",
        ),
        (
            rolled_back(
                RollbackKind::Failure,
                Box::new(StoreError::rolled_back("secret-table is locked")),
            ),
            503,
            kind::UNAVAILABLE,
            true,
            "nothing",
        ),
        (error(ErrorKind::LeaseLost), 409, kind::IN_PROGRESS, true, "done"),
        (
            error(ErrorKind::Stopped(StepError::Failed {
                step: StepId::new("secret-step", ""),
                source: Arc::new(StoreError::unavailable("secret-host timed out")),
            })),
            503,
            kind::UNAVAILABLE,
            true,
            "unknown",
        ),
        (
            error(ErrorKind::Stopped(StepError::LeaseLost)),
            409,
            kind::IN_PROGRESS,
            true,
            "unknown",
        ),
        (
            error(ErrorKind::Stopped(StepError::Behind {
                step: StepId::new("secret-step", ""),
                failed: StepId::new("secret-step", "2"),
                source: Arc::new(StoreError::unavailable("secret-host timed out")),
            })),
            503,
            kind::UNAVAILABLE,
            true,
            "unknown",
        ),
        (
            // A process of the other version may answer the next time.
            error(ErrorKind::Stopped(StepError::OtherWorkflow {
                name: "secret-name".to_owned(),
                version: "2".to_owned(),
                asked: "secret-name".to_owned(),
            })),
            503,
            kind::UNAVAILABLE,
            true,
            "unknown",
        ),
        (
            // No other process will know it by another name either.
            error(ErrorKind::Stopped(StepError::OtherWorkflow {
                name: "secret-name".to_owned(),
                version: "2".to_owned(),
                asked: "other-name".to_owned(),
            })),
            500,
            kind::INTERNAL,
            false,
            "unknown",
        ),
        (
            error(ErrorKind::Stopped(StepError::InDoubt {
                step: StepId::new("secret-step", ""),
                source: None,
            })),
            409,
            kind::IN_DOUBT,
            false,
            "unknown",
        ),
        (
            // Code of before a deploy has met a step that code of after it has recorded.
            error(ErrorKind::Stopped(StepError::Unknown {
                step: StepId::new("secret-step", ""),
            })),
            503,
            kind::UNAVAILABLE,
            true,
            "unknown",
        ),
        (
            error(ErrorKind::Unrecorded(token())),
            503,
            kind::UNAVAILABLE,
            true,
            "done",
        ),
        (store(token()), 503, kind::UNAVAILABLE, true, "nothing"),
        (
            store(StoreError::Busy {
                waited: Duration::from_secs(30),
            }),
            503,
            kind::UNAVAILABLE,
            true,
            "nothing",
        ),
        (
            store(StoreError::rolled_back("secret-table is full")),
            503,
            kind::UNAVAILABLE,
            true,
            "nothing",
        ),
        (
            store(StoreError::SchemaTooNew {
                found: 9,
                known: 1,
                compatible_from: 8,
            }),
            503,
            kind::UNAVAILABLE,
            true,
            "nothing",
        ),
        (
            store(StoreError::failed(StoreFailure::Forbidden, "secret-table is not yours")),
            503,
            kind::UNAVAILABLE,
            true,
            "nothing",
        ),
        (
            store(StoreError::TransactionEnded),
            500,
            kind::INTERNAL,
            false,
            "nothing",
        ),
        (
            store(StoreError::TransactionEscaped),
            500,
            kind::INTERNAL,
            false,
            "nothing",
        ),
        (
            error(ErrorKind::Store(StoreError::CommittedByWork)),
            409,
            kind::IN_DOUBT,
            false,
            "unknown",
        ),
        (
            flight(FlightError::Overloaded(group::Limit::Flights(1))),
            503,
            kind::UNAVAILABLE,
            true,
            "nothing",
        ),
        (flight(FlightError::Closed), 503, kind::UNAVAILABLE, true, "nothing"),
        (flight(FlightError::Aborted), 503, kind::UNAVAILABLE, true, "unknown"),
        (flight(FlightError::Conflict), 422, kind::KEY_REUSED, false, "nothing"),
        (flight(FlightError::Reentrant), 500, kind::INTERNAL, false, "nothing"),
        (flight(FlightError::NoRuntime), 500, kind::INTERNAL, false, "nothing"),
        (
            error(ErrorKind::ResultTooLarge { size: 9, limit: 8 }).with_effect(Effect::Done),
            500,
            kind::INTERNAL,
            false,
            "done",
        ),
        (
            error(ErrorKind::ResultTooLarge { size: 9, limit: 0 }).with_effect(Effect::Done),
            200,
            kind::OUTCOME_ONLY,
            false,
            "done",
        ),
        (
            error(ErrorKind::Codec(CodecError::NotRecorded)),
            500,
            kind::INTERNAL,
            false,
            "unknown",
        ),
    ]
}

#[test]
fn every_error_has_its_status_and_its_type() {
    for (error, status, type_uri, comes_back, effect) in table() {
        let name = format!("{error:?}");
        let problem = Problem::from(error);
        assert_eq!(problem.status(), status, "{name}");
        assert_eq!(problem.type_uri(), type_uri, "{name}");
        assert_eq!(problem.retry_after().is_some(), comes_back, "{name}");
        assert_eq!(problem.member("effect").unwrap(), effect, "{name}");
        assert!(problem.detail().unwrap().ends_with('.'), "{name}");
        let response: http::Response<String> = problem.into_response();
        assert!(!response.body().contains("secret"), "{name}: {}", response.body());
    }
}

#[test]
fn the_time_to_come_back_is_the_one_of_the_error() {
    let problem = Problem::from(Error::new(
        id(),
        ErrorKind::InProgress {
            retry_after: Duration::from_millis(1_500),
        },
    ));
    let response: http::Response<String> = problem.into_response();
    assert_eq!(response.headers()["retry-after"], "2");
}

#[tokio::test]
async fn a_panic_is_a_500_without_its_message() {
    let idempotency = Idempotency::builder(MemoryStore::new()).build();
    let error = idempotency
        .run(id(), |_| async {
            if true {
                panic!("secret words");
            }
        })
        .await
        .unwrap_err();
    let problem = Problem::from(error);
    assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(problem.type_uri(), kind::INTERNAL);
    assert_eq!(problem.member("effect").unwrap(), "unknown");
    let response: http::Response<String> = problem.into_response();
    assert!(!response.body().contains("secret"));
}
