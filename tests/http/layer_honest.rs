//! Promise 19: what the layer says of a request is true, also where the handler's answer cannot be had.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::http::{Calls, app, bytes, layer, origin, request, send};
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Extension, Router};
use futures::join;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use oneflight::http::layer::{Checked, Cookies, Failure, IdempotencyLayer, Outcome, Recording};
use oneflight::http::{KeySource, kind, require_key};
use oneflight::idempotency::{Codec, Context, Format};
use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, Service, ServiceExt};

async fn type_of(response: Response<Body>) -> String {
    let problem: Value = serde_json::from_slice(&bytes(response).await).unwrap();
    problem["type"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_answer_that_was_cut_off_in_the_handler_leaves_the_key_in_doubt() {
    for recording in [Recording::answers(), Recording::successes()] {
        for status in [StatusCode::REQUEST_TIMEOUT, StatusCode::GATEWAY_TIMEOUT] {
            let (app, calls) = app(layer().recording(recording.clone()), move |_| status);
            assert_eq!(send(&app, request("k", "tea")).await.status(), status);
            let again = send(&app, request("k", "tea")).await;
            assert_eq!((again.status(), calls.count()), (StatusCode::CONFLICT, 1));
        }
    }
}

#[tokio::test]
async fn a_client_that_shares_is_not_told_that_something_was_done_where_nothing_was() {
    let layer = layer().cookies(Cookies::OutcomeOnly);
    let (app, _) = app(layer, |_| {
        (StatusCode::SERVICE_UNAVAILABLE, [("set-cookie", "a=1")], "later")
    });
    let (one, two) = join!(send(&app, request("k", "tea")), send(&app, request("k", "tea")));
    let shared = if origin_or_none(&one).is_none() { one } else { two };
    assert!(shared.headers().contains_key("retry-after"));
    assert_eq!(type_of(shared).await, kind::NOT_DONE);
}

fn origin_or_none(response: &Response<Body>) -> Option<&str> {
    response
        .headers()
        .get("idempotency-origin")
        .map(|origin| origin.to_str().unwrap())
}

#[tokio::test]
async fn an_answer_whose_body_breaks_off_is_not_recorded_as_a_success() {
    let (app, calls) = app(layer(), |_| {
        let pieces = [Ok(Bytes::from("row 1")), Err(std::io::Error::other("row 2"))];
        Body::from_stream(futures::stream::iter(pieces))
    });
    let first = send(&app, request("k", "tea")).await;
    assert_eq!(first.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(type_of(first).await, kind::OUTCOME_UNKNOWN);
    assert_eq!(send(&app, request("k", "tea")).await.status(), StatusCode::CONFLICT);
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_secret_answer_is_not_waited_for() {
    let (app, _) = app(layer(), |_| {
        let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        (Outcome::OutcomeOnly, Body::from_stream(never)).into_response()
    });
    let answered = tokio::time::timeout(Duration::from_secs(2), send(&app, request("k", "tea"))).await;
    assert_eq!(answered.expect("its head is there").status(), StatusCode::OK);
}

#[tokio::test]
async fn a_function_that_panics_over_an_answer_does_not_have_it_executed_again() {
    let (app, calls) = app(layer().recording(Recording::by(|_| panic!("a bug"))), |call| {
        call.to_string()
    });
    assert_eq!(bytes(send(&app, request("k", "tea")).await).await, "1");
    let again = send(&app, request("k", "tea")).await;
    assert_eq!((origin(&again), calls.count()), ("replayed", 1));
}

#[tokio::test]
async fn a_parameter_that_is_renamed_by_a_deploy_keeps_its_keys() {
    let idem = Idempotency::builder(MemoryStore::new()).build();
    let version = |route: &str| {
        let layer = IdempotencyLayer::new(idem.clone()).unscoped();
        Router::new().route(route, post(|| async { "paid" })).route_layer(layer)
    };
    let pay = || {
        Request::post("/orders/7")
            .header("idempotency-key", "k")
            .body(Body::empty())
            .unwrap()
    };
    assert_eq!(origin(&send(&version("/orders/{id}"), pay()).await), "executed");
    assert_eq!(origin(&send(&version("/orders/{order}"), pay()).await), "replayed");
    assert_eq!(origin(&send(&version("/orders/{*rest}"), pay()).await), "executed");
}

#[tokio::test]
async fn requests_within_a_request_are_executed_under_keys_of_their_own() {
    let calls = Calls::default();
    let counted = calls.clone();
    let one: Router = Router::new()
        .route("/one", post(move || async move { counted.next().to_string() }))
        .route_layer(layer());
    let batch = |Extension(inner): Extension<Router>, context: Context, headers: HeaderMap| async move {
        let mut answers = String::new();
        for key in ["a", "a", "b"] {
            let mut part = Request::post("/one").body(Body::empty()).unwrap();
            *part.headers_mut() = headers.clone();
            part.headers_mut().insert("idempotency-key", key.parse().unwrap());
            part.extensions_mut().insert(context.clone());
            answers += str::from_utf8(&bytes(send(&inner, part).await).await).unwrap();
        }
        answers
    };
    let app = Router::new()
        .route("/orders", post(batch))
        .route_layer(layer())
        .layer(Extension(one));
    assert_eq!(bytes(send(&app, request("k", "tea")).await).await, "112");
    assert_eq!(calls.count(), 2);
}

#[tokio::test]
async fn a_key_that_cannot_be_seen_in_an_encoded_body_does_not_pass_for_none() {
    let (app, calls) = app(layer().keys(KeySource::new().field("key")), |call| call.to_string());
    let encoded = Request::post("/orders")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip");
    let response = send(&app, encoded.body(Body::from("not looked at")).unwrap()).await;
    assert_eq!(
        (response.status(), calls.count()),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, 0)
    );
}

#[tokio::test]
async fn an_extractor_of_the_head_can_be_checked_as_well() {
    let handler = |Checked(Query(item)): Checked<Query<Vec<(String, u32)>>>| async move { format!("{item:?}") };
    let app = Router::new()
        .route("/orders", post(handler))
        .route_layer(layer().route(|_| "all".into()));
    let order = |query: &str| {
        let request = Request::post(format!("/orders?{query}")).header("idempotency-key", "k");
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(send(&app, order("tea=many")).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(send(&app, order("tea=2")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_conditional_request_that_is_mended_is_another_one() {
    let (app, _) = app(layer(), |_| StatusCode::PRECONDITION_FAILED);
    let with = |tag: &str| {
        let mut request = request("k", "tea");
        request.headers_mut().insert("if-match", tag.parse().unwrap());
        request
    };
    assert_eq!(
        send(&app, with("\"1\"")).await.status(),
        StatusCode::PRECONDITION_FAILED
    );
    assert_eq!(
        send(&app, with("\"2\"")).await.status(),
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

/// Stands for a codec that authenticates.
struct Sealed;

impl Format for Sealed {
    const NAME: &'static str = "sealed";
}

impl Codec<Vec<u8>> for Sealed {
    fn encode(&self, bytes: &Vec<u8>) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok([b"seal:", &bytes[..]].concat())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(bytes.strip_prefix(b"seal:").ok_or("it is forged")?.to_vec())
    }
}

#[tokio::test]
async fn an_answer_without_a_seal_is_not_taken_for_one_that_has_it() {
    let store = MemoryStore::new();
    let plain = IdempotencyLayer::new(Idempotency::builder(store.clone()).build()).unscoped();
    let sealed = IdempotencyLayer::new(Idempotency::builder(store).codec(Sealed).build()).unscoped();
    let (forger, _) = app(plain, |_| "forged");
    let (service, calls) = app(sealed, |_| "true");
    assert_eq!(bytes(send(&forger, request("k", "tea")).await).await, "forged");
    assert_eq!(
        send(&service, request("k", "tea")).await.status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
    // Its own are read again.
    for expected in ["executed", "replayed"] {
        let response = send(&service, request("l", "tea")).await;
        assert_eq!(origin(&response), expected);
        assert_eq!(bytes(response).await, "true");
    }
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn duplicates_that_wait_hold_nothing_that_the_handler_needs() {
    type Wire = UnsyncBoxBody<Bytes, std::convert::Infallible>;
    let inner = tower::service_fn(|_: Request<Wire>| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<Response<Wire>, std::convert::Infallible>(Response::new(http_body_util::Empty::new().boxed_unsync()))
    });
    let service = layer().layer(tower::limit::ConcurrencyLimit::new(inner, 1));
    let send = |key: &str| {
        let request = Request::post("/orders").header("idempotency-key", key);
        let request = request.body(http_body_util::Empty::new().boxed_unsync()).unwrap();
        service.clone().oneshot(request)
    };
    // The body of this one does not come.
    let stuck: Wire = http_body_util::StreamBody::new(futures::stream::pending()).boxed_unsync();
    let stuck = Request::post("/orders")
        .header("idempotency-key", "stuck")
        .body(stuck)
        .unwrap();
    let stuck = tokio::spawn(service.clone().oneshot(stuck));
    tokio::task::yield_now().await;
    let all = futures::future::join_all((0..10).map(|_| send("k")));
    let answers = tokio::time::timeout(Duration::from_secs(5), all)
        .await
        .expect("nothing is held");
    assert!(
        answers
            .into_iter()
            .all(|answer| answer.unwrap().status() == StatusCode::OK)
    );
    stuck.abort();
}

#[tokio::test]
async fn a_service_with_room_for_one_request_answers() {
    type Wire = UnsyncBoxBody<Bytes, std::convert::Infallible>;
    let inner = tower::service_fn(|_: Request<Wire>| async {
        Ok::<Response<Wire>, std::convert::Infallible>(Response::new(http_body_util::Empty::new().boxed_unsync()))
    });
    let mut service = layer().layer(tower::limit::ConcurrencyLimit::new(inner, 1));
    for key in ["a", "a", "b"] {
        let request = Request::post("/orders").header("idempotency-key", key);
        let request = request.body(http_body_util::Empty::new().boxed_unsync()).unwrap();
        // A connection keeps the service for its next request.
        let answered = async { service.ready().await.unwrap().call(request).await };
        let answered = tokio::time::timeout(Duration::from_secs(5), answered)
            .await
            .expect("it does not wait for itself");
        assert_eq!(answered.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn an_answer_of_another_service_that_is_handed_on_is_not_marked_as_replayed() {
    let lines = [
        ("idempotency-replayed", "true"),
        ("idempotency-original-date", "then"),
        ("idempotency-origin", "replayed"),
    ];
    let (app, _) = app(layer(), move |_| (lines, "handed on"));
    let first = send(&app, request("k", "tea")).await;
    assert_eq!(origin(&first), "executed");
    assert!(!first.headers().contains_key("idempotency-replayed"));
    assert!(!first.headers().contains_key("idempotency-original-date"));
}

#[tokio::test]
async fn what_is_found_wrong_while_the_handler_reads_frees_the_key() {
    let handler = |body: String| async move {
        match body.as_str() {
            "tea" => Ok("tea"),
            _ => Err(Failure::rejected(StatusCode::BAD_REQUEST)),
        }
    };
    let app = Router::new().route("/orders", post(handler)).route_layer(layer());
    assert_eq!(send(&app, request("k", "?")).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(bytes(send(&app, request("k", "tea")).await).await, "tea");
}

/// A handler that has no layer, and reads the key itself.
#[tokio::test]
async fn a_mistake_of_the_clients_is_told_as_one_by_a_handler_that_has_no_layer() {
    let orders = Idempotency::builder(MemoryStore::new()).build();
    let handler = async move |headers: HeaderMap, body: String| {
        let key = require_key(&headers, b"")?;
        let id = RequestIdentity::new(Scope::new("shop"), key)?.with_fingerprint(&body);
        let reply = orders.run(id, |_| async { "tea".to_owned() }).await?;
        Ok::<_, Failure>(reply.into_inner())
    };
    let app = Router::new().route("/orders", post(handler));
    let without_a_key = Request::post("/orders").body(Body::empty()).unwrap();
    for (request, status) in [
        (without_a_key, StatusCode::BAD_REQUEST),
        (request("\"a b", "tea"), StatusCode::BAD_REQUEST),
        (request("k", "tea"), StatusCode::OK),
        (request("k", "coffee"), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        assert_eq!(send(&app, request).await.status(), status);
    }
}

#[tokio::test]
async fn trailers_reach_a_client_of_http_1() {
    let (app, _) = app(layer(), |_| {
        let trailers = HeaderMap::from_iter([
            ("checksum".parse().unwrap(), "7".parse().unwrap()),
            ("server-timing".parse().unwrap(), "db".parse().unwrap()),
        ]);
        let body = http_body_util::Full::from("message").with_trailers(async move { Some(Ok(trailers)) });
        ([("trailer", "checksum")], Body::new(body))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    for expected in ["executed", "replayed"] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = "POST /orders HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nTE: trailers\r\nConnection: close\r\n\
                    Content-Length: 0\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(&format!("idempotency-origin: {expected}")), "{answer}");
        assert!(answer.contains("message") && answer.contains("checksum: 7"), "{answer}");
        assert!(
            expected == "executed" || !answer.contains("server-timing: db"),
            "{answer}"
        );
    }
    server.abort();
}
