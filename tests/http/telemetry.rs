//! Promise 20, for the layer: a request with a key has a span that says what became of it, and no line shows a whole key.
//!
//! Alone in its program: a thread without a subscriber that makes a span first would have it switched off for all.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::lines::{Lines, beside_other_tests};
use crate::scripted::Scripted;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::join;
use oneflight::http::layer::{Failure, IdempotencyLayer, Outcome};
use oneflight::http::{CorrelationLayer, KeySource, Problem};
use oneflight::store::{ClaimOutcome, ClaimRequest, Store};
use oneflight::{Idempotency, MemoryStore, Recovery, RequestIdentity, Scope, Tx};
use tower::ServiceExt;
use tracing::instrument::WithSubscriber;
use tracing_subscriber::fmt::format::FmtSpan;

const KEY: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";

/// What a log may show of it.
const REDACTED: &str = "8e03…238c5b6d [everybody|route=POST /orders/{}]";

/// Does what the body says.
async fn handle(body: Bytes) -> Result<Response, Failure> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    tracing::info!(
        "the handler was asked: {}",
        String::from_utf8_lossy(&body[..body.len().min(7)])
    );
    Ok(match &body[..] {
        b"panic" => panic!("out of paper"),
        b"fail" => return Err(Failure::because("no such account")),
        b"unknown" => (StatusCode::BAD_GATEWAY, Outcome::Unknown, "?").into_response(),
        b"nothing" => (StatusCode::SERVICE_UNAVAILABLE, "later").into_response(),
        b"invalid" => Problem::new(StatusCode::UNPROCESSABLE_ENTITY).into_response(),
        _ => "tea".into_response(),
    })
}

fn app(layer: IdempotencyLayer) -> Router {
    let app = Router::new().route("/orders/{id}", post(handle));
    app.layer(layer.unscoped()).layer(CorrelationLayer::new())
}

async fn send(app: &Router, key: &str, content_type: &str, body: impl Into<Body>) -> StatusCode {
    let request = Request::post("/orders/17")
        .header("idempotency-key", key)
        .header("content-type", content_type)
        .header("x-correlation-id", "edge-5f2c");
    let request = request.body(body.into()).unwrap();
    app.clone().oneshot(request).await.unwrap().status()
}

async fn text(app: &Router, body: &'static str) -> StatusCode {
    send(app, KEY, "text/plain", body).await
}

fn of(store: &MemoryStore) -> Idempotency<MemoryStore> {
    Idempotency::builder(store.clone()).build()
}

