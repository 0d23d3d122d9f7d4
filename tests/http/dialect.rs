//! The layer's dialects for Stripe's SDKs and for gRPC: what it says in their words, and what they are told not to repeat. That
//! real clients read it so is in `tests/examples/tests/clients/stripe.rs` and `clients/tonic.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::BodyExt;
use oneflight::http::layer::{Dialect, IdempotencyLayer, Outcome};
use oneflight::http::{Problem, kind};
use oneflight::{Idempotency, MemoryStore};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::ServiceExt;

fn plain() -> IdempotencyLayer {
    IdempotencyLayer::new(Idempotency::builder(MemoryStore::new()).build()).unscoped()
}

fn stripe() -> IdempotencyLayer {
    plain().dialect(Dialect::Stripe)
}

struct Seen {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn should_retry(&self) -> Option<&str> {
        self.header("stripe-should-retry")
    }

    /// The members of the error, as Stripe has them: nothing stands beside `error`, and there are no others.
    fn error(&self) -> (String, Option<String>) {
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let body: Value = serde_json::from_str(&self.body).unwrap();
        let error = body["error"].as_object().unwrap();
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        let known = ["type", "code", "message", "doc_url"];
        assert!(error.keys().all(|name| known.contains(&name.as_str())), "{body}");
        assert!(error["message"].as_str().unwrap().ends_with('.'), "{body}");
        let text = |name| error.get(name).map(|value: &Value| value.as_str().unwrap().to_owned());
        (text("type").unwrap(), text("code"))
    }
}

