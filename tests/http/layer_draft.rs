//! Promises 17 and 18: what draft-ietf-httpapi-idempotency-key-header asks of keys, of what they are valid in, and of what is
//! compared. `docs/http.md` has a row for each requirement, with the name of its test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::routing::{any, post};
use http_body_util::BodyExt;
use oneflight::http::layer::{IdempotencyLayer, Requirement};
use oneflight::http::{Fingerprints, KeySource, kind};
use oneflight::store::ManualClock;
use oneflight::{MemoryStore, Scope};

use crate::http::{
    Calls, User, app, by, bytes, gated, layer, layer_over, of_user, origin, problem, request, send, typed,
};

/// Sends `tea` under each of these values of the header, and returns what the layer says of each answer.
async fn origins(layer: IdempotencyLayer, values: &[&str]) -> Vec<String> {
    let (app, _) = app(layer, |_| "done");
    let mut origins = Vec::new();
    for value in values {
        let response = send(&app, request(value, "tea")).await;
        origins.push(match response.status() {
            StatusCode::OK => origin(&response).to_owned(),
            status => status.as_str().to_owned(),
        });
    }
    origins
}

#[tokio::test]
async fn a_quoted_string_is_the_key() {
    let strict = layer().keys(KeySource::new().strict());
    let values = [
        r#""a7f3""#,
        r#""a7f3";version=1"#,
        r#""a\"7\\f3""#,
        r#""a\"7\\f3"; of="us""#,
        r#""a b""#,
    ];
    let found = origins(strict, &values).await;
    assert_eq!(found, ["executed", "replayed", "executed", "replayed", "executed"]);
}

#[tokio::test]
async fn a_bare_token_is_the_same_key_unless_the_layer_is_strict() {
    // Each looks like another type of structured field, and is a key all the same.
    for bare in ["a7f3", "1234", "12.5", "?1", ":YTdmMw==:", "@1700000000"] {
        let values = [bare, &format!("\"{bare}\"")];
        assert_eq!(origins(layer(), &values).await, ["executed", "replayed"]);
        let strict = layer().keys(KeySource::new().strict());
        assert_eq!(origins(strict, &values).await, ["400", "executed"]);
    }
}

#[tokio::test]
async fn two_keys_are_two_executions_and_one_key_is_one() {
    let (app, calls) = app(layer(), |call| format!("order {call}"));
    let mut answers = Vec::new();
    for key in ["one", "two", "one", "two"] {
        answers.push(bytes(send(&app, request(key, "tea")).await).await);
    }
    assert_eq!(answers, ["order 1", "order 2", "order 1", "order 2"]);
    assert_eq!(calls.count(), 2);
}

