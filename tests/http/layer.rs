//! Promises 17 and 19: the layer executes a request once, and answers its duplicates; what it cannot keep, it does not execute
//! again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};
use futures::{FutureExt, StreamExt, join};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use oneflight::http::layer::{Checked, Outcome};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};

use crate::http::{Gated, app, bytes, gated, keyless, layer, origin, request, send, unread};

#[tokio::test]
async fn a_request_without_a_key_passes_through_and_is_not_read() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let handler = move |_: Request<Body>| {
        let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move { call.to_string() }
    };
    let app = Router::new().route("/orders", post(handler)).layer(layer());
    for expected in ["1", "2"] {
        let response = send(&app, keyless(unread())).await;
        assert_eq!(origin(&response), "");
        assert_eq!(bytes(response).await, expected);
    }
}

#[tokio::test]
async fn duplicates_in_flight_share_one_answer_and_its_bytes() {
    let Gated {
        app,
        calls,
        gate,
        begun,
    } = gated(layer());
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
    let Gated {
        app,
        calls,
        gate,
        begun,
    } = gated(layer());
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