async fn send(app: &Router, key: Option<&str>, body: &'static str) -> Seen {
    let mut request = Request::post("/v1/charges").header("content-type", "text/plain");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let request = request.body(Body::from(body)).unwrap();
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Seen {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

fn app<A, F>(layer: IdempotencyLayer, answer: F) -> (Router, Arc<AtomicUsize>)
where
    A: IntoResponse,
    F: Fn(usize) -> A + Clone + Send + Sync + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = move || {
        let answer: Response = answer(counted.fetch_add(1, Ordering::SeqCst) + 1).into_response();
        async move { answer }
    };
    (Router::new().route("/v1/charges", post(handler)).layer(layer), calls)
}

fn named(of_type: &str, code: &str) -> (String, Option<String>) {
    (of_type.to_owned(), Some(code.to_owned()))
}

#[tokio::test]
async fn another_payload_is_the_error_that_the_sdks_know() {
    let (app, calls) = app(stripe(), |_| "done");
    send(&app, Some("k"), "100").await;
    let other = send(&app, Some("k"), "200").await;
    assert_eq!(
        (other.status, other.should_retry(), other.error()),
        (400, Some("false"), named("idempotency_error", "key_reused"))
    );
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_draft_is_spoken_unless_another_dialect_is_set() {
    let (app, _) = app(plain(), |_| StatusCode::INTERNAL_SERVER_ERROR);
    let first = send(&app, Some("k"), "100").await;
    let again = send(&app, Some("k"), "100").await;
    let other = send(&app, Some("k"), "200").await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    for seen in [&first, &again, &other] {
        assert_eq!((seen.should_retry(), seen.header("idempotent-replayed")), (None, None));
    }
    assert_eq!(other.status, 422);
    assert_eq!(other.header("content-type"), Some("application/problem+json"));
}

#[tokio::test]
async fn a_request_in_flight_is_a_409_to_repeat() {
    let gate = Arc::new(Semaphore::new(0));
    let (begun, opened) = (Arc::new(Semaphore::new(0)), Arc::clone(&gate));
    let begins = Arc::clone(&begun);
    let handler = move || async move {
        begins.add_permits(1);
        opened.acquire().await.unwrap().forget();
        "done"
    };
    let app = Router::new()
        .route("/v1/charges", post(handler))
        .layer(stripe().wait(Duration::ZERO));
    let rest = async {
        begun.acquire().await.unwrap().forget();
        let duplicate = send(&app, Some("k"), "100").await;
        gate.add_permits(1);
        duplicate
    };
    let (first, duplicate) = tokio::join!(send(&app, Some("k"), "100"), rest);
    assert_eq!(first.body, "done");
    assert_eq!(
        (duplicate.status, duplicate.should_retry(), duplicate.error()),
        (409, Some("true"), named("idempotency_error", "idempotency_key_in_use"))
    );
    assert_eq!(duplicate.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_recorded_answer_that_the_sdks_would_repeat_says_not_to() {
    for (status, expected) in [
        (200, None),
        (402, None),
        (409, Some("false")),
        (500, Some("false")),
        (502, Some("false")),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let (app, calls) = app(stripe(), move |call| (status, call.to_string()));
        let first = send(&app, Some("k"), "100").await;
        let again = send(&app, Some("k"), "100").await;
        for seen in [&first, &again] {
            assert_eq!((seen.status, seen.body.as_str()), (status.as_u16(), "1"));
            assert_eq!(seen.should_retry(), expected, "{status}");
        }
        assert_eq!(first.header("idempotent-replayed"), None);
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_not_recorded_is_left_to_the_sdks() {
    let (app, calls) = app(stripe(), |call| match call {
        1 => (StatusCode::SERVICE_UNAVAILABLE, [("x-other", "1")], "later").into_response(),
        2 => (
            StatusCode::TOO_MANY_REQUESTS,
            [("stripe-should-retry", "true")],
            "later",
        )
            .into_response(),
        _ => "done".into_response(),
    });
    let mut said = Vec::new();
    for _ in 0..3 {
        let seen = send(&app, Some("k"), "100").await;
        said.push((seen.status, seen.should_retry().map(str::to_owned)));
    }
    assert_eq!(said, [(503, None), (429, Some("true".to_owned())), (200, None)]);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_handler_that_asks_to_repeat_what_is_recorded_is_corrected() {
    let (app, _) = app(stripe(), |_| {
        (
            StatusCode::PAYMENT_REQUIRED,
            [("stripe-should-retry", "true")],
            "declined",
        )
    });
    for _ in 0..2 {
        assert_eq!(send(&app, Some("k"), "100").await.should_retry(), Some("false"));
    }
}

#[tokio::test]
async fn what_passes_is_to_be_repeated_and_what_is_in_doubt_is_not() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let (app, _) = app(
        IdempotencyLayer::new(idem.clone()).unscoped().dialect(Dialect::Stripe),
        |_| (StatusCode::BAD_GATEWAY, Outcome::Unknown, "perhaps"),
    );
    // The handler's own answer, and then what is known of it.
    assert_eq!(send(&app, Some("k"), "100").await.should_retry(), None);
    let doubt = send(&app, Some("k"), "100").await;
    assert_eq!(
        (doubt.status, doubt.should_retry(), doubt.error()),
        (409, Some("false"), named("idempotency_error", "in_doubt"))
    );
    idem.close();
    let away = send(&app, Some("other"), "100").await;
    assert_eq!(
        (away.status, away.should_retry(), away.error()),
        (503, Some("true"), named("api_error", "unavailable"))
    );
    assert_eq!(away.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn an_error_leads_to_the_documentation() {
    let missing = |layer: IdempotencyLayer| async {
        let (app, _) = app(layer.required(), |_| "done");
        let seen = send(&app, None, "100").await;
        assert_eq!(
            (seen.status, seen.should_retry(), seen.error()),
            (400, Some("false"), named("invalid_request_error", "key_missing"))
        );
        let body: Value = serde_json::from_str(&seen.body).unwrap();
        let link = seen.header("link").map(str::to_owned);
        (body["error"]["doc_url"].clone(), link)
    };
    assert_eq!(missing(stripe()).await, (json!(kind::KEY_MISSING), None));
    let (address, link) = missing(stripe().documentation("https://shop.example/keys")).await;
    assert_eq!(address, "https://shop.example/keys");
    assert!(link.unwrap().contains("https://shop.example/keys"));
}

#[tokio::test]
async fn a_problem_of_the_services_own_has_no_code() {
    let (app, _) = app(
        stripe()
            .scope(|_| Err::<oneflight::Scope, _>(Problem::new(StatusCode::UNAUTHORIZED).with_detail("Who is it."))),
        |_| "done",
    );
    let seen = send(&app, Some("k"), "100").await;
    assert_eq!((seen.status, seen.error().1), (401, None));
    assert_eq!(
        seen.body,
        r#"{"error":{"type":"invalid_request_error","message":"Who is it."}}"#
    );
}

#[tokio::test]
async fn an_outcome_without_its_body_is_an_error_of_the_first_answers_status() {
    let (app, calls) = app(stripe(), |_| {
        (
            StatusCode::CREATED,
            Outcome::OutcomeOnly,
            [("location", "/v1/charges/1")],
            "secret",
        )
    });
    assert_eq!(send(&app, Some("k"), "100").await.body, "secret");
    let again = send(&app, Some("k"), "100").await;
    assert_eq!((again.status, again.error()), (201, named("api_error", "outcome_only")));
    assert_eq!(again.header("location"), Some("/v1/charges/1"));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// `grpc-status`, and nothing that a client of gRPC would take for a message.
fn grpc_status(seen: &Seen) -> &str {
    assert_eq!((seen.status, seen.body.as_str()), (200, ""));
    assert_eq!(seen.header("content-type"), Some("application/grpc"));
    seen.header("grpc-status").unwrap()
}

#[tokio::test]
async fn problems_are_answers_of_grpc_without_a_message() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let layer = IdempotencyLayer::new(idem.clone()).unscoped().required();
    let layer = layer.dialect(Dialect::Grpc);
    let (app, calls) = app(layer, |call| match call {
        1 => "done".into_response(),
        2 => (Outcome::Unknown, "perhaps").into_response(),
        _ => (Outcome::OutcomeOnly, "secret").into_response(),
    });
    assert_eq!(grpc_status(&send(&app, None, "100").await), "3");
    assert_eq!(send(&app, Some("a"), "100").await.body, "done");
    assert_eq!(grpc_status(&send(&app, Some("a"), "200").await), "3");
    send(&app, Some("b"), "100").await;
    assert_eq!(grpc_status(&send(&app, Some("b"), "100").await), "9");
    assert_eq!(send(&app, Some("c"), "100").await.body, "secret");
    let outcome = send(&app, Some("c"), "100").await;
    assert_eq!(
        (grpc_status(&outcome), outcome.header("idempotency-replayed")),
        ("6", Some("true"))
    );
    idem.close();
    let away = send(&app, Some("d"), "100").await;
    assert_eq!((grpc_status(&away), away.header("retry-after")), ("14", Some("1")));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_message_of_grpc_is_percent_encoded() {
    let (app, _) = app(
        plain().dialect(Dialect::Grpc).scope(|_| {
            Err::<oneflight::Scope, _>(Problem::new(StatusCode::UNAUTHORIZED).with_detail("100 % – or none."))
        }),
        |_| "done",
    );
    let seen = send(&app, Some("k"), "100").await;
    assert_eq!(grpc_status(&seen), "16");
    assert_eq!(seen.header("grpc-message"), Some("100 %25 %E2%80%93 or none."));
}