#[tokio::test]
async fn another_payload_under_a_used_key_is_a_422_and_runs_nothing() {
    let shop = gated(layer());
    let first = tokio::spawn({
        let app = shop.app.clone();
        async move { send(&app, request("k", "tea")).await }
    });
    shop.begun.notified().await;
    let in_flight = send(&shop.app, request("k", "coffee")).await;
    assert_eq!(in_flight.status(), StatusCode::UNPROCESSABLE_ENTITY);
    shop.gate.add_permits(1);
    assert_eq!(bytes(first.await.unwrap()).await, "order 1");

    let recorded = send(&shop.app, request("k", "coffee")).await;
    assert_eq!(recorded.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(origin(&recorded), "");
    // The first request's record stands.
    let again = send(&shop.app, request("k", "tea")).await;
    assert_eq!(origin(&again), "replayed");
    assert_eq!(bytes(again).await, "order 1");
    assert_eq!(shop.calls.count(), 1);
}

#[tokio::test]
async fn a_key_is_unique_within_scope_method_and_route() {
    let calls = Calls::default();
    let counted = calls.clone();
    let count = move || {
        let call = counted.next();
        async move { call.to_string() }
    };
    let app = Router::new()
        .route("/orders", any(count.clone()))
        .route("/refunds", post(count.clone()))
        .route("/items/{id}", post(count))
        .layer(of_user(layer()));
    let ask = async |user: (&'static str, &'static str), method: Method, path: &'static str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("idempotency-key", "k").body(Body::empty()).unwrap();
        send(&app, by(User(user.0, user.1), request)).await
    };
    let (ours, post) = (("us", "ann"), Method::POST);
    let requests = [
        (ours, post.clone(), "/orders"),
        (("us", "bob"), post.clone(), "/orders"),
        (("them", "ann"), post.clone(), "/orders"),
        (ours, Method::PATCH, "/orders"),
        (ours, post.clone(), "/refunds"),
        (ours, post.clone(), "/items/1"),
    ];
    for expected in ["executed", "replayed"] {
        for (user, method, path) in requests.clone() {
            assert_eq!(origin(&ask(user, method, path).await), expected, "{user:?} {path}");
        }
    }
    assert_eq!(calls.count(), requests.len());
    // The route is the one that was matched: another item is another payload of it.
    assert_eq!(
        ask(ours, post, "/items/2").await.status(),
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

#[tokio::test]
async fn a_key_past_its_retention_is_new() {
    let clock = ManualClock::new();
    let (app, calls) = app(layer_over(MemoryStore::with_clock(clock.clone())), |call| {
        call.to_string()
    });
    let day = Duration::from_secs(24 * 60 * 60);
    for (passed, expected) in [
        (Duration::ZERO, "executed"),
        (day - Duration::from_millis(1), "replayed"),
        (Duration::from_millis(1), "executed"),
    ] {
        clock.advance(passed);
        assert_eq!(origin(&send(&app, request("k", "tea")).await), expected, "{passed:?}");
    }
    assert_eq!(calls.count(), 2);
}

#[tokio::test]
async fn the_fingerprint_covers_method_route_query_chosen_headers_and_body() {
    let version = HeaderName::from_static("api-version");
    // One scope for all routes and methods: only the fingerprint tells them apart.
    let layer = layer()
        .scope(|_| Scope::new("us").route("everything"))
        .fingerprints(Fingerprints::new().header(version));
    let app = Router::new()
        .route("/orders", any(|| async { "done" }))
        .route("/refunds", any(|| async { "done" }))
        .layer(layer);
    let ask = async |method: Method, uri: &str, version: Option<&str>, accept: &str, body: &'static str| {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("idempotency-key", "k");
        let request = version
            .into_iter()
            .fold(request, |request, version| request.header("api-version", version));
        let request = request.header("accept", accept).body(Body::from(body)).unwrap();
        send(&app, request).await.status().as_u16()
    };
    let post = || Method::POST;
    assert_eq!(ask(post(), "/orders?of=ann", Some("1"), "a/b", "tea").await, 200);
    assert_eq!(ask(post(), "/orders?of=ann", Some("1"), "c/d", "tea").await, 200);
    assert_eq!(ask(Method::PATCH, "/orders?of=ann", Some("1"), "a/b", "tea").await, 422);
    assert_eq!(ask(post(), "/refunds?of=ann", Some("1"), "a/b", "tea").await, 422);
    assert_eq!(ask(post(), "/orders?of=bob", Some("1"), "a/b", "tea").await, 422);
    assert_eq!(ask(post(), "/orders", Some("1"), "a/b", "tea").await, 422);
    assert_eq!(ask(post(), "/orders?of=ann", Some("2"), "a/b", "tea").await, 422);
    assert_eq!(ask(post(), "/orders?of=ann", None, "a/b", "tea").await, 422);
    assert_eq!(ask(post(), "/orders?of=ann", Some("1"), "a/b", "coffee").await, 422);
}

#[tokio::test]
async fn a_payload_is_compared_by_meaning() {
    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";
    let sent = Fingerprints::new();
    let sorted = Fingerprints::new().sorted_json();
    let less = Fingerprints::new().leave_out("csrf");
    for (fingerprints, kind, first, again, status) in [
        (&sent, JSON, r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, 422),
        (&sorted, JSON, r#"{"a":1,"b":2}"#, r#"{ "b": 2, "a": 1 }"#, 200),
        (&sorted, JSON, r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, 422),
        (&sent, FORM, "of=a+b&to=c", "of=a%20b&to=c", 200),
        (&sent, FORM, "of=a&to=c", "to=c&of=a", 422),
        (&less, FORM, "of=a&csrf=1", "csrf=2&of=a", 200),
        (&less, JSON, r#"{"of":1,"csrf":1}"#, r#"{"of":1,"csrf":2}"#, 200),
        (&less, JSON, r#"{"of":1,"csrf":1}"#, r#"{"of":2,"csrf":1}"#, 422),
    ] {
        let (app, _) = app(layer().fingerprints(fingerprints.clone()), |_| "done");
        assert_eq!(send(&app, typed(kind, "k", first)).await.status(), 200);
        assert_eq!(
            send(&app, typed(kind, "k", again)).await.status(),
            status,
            "{first} {again}"
        );
    }

    let part = |boundary: &str, file: &str| {
        let body = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"scan\"; filename=\"a.png\"\r\n\
             content-type: image/png\r\n\r\n{file}\r\n--{boundary}--\r\n"
        );
        typed(&format!("multipart/form-data; boundary={boundary}"), "k", body)
    };
    let (app, _) = app(layer(), |_| "done");
    assert_eq!(send(&app, part("x1", "bytes")).await.status(), 200);
    assert_eq!(send(&app, part("y2", "bytes")).await.status(), 200);
    assert_eq!(send(&app, part("x1", "other")).await.status(), 422);
}

#[tokio::test]
async fn a_key_where_keys_are_off_changes_nothing() {
    let layer = layer().when(
        |request| match request.headers.get("x-mode").map(|mode| mode.as_bytes()) {
            Some(b"off") => Requirement::Off,
            Some(b"required") => Requirement::Required,
            _ => Requirement::Optional,
        },
    );
    let (app, calls) = app(layer, |call| call.to_string());
    let ask = async |mode: &str, key: Option<&str>| {
        let request = axum::http::Request::post("/orders").header("x-mode", mode);
        let request = key
            .into_iter()
            .fold(request, |request, key| request.header("idempotency-key", key));
        send(&app, request.body(Body::from("tea")).unwrap()).await
    };
    for expected in ["1", "2"] {
        let response = ask("off", Some("k")).await;
        assert_eq!(origin(&response), "");
        assert_eq!(bytes(response).await, expected);
    }
    assert_eq!(ask("off", Some("no, key")).await.status(), StatusCode::OK);
    assert_eq!(ask("off", None).await.status(), StatusCode::OK);
    assert_eq!(calls.count(), 4);
    for expected in ["executed", "replayed"] {
        assert_eq!(origin(&ask("optional", Some("k")).await), expected);
    }
    assert_eq!(ask("optional", None).await.status(), StatusCode::OK);
    assert_eq!(ask("required", None).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(calls.count(), 6);
}

#[tokio::test]
async fn the_key_is_read_from_the_header_and_from_one_line_only() {
    let keys = KeySource::new()
        .alias(HeaderName::from_static("x-idempotency-key"))
        .field("key");
    let (app, calls) = app(layer().required().keys(keys), |_| "done");
    let json = "application/json";
    let ask = async |headers: &[(&str, &str)], body: &'static str| {
        let request = axum::http::Request::post("/orders").header("content-type", json);
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        send(&app, request.body(Body::from(body)).unwrap()).await
    };
    // One key, wherever it stands.
    let (name, alias) = ("idempotency-key", "x-idempotency-key");
    for (headers, body, expected) in [
        (&[(name, "k")][..], "{}", "executed"),
        (&[(alias, "k")], "{}", "replayed"),
        (&[(name, "\"k\""), (alias, "k")], "{}", "replayed"),
        (&[], r#"{"key":"other"}"#, "executed"),
        (&[(alias, "other")], r#"{"key":"other"}"#, "replayed"),
    ] {
        assert_eq!(origin(&ask(headers, body).await), expected, "{headers:?} {body}");
    }
    // Not exactly one key.
    for (headers, body) in [
        (&[(name, "k"), (name, "k")][..], "{}"),
        (&[(name, "k"), (name, "l")], "{}"),
        (&[(name, "k, k")], "{}"),
        (&[(name, "k"), (alias, "l")], "{}"),
        (&[(name, "k")], r#"{"key":"l"}"#),
        (&[], r#"{"key":"k","key":"k"}"#),
        (&[], r#"{"key":17}"#),
    ] {
        let refused = ask(headers, body).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{headers:?} {body}");
        assert_eq!(problem(refused).await["type"], kind::KEY_MALFORMED);
    }
    assert_eq!(calls.count(), 2);
}

#[tokio::test]
async fn a_function_of_the_services_finds_the_key() {
    let layer = layer().required().key(|_, body| {
        let event: serde_json::Value = serde_json::from_slice(body).ok()?;
        Some(event["data"]["id"].as_str()?.to_owned())
    });
    let (app, calls) = app(layer, |_| "done");
    let ask = async |body: &'static str| {
        let request = axum::http::Request::post("/orders").header("idempotency-key", "of the header");
        send(&app, request.body(Body::from(body)).unwrap()).await
    };
    for (body, expected) in [
        (r#"{"data":{"id":"e1"}}"#, "executed"),
        (r#"{"data":{"id":"e2"}}"#, "executed"),
        (r#"{"data":{"id":"e1"}}"#, "replayed"),
    ] {
        assert_eq!(origin(&ask(body).await), expected, "{body}");
    }
    assert_eq!(problem(ask("{}").await).await["type"], kind::KEY_MISSING);
    let malformed = problem(ask(r#"{"data":{"id":"\n"}}"#).await).await;
    assert_eq!(malformed["type"], kind::KEY_MALFORMED);
    assert_eq!(calls.count(), 2);
}

#[tokio::test]
async fn the_handler_gets_the_body_that_the_fingerprint_was_made_of() {
    let echo = |request: Request| async {
        let body = request.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let sum = trailers.get("x-sum").cloned().unwrap();
        ([("x-sum", sum)], body.to_bytes())
    };
    let keys = KeySource::new().field("key");
    let layer = layer().keys(keys).fingerprints(Fingerprints::new().leave_out("csrf"));
    let app = Router::new().route("/orders", post(echo)).layer(layer);
    let pieces = [r#"{ "item": "tea","#, "", r#" "csrf": 4711, "#, r#""key": "k" }"#];
    for expected in ["executed", "replayed"] {
        let stream = futures::stream::iter(pieces.map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece))));
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "17".parse().unwrap())]);
        let body = Body::new(Body::from_stream(stream).with_trailers(async move { Some(Ok(trailers)) }));
        let request = axum::http::Request::post("/orders").header("content-type", "application/json");
        let response = send(&app, request.body(body).unwrap()).await;
        assert_eq!(
            (origin(&response), &response.headers()["x-sum"]),
            (expected, &"17".parse().unwrap())
        );
        assert_eq!(bytes(response).await, pieces.concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_duplicates_are_one_execution() {
    // Two layers over one store are what two processes are: they share nothing else.
    let store = MemoryStore::new();
    let calls = Calls::default();
    let apps: Vec<Router> = (0..2)
        .map(|_| {
            let counted = calls.clone();
            let handler = move |_: Bytes| {
                let call = counted.next();
                async move {
                    tokio::task::yield_now().await;
                    format!("order {call}")
                }
            };
            Router::new()
                .route("/orders", post(handler))
                .layer(layer_over(store.clone()))
        })
        .collect();
    let sent = (0..100).map(|number| {
        let app = apps[number % 2].clone();
        tokio::spawn(async move {
            let response = send(&app, request("k", "tea")).await;
            (origin(&response).to_owned(), bytes(response).await)
        })
    });
    let answers = futures::future::join_all(sent).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|(_, body)| body == "order 1"));
    assert_eq!(answers.iter().filter(|(origin, _)| origin == "executed").count(), 1);
    assert_eq!(calls.count(), 1);
}
