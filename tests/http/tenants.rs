//! Promise 18: another tenant's answer is asked for in every way that a client has, while it is in flight and afterwards, and never
//! given.
//!
//! `http/layer_security.rs` has a test for each requirement; here are the attempts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri};
use oneflight::Scope;
use oneflight::http::layer::IdempotencyLayer;
use oneflight::http::{KEY_FIELD, KeySource, kind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::sync::{Notify, Semaphore};

use crate::http::{Calls, app, bytes, connect, gated, head, layer, origin, problem, request, send, serve};

/// Who was found to have sent a request. No client can set it.
#[derive(Clone)]
struct Tenant(String);

fn of_tenant(layer: IdempotencyLayer) -> IdempotencyLayer {
    layer.scope(|request| request.extensions.get::<Tenant>().map(|tenant| Scope::new(&tenant.0)))
}

fn by(tenant: &str, mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(Tenant(tenant.to_owned()));
    request
}

/// A service that answers each tenant its own secret, whatever the path. The tenant `us` has to wait for a permit.
struct Secrets {
    app: Router,
    gate: Arc<Semaphore>,
    begun: Arc<Notify>,
}

const SECRET: &str = "the secret of us at /orders";

fn secrets() -> Secrets {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (permits, tell) = (Arc::clone(&gate), Arc::clone(&begun));
    let handler = move |request: Request<Body>| {
        let (permits, tell) = (Arc::clone(&permits), Arc::clone(&tell));
        async move {
            let tenant = request.extensions().get::<Tenant>().unwrap().0.clone();
            if tenant == "us" {
                tell.notify_one();
                permits.acquire().await.unwrap().forget();
            }
            format!("the secret of {tenant} at {}", request.uri().path())
        }
    };
    let keys = KeySource::new()
        .alias("x-idempotency-key".parse().unwrap())
        .field(KEY_FIELD);
    let layer = of_tenant(layer().keys(keys).methods([Method::POST, Method::PATCH, Method::PUT]));
    Secrets {
        app: Router::new().fallback(handler).layer(layer),
        gate,
        begun,
    }
}

/// What us sent.
fn original() -> Request<Body> {
    Request::post("/orders")
        .header("idempotency-key", "k")
        .header("authorization", "Bearer of-us")
        .header("cookie", "session=of-us")
        .header("content-type", "application/json")
        .body(Body::from(r#"{"item":"tea"}"#))
        .unwrap()
}

fn with(name: &'static str, value: &str) -> Request<Body> {
    let mut request = original();
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn with_uri(uri: &str) -> Request<Body> {
    let mut request = original();
    *request.uri_mut() = uri.parse::<Uri>().unwrap();
    request
}

fn with_body(key: Option<&'static str>, body: &'static str) -> Request<Body> {
    let mut request = original().map(|_| Body::from(body));
    match key {
        Some(key) => request
            .headers_mut()
            .insert("idempotency-key", HeaderValue::from_static(key)),
        None => request.headers_mut().remove("idempotency-key"),
    };
    request
}

/// Everything that another tenant may send.
fn attempts() -> Vec<Request<Body>> {
    let mut all = vec![original(), with("idempotency-key", "\"k\"")];
    let headers = [
        ("host", "us"),
        ("x-tenant", "us"),
        ("x-tenant-id", "us"),
        ("x-forwarded-user", "us"),
        ("x-forwarded-host", "us"),
        ("x-original-url", "/orders"),
        ("x-rewrite-url", "/orders"),
        ("forwarded", "for=us;host=us"),
        ("authorization", "Bearer of-them"),
        ("cookie", "tenant=us"),
        ("x-idempotency-key", "k"),
        ("idempotency-key", "k|user=us"),
        ("idempotency-key", "us|route=POST /orders|k"),
        ("idempotency-key", "../us/k"),
        ("idempotency-key", "k%00"),
        ("idempotency-key", "K"),
        ("cache-control", "no-cache"),
        ("if-none-match", "*"),
        ("range", "bytes=0-5"),
        ("prefer", "respond-async"),
    ];
    all.extend(headers.map(|(name, value)| with(name, value)));
    let uris = [
        "/orders?",
        "/orders?tenant=us",
        "/orders/",
        "//orders",
        "/./orders",
        "/us/../orders",
        "/%6frders",
        "/orders%00",
        "/orders%2f",
        "/Orders",
        "/orders;tenant=us",
        "/orders|user=us",
        "/orders%7Cuser=us",
        "http://us/orders",
        "http://us:us@shop/orders",
        "https://shop/orders",
    ];
    all.extend(uris.map(with_uri));
    let bodies = [
        (None, r#"{"item":"tea","idempotency_key":"k"}"#),
        (Some("k"), r#"{"item":"tea","idempotency_key":"k"}"#),
        (Some("mine"), r#"{"item":"tea","idempotency_key":"k"}"#),
        (Some("k"), r#"{"item":"tea","idempotency_key":"mine"}"#),
        (None, r#"{"idempotency_key":"mine","idempotency_key":"k"}"#),
        (None, r#"{"item":"tea","idempotency_key":"\u006b"}"#),
        (Some("k"), r#"{"item":"tea","tenant":"us"}"#),
        (Some("k"), ""),
    ];
    all.extend(bodies.map(|(key, body)| with_body(key, body)));
    for method in ["PUT", "PATCH", "DELETE", "GET"] {
        let mut request = with("x-http-method-override", "POST");
        *request.method_mut() = method.parse().unwrap();
        all.push(request);
    }
    for (name, value) in [("idempotency-key", "k"), ("authorization", "Bearer of-them")] {
        let mut request = original();
        request.headers_mut().append(name, value.parse().unwrap());
        all.push(request);
    }
    all
}

/// Names that are made to pass for `us`, or for a part of its scope.
const NAMES: [&str; 22] = [
    "them",
    "US",
    "us ",
    " us",
    "us.",
    "u",
    "uss",
    "us|",
    "|us",
    "us|route=POST /orders",
    "us|route=POST /orders|k",
    "us|user=us",
    "us%7Cuser=us",
    "namespace=us",
    "us/../us",
    "everybody",
    // Cyrillic, full width, a combining mark, marks without width.
    "u\u{455}",
    "\u{ff55}\u{ff53}",
    "us\u{301}",
    "us\u{200b}",
    "\u{feff}us",
    "us\u{202e}",
];

/// Returns what comes without a wait for another request: that one ends later.
async fn at_once<F: Future>(answer: F) -> F::Output {
    let bound = tokio::time::timeout(Duration::from_secs(30), answer);
    bound.await.expect("it waits for another request")
}

/// Returns all that a client sees of an answer.
async fn told(response: Response<Body>) -> String {
    let (parts, body) = response.into_parts();
    let body = bytes(Response::new(body)).await;
    format!(
        "{:?} {:?} {}",
        parts.status,
        parts.headers,
        String::from_utf8_lossy(&body)
    )
}

#[tokio::test]
async fn no_request_of_another_tenant_gets_an_answer_that_is_not_its_own() {
    let Secrets { app, gate, begun } = secrets();
    let first = tokio::spawn({
        let app = app.clone();
        async move { told(send(&app, by("us", original())).await).await }
    });
    begun.notified().await;
    for is_in_flight in [true, false] {
        for name in NAMES {
            for (at, attempt) in attempts().into_iter().enumerate() {
                let sent = format!("{name:?}: {} {} ({at})", attempt.method(), attempt.uri());
                // None waits for what another tenant does.
                let response = at_once(send(&app, by(name, attempt))).await;
                assert!(!response.status().is_server_error(), "{sent}: {response:?}");
                let own = format!("the secret of {name} at ");
                let is_answered = response.status() == StatusCode::OK;
                let told = told(response).await;
                assert!(!told.contains("the secret of us at"), "{sent}: {told}");
                assert_eq!(told.contains(&own), is_answered, "{sent}: {told}");
                // Whether us has used the key is nothing that shows either: the first attempts of each are new.
                if is_in_flight && at == 0 {
                    assert!(told.contains(r#""idempotency-origin": "executed""#), "{sent}: {told}");
                }
            }
        }
        if is_in_flight {
            gate.add_permits(1);
        }
    }
    assert!(first.await.unwrap().contains(SECRET));
    let again = send(&app, by("us", original())).await;
    assert_eq!(origin(&again), "replayed");
    assert!(told(again).await.contains(SECRET));
}

#[tokio::test]
async fn a_principal_that_cannot_be_one_is_refused() {
    let (app, calls) = app(of_tenant(layer()), |_| "done");
    let long = "u".repeat(Scope::MAX_BYTES);
    for (name, status, type_uri) in [
        ("us\0", StatusCode::BAD_REQUEST, kind::SCOPE_MALFORMED),
        ("us\r\nx-tenant: them", StatusCode::BAD_REQUEST, kind::SCOPE_MALFORMED),
        ("us\u{85}", StatusCode::BAD_REQUEST, kind::SCOPE_MALFORMED),
        (&long, StatusCode::BAD_REQUEST, kind::SCOPE_MALFORMED),
        ("", StatusCode::FORBIDDEN, kind::PRINCIPAL_MISSING),
    ] {
        let refused = send(&app, by(name, request("k", "tea"))).await;
        assert_eq!(refused.status(), status, "{name:.20}");
        assert_eq!(problem(refused).await["type"], type_uri, "{name:.20}");
    }
    assert_eq!(calls.count(), 0);
}

/// Requests whose only difference is who says to send them.
fn credentials() -> Vec<Vec<&'static str>> {
    vec![
        vec![],
        vec![""],
        vec!["Bearer two"],
        vec!["bearer one"],
        vec!["Bearer one "],
        vec!["Bearer  one"],
        vec!["Bearer one", "Bearer one"],
        vec!["Bearer one", "Bearer two"],
        vec!["Bearer two", "Bearer one"],
        vec!["Bearer one, Bearer two"],
        vec!["Bearer ", "one"],
    ]
}

fn with_credentials(lines: &[&str]) -> Request<Body> {
    let mut request = request("k", "tea");
    for line in lines {
        request
            .headers_mut()
            .append("authorization", HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    request
}

#[tokio::test]
async fn without_a_scope_other_credentials_are_a_conflict_and_never_an_answer() {
    let shop = gated(layer());
    let first = tokio::spawn({
        let app = shop.app.clone();
        async move { bytes(send(&app, with_credentials(&["Bearer one"])).await).await }
    });
    shop.begun.notified().await;
    for is_in_flight in [true, false] {
        for lines in credentials() {
            let response = at_once(send(&shop.app, with_credentials(&lines))).await;
            assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{lines:?}");
            assert_eq!(problem(response).await["type"], kind::KEY_REUSED);
        }
        if is_in_flight {
            shop.gate.add_permits(1);
        }
        assert_eq!(
            bytes(send(&shop.app, with_credentials(&["Bearer one"])).await).await,
            "order 1"
        );
    }
    assert_eq!(first.await.unwrap(), "order 1");
    assert_eq!(shop.calls.count(), 1);
}

#[tokio::test]
async fn credentials_that_differ_are_told_apart_in_each_pair() {
    let mut all = credentials();
    all.push(vec!["Bearer one"]);
    for one in &all {
        let (app, calls) = app(layer(), |call| call.to_string());
        assert_eq!(origin(&send(&app, with_credentials(one)).await), "executed");
        for other in &all {
            let response = send(&app, with_credentials(other)).await;
            assert_eq!(origin(&response) == "replayed", one == other, "{one:?} {other:?}");
        }
        assert_eq!(calls.count(), 1);
    }
}

#[tokio::test]
async fn an_absolute_uri_of_another_host_is_no_other_tenant() {
    let calls = Calls::default();
    let counted = calls.clone();
    let handler = move |_: Bytes| {
        let call = counted.next();
        async move { call.to_string() }
    };
    // The tenant is the connection's, as with a certificate of the client's.
    let served = async |tenant: &'static str, layer: IdempotencyLayer| {
        let identify = move |mut request: Request<Body>| {
            request.extensions_mut().insert(Tenant(tenant.to_owned()));
            request
        };
        let app = Router::new().route("/orders", axum::routing::post(handler.clone()));
        serve(app.layer(layer).layer(tower::util::MapRequestLayer::new(identify))).await
    };
    let shared = of_tenant(layer());
    let (us, them) = (served("us", shared.clone()).await, served("them", shared).await);
    for (address, target, expected) in [
        (us, "/orders", "executed"),
        (them, "http://us/orders", "executed"),
        (them, "http://us:1@us/orders", "replayed"),
        (them, "/orders", "replayed"),
        (us, "http://them/orders", "replayed"),
    ] {
        let raw = format!("POST {target} HTTP/1.1\r\nhost: us\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n");
        let head = head(&mut connect(address, &raw).await).await;
        assert!(
            head.contains(&format!("idempotency-origin: {expected}")),
            "{target}: {head}"
        );
    }
    assert_eq!(calls.count(), 2);
}

/// Who asks for what: everything that a record must not be shared across.
type Asked = (String, Option<String>, bool, String);

/// Few of each, so that most attempts differ from another one in one part, and of the characters that separate parts somewhere.
fn attempts_of_few() -> impl Strategy<Value = Vec<Asked>> {
    let name = || {
        prop_oneof![
            Just("a".to_owned()),
            Just("a|user=b".to_owned()),
            Just("a|route=POST /".to_owned()),
            "[ab|=%7Cu. /]{1,3}",
        ]
    };
    let user = proptest::option::of(name());
    let path = prop_oneof![Just("/".to_owned()), "/[ab|=%7C./;:@]{0,3}"];
    let few = (vec(name(), 2), vec(user, 2), vec(path, 2));
    few.prop_flat_map(|(names, users, paths)| {
        let asked = (select(names), select(users), any::<bool>(), select(paths));
        vec(asked, 20)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    /// 50 histories of 20 attempts.
    #[test]
    fn two_principals_routes_or_methods_never_share_a_record(attempts in attempts_of_few()) {
        #[derive(Clone)]
        struct By(String, Option<String>);
        let scoped = layer().scope(|request| {
            let By(tenant, user) = request.extensions.get::<By>()?;
            let scope = Scope::new(tenant);
            Some(match user {
                Some(user) => scope.user(user),
                None => scope,
            })
        });
        let calls = Calls::default();
        let counted = calls.clone();
        let handler = move || {
            let call = counted.next();
            async move { call.to_string() }
        };
        let app = Router::new().fallback(handler).layer(scoped);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut known: HashMap<Asked, Bytes> = HashMap::new();
        for asked in attempts {
            let (tenant, user, is_post, path) = asked.clone();
            let method = if is_post { Method::POST } else { Method::PATCH };
            let Ok(uri) = path.parse::<Uri>() else { continue };
            let mut request = Request::builder().method(method).uri(uri).header("idempotency-key", "k");
            request.extensions_mut().unwrap().insert(By(tenant, user));
            let response = runtime.block_on(send(&app, request.body(Body::empty()).unwrap()));
            prop_assert_eq!(response.status(), StatusCode::OK);
            let origin = origin(&response).to_owned();
            let body = runtime.block_on(bytes(response));
            match known.get(&asked) {
                Some(own) => prop_assert_eq!((origin.as_str(), &body), ("replayed", own)),
                None => {
                    prop_assert_eq!(origin.as_str(), "executed");
                    prop_assert!(known.values().all(|other| *other != body));
                    known.insert(asked, body);
                }
            }
        }
        prop_assert_eq!(calls.count(), known.len());
    }
}
