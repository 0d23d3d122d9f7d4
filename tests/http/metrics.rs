//! Promise 20, for the layer: all that it does with requests is counted, under names and labels that have a bound.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use futures::{FutureExt, join};
use metrics_util::debugging::DebuggingRecorder;
use oneflight::http::layer::{IdempotencyLayer, Outcome, RouteName};
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError};
use oneflight::{Idempotency, MemoryStore, RequestIdentity};
use tokio::sync::{Notify, Semaphore};
use tower::ServiceExt;

use crate::recorder::{Broken, Seen, listed, run};

fn layer() -> IdempotencyLayer {
    IdempotencyLayer::new(Idempotency::builder(MemoryStore::new()).build()).unscoped()
}

fn app(
    layer: IdempotencyLayer,
    answer: impl Fn() -> axum::response::Response + Clone + Send + Sync + 'static,
) -> Router {
    let handler = move |_: Bytes| {
        let answer = answer();
        async move { answer }
    };
    Router::new().route("/orders/{id}", post(handler)).layer(layer)
}

fn request(key: Option<&str>, body: &'static str) -> Request<Body> {
    let mut request = Request::post("/orders/17");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(Body::from(body)).unwrap()
}

async fn send(app: &Router, key: &str, body: &'static str) -> StatusCode {
    app.clone().oneshot(request(Some(key), body)).await.unwrap().status()
}

