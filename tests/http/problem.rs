//! Promise 17: what went wrong is told as RFC 9457 problem details, with the status that a client can act on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use oneflight::http::{KeySource, Problem, form_key, json_key, kind, require_key};
use oneflight::identity::{Fingerprint, RequestIdentity, Scope};
use serde_json::{Value, json};

fn body(problem: Problem) -> Value {
    let response: Response<String> = problem.into_response();
    serde_json::from_str(response.body()).unwrap()
}

#[test]
fn a_bare_problem_is_its_status() {
    assert_eq!(
        body(Problem::new(StatusCode::NOT_FOUND)),
        json!({ "type": "about:blank", "title": "Not Found", "status": 404 })
    );
    // Also where the status has no name.
    let odd = Problem::new(StatusCode::from_u16(599).unwrap());
    assert_eq!(body(odd)["status"], 599);
}

#[test]
fn everything_that_was_set_is_sent() {
    let problem = Problem::new(StatusCode::CONFLICT)
        .with_type("https://shop.example/problems/sold")
        .with_title("Sold \"out\"")
        .with_detail("The last one\nwent to someone else.")
        .with_instance("/orders/17")
        .with_member("item", "tea")
        .with_member("left", 0)
        .with_member("left", json!({ "tomorrow": 5 }));
    assert_eq!(problem.status(), StatusCode::CONFLICT);
    assert_eq!(problem.type_uri(), "https://shop.example/problems/sold");
    assert_eq!(problem.member("item"), Some(&json!("tea")));
    assert_eq!(
        body(problem),
        json!({
            "type": "https://shop.example/problems/sold",
            "title": "Sold \"out\"",
            "status": 409,
            "detail": "The last one\nwent to someone else.",
            "instance": "/orders/17",
            "item": "tea",
            "left": { "tomorrow": 5 },
        })
    );
}

#[test]
fn a_member_cannot_pass_for_a_standard_one() {
    let mut problem = Problem::new(StatusCode::CONFLICT);
    for name in ["type", "title", "status", "detail", "instance", "retry_after"] {
        problem = problem.with_member(name, "forged");
    }
    assert_eq!(problem, Problem::new(StatusCode::CONFLICT));
}

#[test]
fn waiting_is_told_in_whole_seconds_rounded_up() {
    for (wait, seconds) in [
        (Duration::ZERO, 1),
        (Duration::from_millis(1), 1),
        (Duration::from_secs(2), 2),
        (Duration::from_millis(2_001), 3),
        (Duration::MAX, u64::MAX),
    ] {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE).with_retry_after(wait);
        assert_eq!(problem.retry_after(), Some(wait));
        let response: Response<String> = problem.clone().into_response();
        assert_eq!(response.headers()["retry-after"], seconds.to_string());
        assert_eq!(body(problem)["retry_after"], seconds);
    }
    let response: Response<String> = Problem::new(StatusCode::CONFLICT).into_response();
    assert!(!response.headers().contains_key("retry-after"));
}

#[test]
fn what_is_wrong_with_a_key_is_a_400_that_says_what_to_do() {
    let missing = Problem::from(KeySource::new().missing());
    assert_eq!(missing.type_uri(), kind::KEY_MISSING);
    assert!(missing.detail().unwrap().contains("Idempotency-Key"));

    let mut json = HeaderMap::new();
    json.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let broken = Problem::from(require_key(&json, b"{").unwrap_err());
    assert_eq!(broken.type_uri(), kind::BODY_MALFORMED);

    for error in [
        json_key(br#"{"idempotency_key": 1}"#).unwrap_err(),
        form_key(b"idempotency_key=").unwrap_err(),
        form_key(b"idempotency_key=a&idempotency_key=b").unwrap_err(),
    ] {
        let problem = Problem::from(error);
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        assert_eq!(problem.type_uri(), kind::KEY_MALFORMED);
        assert!(problem.detail().unwrap().ends_with('.'));
    }
}

#[test]
fn an_identity_that_is_not_valid_is_a_400() {
    let key = RequestIdentity::new(Scope::new("tenant-7"), "").unwrap_err();
    assert_eq!(Problem::from(key).type_uri(), kind::KEY_MALFORMED);
    let scope = Problem::from(RequestIdentity::new(Scope::new("tenant\n7"), "k").unwrap_err());
    assert_eq!(scope.status(), StatusCode::BAD_REQUEST);
    assert_eq!(scope.type_uri(), kind::SCOPE_MALFORMED);
}

#[test]
fn what_the_service_left_out_is_not_blamed_on_the_client() {
    let of_scope = |scope| RequestIdentity::new(scope, "k").unwrap_err();
    for error in [
        of_scope(Scope::new("")),
        of_scope(Scope::new("tenant-7").route("")),
        of_scope(Scope::new("tenant-7").user("")),
        "no digest".parse::<Fingerprint>().unwrap_err(),
    ] {
        let problem = Problem::from(error.clone());
        assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR, "{error}");
        assert_eq!(problem.type_uri(), kind::INTERNAL, "{error}");
        assert!(problem.retry_after().is_none(), "{error}");
    }
}

#[test]
fn debug_shows_no_member() {
    let problem = Problem::new(StatusCode::CONFLICT).with_member("card", "4000 1234");
    let debug = format!("{problem:?}");
    assert!(debug.contains("card") && !debug.contains("4000"), "{debug}");
    assert_eq!(problem.to_string(), "409: Conflict");
}