/// Requests of all kinds, each of which has the key.
async fn everything() {
    let kept = app(IdempotencyLayer::new(of(&MemoryStore::new())));
    let (one, two) = join!(text(&kept, "tea"), text(&kept, "tea"));
    assert_eq!((one, two), (StatusCode::OK, StatusCode::OK));
    assert_eq!(text(&kept, "tea").await, StatusCode::OK);
    assert_eq!(text(&kept, "coffee").await, StatusCode::UNPROCESSABLE_ENTITY);
    for malformed in [
        format!("\"{KEY}"),
        format!("{KEY}, {KEY}"),
        format!("{KEY} {KEY}"),
        KEY.repeat(9),
    ] {
        assert_eq!(
            send(&kept, &malformed, "text/plain", "tea").await,
            StatusCode::BAD_REQUEST
        );
    }
    for (said, status) in [
        ("panic", StatusCode::INTERNAL_SERVER_ERROR),
        ("fail", StatusCode::SERVICE_UNAVAILABLE),
        ("unknown", StatusCode::BAD_GATEWAY),
        ("nothing", StatusCode::SERVICE_UNAVAILABLE),
        ("invalid", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let app = app(IdempotencyLayer::new(of(&MemoryStore::new())));
        assert_eq!(text(&app, said).await, status, "{said}");
        // Replayed, in doubt, or executed again.
        text(&app, said).await;
    }
    let in_body = KeySource::new().field("key");
    let in_body = app(IdempotencyLayer::new(of(&MemoryStore::new())).keys(in_body));
    let json = [
        format!("{{\"key\": \"{KEY}\"}}"),
        format!("{{\"key\": \"{KEY}"),
        format!("[\"{KEY}\"]"),
        format!("{{\"key\": [\"{KEY}\"]}}"),
    ];
    for body in json {
        send(&in_body, KEY, "application/json", body).await;
    }
    let impatient = app(IdempotencyLayer::new(of(&MemoryStore::new())).wait(Duration::ZERO));
    let (one, two) = join!(text(&impatient, "tea"), text(&impatient, "tea"));
    assert_eq!((one, two), (StatusCode::OK, StatusCode::CONFLICT));

    // A transaction is asked for without a layer, and where the layer has none.
    let lost = || Router::new().route("/orders/{id}", post(async |_: Tx<Scripted>| "tea"));
    for app in [
        lost(),
        lost().layer(IdempotencyLayer::new(of(&MemoryStore::new())).unscoped()),
    ] {
        assert_eq!(text(&app, "tea").await, StatusCode::INTERNAL_SERVER_ERROR);
    }

    let store = MemoryStore::new();
    let id = RequestIdentity::new(Scope::new("everybody").route("POST /orders/{}"), KEY).unwrap();
    let dead = store.claim(ClaimRequest::new(&id, Duration::ZERO)).await;
    assert!(matches!(dead, Ok(ClaimOutcome::Granted(_))));
    let rerun = Idempotency::builder(store).recovery(Recovery::Rerun);
    let heir = rerun
        .missing_fingerprint(oneflight::idempotency::MissingFingerprint::Accept)
        .build();
    assert_eq!(text(&app(IdempotencyLayer::new(heir)), "tea").await, StatusCode::OK);
}

#[test]
fn a_request_with_a_key_is_seen_whole_but_for_its_key() {
    let lines = Lines::default();
    let subscriber = {
        let lines = lines.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
            .with_ansi(false)
            .with_writer(move || lines.clone())
            .finish()
    };
    beside_other_tests();
    let _default = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(everything().with_current_subscriber());

    for told in ["has no reply", "took over the claim", "the handler was asked"] {
        let told = lines.with(told);
        assert!(
            !told.is_empty() && told.iter().all(|line| line.contains(REDACTED)),
            "{told:#?}"
        );
    }
    let misplaced = lines.with("that it cannot be given");
    assert_eq!(misplaced.len(), 2, "{misplaced:#?}");
    assert!(
        misplaced[0].contains("ERROR") && misplaced[0].contains("no IdempotencyLayer is around"),
        "{misplaced:#?}"
    );
    assert!(misplaced[1].contains("is not `transactional`"), "{misplaced:#?}");
    let whole: Vec<_> = lines.with(&KEY[..12]);
    assert!(whole.is_empty(), "{whole:#?}");

    // The handler's own lines are in the span, with the id that the client sent.
    let asked = &lines.with("the handler was asked: coffee");
    assert!(asked.is_empty(), "{asked:#?}");
    let asked = &lines.with("the handler was asked: tea")[0];
    let span = format!("oneflight.idempotency{{request={REDACTED} route=\"/orders/{{id}}\" correlation_id=edge-5f2c}}");
    assert!(asked.contains(&span), "{asked}");
    // The end says what became of it.
    for (status, origin) in [
        (200, "executed"),
        (200, "collapsed"),
        (200, "replayed"),
        (422, "none"),
        (409, "none"),
        (502, "executed"),
        (500, "none"),
    ] {
        let end = format!("correlation_id=edge-5f2c status={status} origin=\"{origin}\"}}");
        let ends = lines.with(&end);
        assert!(ends.iter().any(|line| line.contains("close")), "{end}: {ends:#?}");
    }
}