#[test]
fn each_request_with_a_key_is_counted_once_by_what_became_of_it() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run(&recorder, async {
        let cookies = || ([("set-cookie", "a=1")], "tea").into_response();
        let app = app(layer().required(), cookies);
        let (one, two) = join!(send(&app, "k-1", "tea"), send(&app, "k-1", "tea"));
        assert_eq!((one, two), (StatusCode::OK, StatusCode::OK));
        send(&app, "k-1", "tea").await;
        assert_eq!(send(&app, "k-1", "coffee").await, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(send(&app, "k 1 ", "tea").await, StatusCode::BAD_REQUEST);
        let bare = app.clone().oneshot(request(None, "tea")).await.unwrap();
        assert_eq!(bare.status(), StatusCode::BAD_REQUEST);
    });
    metrics.expect(&[
        (
            r#"oneflight_requests_total{route="/orders/{id}",origin="executed"}"#,
            1.0,
        ),
        (
            r#"oneflight_requests_total{route="/orders/{id}",origin="collapsed"}"#,
            1.0,
        ),
        (
            r#"oneflight_requests_total{route="/orders/{id}",origin="replayed"}"#,
            1.0,
        ),
        (r#"oneflight_cookies_dropped_total{route="/orders/{id}"}"#, 1.0),
        (r#"oneflight_conflicts_total{route="/orders/{id}"}"#, 1.0),
        (
            r#"oneflight_refused_total{route="/orders/{id}",kind="key_malformed"}"#,
            1.0,
        ),
        (
            r#"oneflight_refused_total{route="/orders/{id}",kind="key_missing"}"#,
            1.0,
        ),
    ]);
}

/// Prometheus takes a counter that appears as one that has not increased.
#[test]
fn what_is_counted_of_a_route_is_there_with_zero_before_it_counts() {
    let table = listed(include_str!("../../src/telemetry/metrics.md"));
    let names: BTreeSet<_> = table.into_keys().collect();
    let breaks = || {
        let pieces = [Ok(Bytes::from("row 1")), Err(std::io::Error::other("row 2"))];
        Body::from_stream(futures::stream::iter(pieces)).into_response()
    };
    let doubt = r#"oneflight_refused_total{route="/orders/{id}",kind="outcome_unknown"}"#;
    let told = r#"oneflight_in_doubt_total{route="/orders/{id}"}"#;

    // Told of when the service starts.
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    let announced = run(&recorder, async {
        let app = app(layer(), breaks);
        RouteName::new("/orders/{id}").announce();
        let (announced, series) = metrics.at_zero();
        assert_eq!(announced, names);
        // A request without a key is none of ours.
        app.clone().oneshot(request(None, "tea")).await.unwrap();
        assert_eq!(metrics.at_zero().1, series);
        for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::CONFLICT] {
            assert_eq!(send(&app, "k-1", "tea").await, status);
        }
        series
    });
    let after = metrics.all();
    assert!(
        after.keys().eq(announced.iter()),
        "a series that appears: {announced:#?}, {after:#?}"
    );
    metrics.expect(&[(doubt, 1.0), (told, 1.0)]);

    // And otherwise by the first request with a key.
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run(&recorder, async {
        let app = app(layer(), || "tea".into_response());
        app.clone().oneshot(request(None, "tea")).await.unwrap();
        assert!(metrics.all().is_empty());
        send(&app, "k-1", "tea").await;
    });
    assert!(metrics.all().keys().eq(announced.iter()), "{:#?}", metrics.all());
}

#[test]
fn what_is_in_doubt_and_what_has_no_body_is_counted_as_that() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run(&recorder, async {
        let unknown = app(layer(), || {
            (StatusCode::BAD_GATEWAY, Outcome::Unknown, "?").into_response()
        });
        assert_eq!(send(&unknown, "k-1", "tea").await, StatusCode::BAD_GATEWAY);
        assert_eq!(send(&unknown, "k-1", "tea").await, StatusCode::CONFLICT);
        let secret = app(layer(), || (Outcome::OutcomeOnly, "hush").into_response());
        for _ in 0..2 {
            assert_eq!(send(&secret, "k-1", "tea").await, StatusCode::OK);
        }
    });
    metrics.expect(&[
        (
            r#"oneflight_requests_total{route="/orders/{id}",origin="executed"}"#,
            2.0,
        ),
        (
            r#"oneflight_requests_total{route="/orders/{id}",origin="replayed"}"#,
            1.0,
        ),
        (r#"oneflight_in_doubt_total{route="/orders/{id}"}"#, 1.0),
        (r#"oneflight_outcome_only_total{route="/orders/{id}"}"#, 1.0),
    ]);
}

/// A service whose handler waits for a permit.
fn gated() -> (Router, Arc<Semaphore>, Arc<Notify>) {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (permits, tell) = (Arc::clone(&gate), Arc::clone(&begun));
    let handler = move |_: Bytes| {
        let (permits, tell) = (Arc::clone(&permits), Arc::clone(&tell));
        async move {
            tell.notify_one();
            permits.acquire().await.unwrap().forget();
            "twelve bytes"
        }
    };
    let app = Router::new().route("/orders/{id}", post(handler)).layer(layer());
    (app, gate, begun)
}

#[test]
fn gauges_rise_while_requests_wait_and_fall_when_they_are_answered_or_hang_up() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run(&recorder, async {
        let (app, gate, begun) = gated();
        let call = || Box::pin(app.clone().oneshot(request(Some("k-1"), "tea")));
        let (mut first, mut second, mut third) = (call(), call(), call());
        for call in [&mut first, &mut second, &mut third] {
            assert!(call.now_or_never().is_none());
        }
        begun.notified().await;
        metrics.expect(&[
            (r#"oneflight_waiters{route="/orders/{id}"}"#, 3.0),
            (r#"oneflight_in_flight{route="/orders/{id}"}"#, 1.0),
        ]);
        // Hanging up stops nothing.
        drop(first);
        let left = metrics.now();
        assert_eq!(left[r#"oneflight_waiters{route="/orders/{id}"}"#], 2.0);
        assert_eq!(left[r#"oneflight_in_flight{route="/orders/{id}"}"#], 1.0);
        gate.add_permits(1);
        let second = second.await.unwrap();
        let held = metrics.now();
        assert_eq!(held["oneflight_bytes_held{}"], 12.0, "{held:?}");
        assert_eq!(held.get(r#"oneflight_in_flight{route="/orders/{id}"}"#), None);
        let third = third.await.unwrap();
        drop((second, third));
        drop(app);
    });
    let gauges: Vec<_> = metrics
        .now()
        .into_iter()
        .filter(|(name, _)| !name.contains("_total"))
        .collect();
    assert_eq!(gauges, []);
}

/// A store that is not there.
#[derive(Clone)]
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
fn a_store_that_is_away_is_counted() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run(&recorder, async {
        let away = IdempotencyLayer::new(Idempotency::builder(Away).build()).unscoped();
        let app = app(away, || "tea".into_response());
        assert_eq!(send(&app, "k-1", "tea").await, StatusCode::SERVICE_UNAVAILABLE);
    });
    metrics.expect(&[
        (r#"oneflight_store_errors_total{route="/orders/{id}"}"#, 1.0),
        (
            r#"oneflight_refused_total{route="/orders/{id}",kind="unavailable"}"#,
            1.0,
        ),
    ]);
}

#[test]
fn a_path_that_no_route_matched_is_no_label_and_what_passes_is_not_counted() {
    let recorder = DebuggingRecorder::new();
    let metrics = Seen::by(&recorder);
    run(&recorder, async {
        let fallback = Router::new().fallback(|| async { "anything" }).layer(layer());
        let request = |path: &str| Request::post(path).header("idempotency-key", "k-1").body(Body::empty());
        for path in ["/a", "/b", "/c"] {
            fallback.clone().oneshot(request(path).unwrap()).await.unwrap();
        }
        let open = app(layer(), || "tea".into_response());
        open.oneshot(self::request(None, "tea")).await.unwrap();
    });
    metrics.expect(&[(r#"oneflight_requests_total{route="",origin="executed"}"#, 3.0)]);
}

#[test]
fn a_recorder_that_panics_disturbs_no_request() {
    run(&Broken, async {
        let app = app(layer().required(), || "tea".into_response());
        for _ in 0..2 {
            assert_eq!(send(&app, "k-1", "tea").await, StatusCode::OK);
        }
        assert_eq!(send(&app, "k-1", "coffee").await, StatusCode::UNPROCESSABLE_ENTITY);
        let bare = app.clone().oneshot(request(None, "tea")).await.unwrap();
        assert_eq!(bare.status(), StatusCode::BAD_REQUEST);
    });
}
