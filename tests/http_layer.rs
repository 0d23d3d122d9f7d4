//! Promises 17 and 19: the layer executes a request once, and answers its duplicates; what it cannot keep, it does not execute
//! again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};
use futures::{FutureExt, StreamExt, join};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use oneflight::http::layer::{Checked, Cookies, IdempotencyLayer, Outcome, Recording};
use oneflight::{Idempotency, MemoryStore};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tower::{Layer, ServiceExt};

fn layer() -> IdempotencyLayer {
    IdempotencyLayer::new(Idempotency::builder(MemoryStore::new()).build()).unscoped()
}

fn request(key: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post("/orders").header("idempotency-key", key);
    request.header("content-type", "text/plain").body(body.into()).unwrap()
}

async fn send(app: &Router, request: Request<Body>) -> Response<Body> {
    app.clone().oneshot(request).await.unwrap()
}

async fn bytes(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

fn origin(response: &Response<Body>) -> &str {
    response.headers()["idempotency-origin"].to_str().unwrap()
}

/// How often a handler was called.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Calls {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A service whose answers are made by a function of the number of the call.
fn app<A, F>(layer: IdempotencyLayer, answer: F) -> (Router, Calls)
where
    A: IntoResponse,
    F: Fn(usize) -> A + Clone + Send + Sync + 'static,
{
    let calls = Calls::default();
    let counted = calls.clone();
    let handler = move |_: Bytes| {
        let answer = answer(counted.next()).into_response();
        async move { answer }
    };
    (Router::new().route("/orders", post(handler)).layer(layer), calls)
}

#[tokio::test]
async fn a_request_that_is_sent_again_gets_the_first_answer() {
    let (app, calls) = app(layer(), |call| {
        let lines = [
            ("x-line", "1"),
            ("set-cookie", "a=1"),
            ("x-line", "2"),
            ("date", "then"),
        ];
        (
            StatusCode::CREATED,
            axum::response::AppendHeaders(lines),
            format!("order {call}"),
        )
    });
    let first = send(&app, request("k", "tea")).await;
    assert_eq!((first.status(), origin(&first)), (StatusCode::CREATED, "executed"));
    assert_eq!(first.headers()["set-cookie"], "a=1");
    assert!(!first.headers().contains_key("idempotency-replayed"));
    assert_eq!(bytes(first).await, "order 1");

    let again = send(&app, request("\"k\"", "tea")).await;
    assert_eq!((again.status(), origin(&again)), (StatusCode::CREATED, "replayed"));
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert!(again.headers().contains_key("idempotency-original-date"));
    let lines: Vec<_> = again.headers().get_all("x-line").iter().collect();
    assert_eq!(lines, ["1", "2"]);
    assert!(!again.headers().contains_key("set-cookie"));
    assert_ne!(
        again.headers().get("date").map(|date| date.as_bytes()),
        Some(&b"then"[..])
    );
    assert_eq!(bytes(again).await, "order 1");
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_request_without_a_key_passes_through_unless_one_is_required() {
    let (open, calls) = app(layer(), |call| call.to_string());
    let plain = || Request::post("/orders").body(Body::from("tea")).unwrap();
    for expected in ["1", "2"] {
        let response = send(&open, plain()).await;
        assert!(!response.headers().contains_key("idempotency-origin"));
        assert_eq!(bytes(response).await, expected);
    }
    assert_eq!(calls.count(), 2);

    let (strict, calls) = app(layer().required().documentation("https://shop.example/keys"), |call| {
        call.to_string()
    });
    let refused = send(&strict, plain()).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    assert_eq!(
        refused.headers()["link"],
        "<https://shop.example/keys>; rel=\"describedby\"; type=\"text/html\""
    );
    assert_eq!(calls.count(), 0);
}

#[tokio::test]
async fn a_used_key_with_another_payload_is_a_conflict() {
    let (app, calls) = app(layer(), |call| call.to_string());
    send(&app, request("k", "tea")).await;
    let other = send(&app, request("k", "coffee")).await;
    assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let malformed = send(&app, request("a, b", "tea")).await;
    assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);
    assert_eq!(calls.count(), 1);
}

/// A service whose handler waits for a permit.
fn gated(layer: IdempotencyLayer) -> (Router, Calls, Arc<Semaphore>, Arc<Notify>) {
    let (calls, gate, begun) = (Calls::default(), Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (counted, permits, tell) = (calls.clone(), Arc::clone(&gate), Arc::clone(&begun));
    let handler = move |_: Bytes| {
        let (call, permits, tell) = (counted.next(), Arc::clone(&permits), Arc::clone(&tell));
        async move {
            tell.notify_one();
            permits.acquire().await.unwrap().forget();
            format!("order {call}")
        }
    };
    (
        Router::new().route("/orders", post(handler)).layer(layer),
        calls,
        gate,
        begun,
    )
}

#[tokio::test]
async fn duplicates_in_flight_share_one_answer_and_its_bytes() {
    let (app, calls, gate, begun) = gated(layer());
    let requests = (0..100).map(|_| send(&app, request("k", "tea")));
    let opened = async {
        begun.notified().await;
        gate.add_permits(1);
    };
    let (responses, ()) = join!(futures::future::join_all(requests), opened);
    assert_eq!(calls.count(), 1);
    let mut addresses = Vec::new();
    let mut executed = 0;
    for response in responses {
        executed += usize::from(origin(&response) == "executed");
        let body = bytes(response).await;
        assert_eq!(body, "order 1");
        addresses.push(body.as_ptr());
    }
    addresses.dedup();
    assert_eq!((executed, addresses.len()), (1, 1));
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_nothing() {
    let (app, calls, gate, begun) = gated(layer());
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, request("k", "tea")).await }
    });
    begun.notified().await;
    first.abort();
    gate.add_permits(1);
    let again = send(&app, request("k", "tea")).await;
    assert_ne!(origin(&again), "executed");
    assert_eq!(bytes(again).await, "order 1");
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn with_a_wait_of_zero_a_duplicate_in_flight_is_a_409() {
    let (app, calls, gate, begun) = gated(layer().wait(Duration::ZERO));
    let first = send(&app, request("k", "tea"));
    let rest = async {
        begun.notified().await;
        let duplicate = send(&app, request("k", "tea")).await;
        assert_eq!(duplicate.status(), StatusCode::CONFLICT);
        assert_eq!(duplicate.headers()["retry-after"], "1");
        gate.add_permits(1);
    };
    let (first, ()) = join!(first, rest);
    assert_eq!(bytes(first).await, "order 1");
    let again = send(&app, request("k", "tea")).await;
    assert_eq!((origin(&again), again.status()), ("replayed", StatusCode::OK));
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_panic_of_the_handler_is_a_500_for_all() {
    let handler = || async {
        tokio::task::yield_now().await;
        panic!("a bug");
        #[allow(unreachable_code)]
        ""
    };
    let app = Router::new().route("/orders", post(handler)).layer(layer());
    let (one, two) = join!(send(&app, request("k", "tea")), send(&app, request("k", "tea")));
    assert_eq!([one.status(), two.status()], [StatusCode::INTERNAL_SERVER_ERROR; 2]);
    // What it did before is not known.
    assert_eq!(send(&app, request("k", "tea")).await.status(), StatusCode::CONFLICT);
}

#[tokio::test]
async fn an_answer_too_large_to_record_is_shared_in_flight_and_replayed_as_an_outcome() {
    let large = "x".repeat(600 * 1024);
    let body = large.clone();
    let (app, calls) = app(layer(), move |_| {
        (
            StatusCode::CREATED,
            [("location", "/orders/1"), ("x-other", "1")],
            body.clone(),
        )
    });
    let (one, two) = join!(send(&app, request("k", "tea")), send(&app, request("k", "tea")));
    assert_eq!(two.headers()["x-other"], "1");
    assert_eq!(bytes(one).await, large);
    assert_eq!(bytes(two).await, large);
    let again = send(&app, request("k", "tea")).await;
    assert_eq!((again.status(), origin(&again)), (StatusCode::CREATED, "replayed"));
    assert_eq!(again.headers()["location"], "/orders/1");
    assert!(!again.headers().contains_key("x-other"));
    let told: Value = serde_json::from_slice(&bytes(again).await).unwrap();
    assert_eq!(told["type"], oneflight::http::kind::OUTCOME_ONLY);
    assert_eq!(told["location"], "/orders/1");
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn an_answer_over_the_limit_is_streamed_to_its_own_client_only() {
    let limited = layer().max_answer_bytes(10);
    let (app, calls) = app(limited, |_| {
        let pieces = ["first", " second", " third"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
        Body::from_stream(futures::stream::iter(pieces))
    });
    let (one, two) = join!(send(&app, request("k", "tea")), send(&app, request("k", "tea")));
    let (own, other) = if origin(&one) == "executed" {
        (one, two)
    } else {
        (two, one)
    };
    assert_eq!(bytes(own).await, "first second third");
    let told: Value = serde_json::from_slice(&bytes(other).await).unwrap();
    assert_eq!(told["type"], oneflight::http::kind::OUTCOME_ONLY);
    assert_eq!(calls.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_end_begins_all_the_same() {
    let (app, calls) = app(layer(), |_| {
        let piece = Ok::<_, std::io::Error>(Bytes::from("tick"));
        Body::from_stream(futures::stream::once(async { piece }).chain(futures::stream::pending()))
    });
    let response = send(&app, request("k", "tea")).await;
    let mut stream = response.into_body().into_data_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), "tick");
    assert!(stream.next().now_or_never().is_none());
    let again = send(&app, request("k", "tea")).await;
    assert_eq!(origin(&again), "replayed");
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_handler_says_what_becomes_of_its_answer() {
    let (app, calls) = app(layer(), |call| match call {
        1 => (StatusCode::BAD_GATEWAY, Outcome::NothingDone, "try again").into_response(),
        _ => (Outcome::OutcomeOnly, Json(json!({"token": "t-4711"}))).into_response(),
    });
    let first = send(&app, request("k", "tea")).await;
    assert_eq!((first.status(), origin(&first)), (StatusCode::BAD_GATEWAY, "executed"));
    assert_eq!(bytes(first).await, "try again");
    let second = send(&app, request("k", "tea")).await;
    assert_eq!(bytes(second).await, r#"{"token":"t-4711"}"#);
    let again = send(&app, request("k", "tea")).await;
    assert_eq!((again.status(), origin(&again)), (StatusCode::OK, "replayed"));
    assert!(!String::from_utf8_lossy(&bytes(again).await).contains("t-4711"));
    assert_eq!(calls.count(), 2);
}

#[tokio::test]
async fn which_answers_are_recorded_is_a_policy() {
    for (recording, status, recorded) in [
        (Recording::answers(), StatusCode::NOT_FOUND, true),
        (Recording::answers(), StatusCode::INTERNAL_SERVER_ERROR, true),
        (Recording::answers(), StatusCode::SERVICE_UNAVAILABLE, false),
        (Recording::answers(), StatusCode::TOO_MANY_REQUESTS, false),
        (Recording::answers(), StatusCode::TOO_EARLY, false),
        (Recording::successes(), StatusCode::SEE_OTHER, true),
        (Recording::successes(), StatusCode::NOT_FOUND, false),
        (Recording::by(|_| Outcome::NothingDone), StatusCode::OK, false),
    ] {
        let (app, calls) = app(layer().recording(recording.clone()), move |_| (status, "told"));
        for _ in 0..2 {
            let response = send(&app, request("k", "tea")).await;
            assert_eq!(response.status(), status);
            assert_eq!(bytes(response).await, "told");
        }
        assert_eq!(calls.count(), if recorded { 1 } else { 2 }, "{recording:?} {status}");
    }
}

#[tokio::test]
async fn an_answer_with_cookies_can_be_kept_as_an_outcome_only() {
    let (app, calls) = app(layer().cookies(Cookies::OutcomeOnly), |_| {
        ([("set-cookie", "a=1")], "welcome")
    });
    assert_eq!(bytes(send(&app, request("k", "tea")).await).await, "welcome");
    let again = send(&app, request("k", "tea")).await;
    assert!(!again.headers().contains_key("set-cookie"));
    assert_ne!(bytes(again).await, "welcome");
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_body_that_is_too_large_or_too_slow_is_not_waited_for() {
    let limited = layer().max_request_bytes(3).request_time(Duration::from_millis(20));
    let (app, calls) = app(limited, |call| call.to_string());
    let large = send(&app, request("k", "coffee")).await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let slow = send(&app, request("k", never)).await;
    assert_eq!(slow.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(calls.count(), 0);
}

#[tokio::test]
async fn trailers_are_replayed() {
    let (app, calls) = app(layer(), |_| {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        Body::new(http_body_util::Full::from("message").with_trailers(async move { Some(Ok(trailers)) }))
    });
    for _ in 0..2 {
        let response = send(&app, request("k", "tea")).await;
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "message");
    }
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_layer_within_a_layer_lets_the_request_pass() {
    let (app, calls) = app(layer(), |call| call.to_string());
    let app = app.layer(layer());
    for expected in ["executed", "replayed"] {
        let response = send(&app, request("k", "tea")).await;
        assert_eq!((origin(&response), response.status()), (expected, StatusCode::OK));
        assert_eq!(bytes(response).await, "1");
    }
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_rejection_of_a_checked_extractor_frees_the_key() {
    let handler = |Checked(Json(item)): Checked<Json<String>>| async move { item };
    let app = Router::new().route("/orders", post(handler)).layer(layer());
    let json = |body: &'static str| {
        let mut request = request("k", body);
        request
            .headers_mut()
            .insert("content-type", "application/json".parse().unwrap());
        request
    };
    assert_eq!(send(&app, json("tea")).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(bytes(send(&app, json("\"tea\"")).await).await, "tea");
}

#[tokio::test]
async fn a_service_that_fails_without_an_answer_leaves_the_key_in_doubt() {
    type Wire = UnsyncBoxBody<Bytes, std::convert::Infallible>;
    let inner =
        tower::service_fn(|_: Request<Wire>| async { Err::<Response<Wire>, _>(std::io::Error::other("reset")) });
    let service = layer().layer(inner);
    let send = || {
        let request = Request::post("/orders").header("idempotency-key", "k");
        service
            .clone()
            .oneshot(request.body(http_body_util::Empty::new().boxed_unsync()).unwrap())
    };
    assert_eq!(send().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(send().await.unwrap().status(), StatusCode::CONFLICT);
}
