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
use oneflight::http::{Fingerprints, KeySource, Problem, kind};
use oneflight::store::ManualClock;
use oneflight::{MemoryStore, Scope};

#[path = "common/http.rs"]
mod http;
#[path = "common/scripted.rs"]
mod scripted;

use http::{Calls, app, bytes, gated, keyless, layer, layer_over, origin, problem, request, send, typed, unread};
use scripted::{Op, Scripted};

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

/// A user, as an authentication outside of the layer would have found it.
#[derive(Clone)]
struct User(&'static str, &'static str);

fn of_user(scoped: IdempotencyLayer) -> IdempotencyLayer {
    scoped.scope(|request| {
        let user = request.extensions.get::<User>()?;
        Some(Scope::new(user.0).user(user.1))
    })
}

fn by(user: User, mut request: Request) -> Request {
    request.extensions_mut().insert(user);
    request
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

#[tokio::test]
async fn a_guessed_key_of_another_tenant_gets_nothing_of_its_answer() {
    let (app, calls) = app(of_user(layer()), |call| format!("secret {call}"));
    let ask = async |tenant, user, body| send(&app, by(User(tenant, user), request("guessed", body))).await;
    assert_eq!(bytes(ask("us", "ann", "tea").await).await, "secret 1");
    // Names that are made to look like another scope are none.
    for (number, (tenant, user)) in (2..).zip([
        ("them", "ann"),
        ("us", "eve"),
        ("us|user=ann", "ann"),
        ("us%7Cuser=ann", "ann"),
        ("us", "ann|route=POST /orders"),
        ("everybody", "ann"),
    ]) {
        let response = ask(tenant, user, "tea").await;
        assert_eq!(origin(&response), "executed", "{tenant} {user}");
        assert_eq!(bytes(response).await, format!("secret {number}"));
        // Not even a conflict tells that the key is in use.
        let response = ask(tenant, user, "coffee").await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert_eq!(bytes(ask("us", "ann", "tea").await).await, "secret 1");
    assert_eq!(calls.count(), 7);
}

#[tokio::test]
async fn a_request_without_a_clear_principal_is_not_executed() {
    let store = Scripted::new();
    let layer = layer_over(store.clone()).scope(|request| {
        let mut names = request.headers.get_all("x-tenant").iter();
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(Scope::new(name.to_str().unwrap_or_default())),
            (None, _) => Err(Problem::principal_missing()),
            _ => Err(Problem::new(StatusCode::FORBIDDEN).with_title("Two tenants")),
        }
    });
    let (app, calls) = app(layer, |_| "done");
    let ask = async |tenants: &[&str], body: Body| {
        let mut request = request("k", body);
        for tenant in tenants {
            request.headers_mut().append("x-tenant", tenant.parse().unwrap());
        }
        send(&app, request).await
    };
    for (tenants, type_uri) in [
        (&[][..], kind::PRINCIPAL_MISSING),
        (&["us", "them"], "about:blank"),
        (&[""], kind::PRINCIPAL_MISSING),
    ] {
        // The head shows it: nothing is read for such a request.
        let refused = ask(tenants, unread()).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{tenants:?}");
        assert_eq!(problem(refused).await["type"], type_uri);
    }
    assert_eq!(
        (calls.count(), store.calls(Op::Claim), store.calls(Op::Load)),
        (0, 0, 0)
    );
    assert_eq!(ask(&["us"], Body::from("tea")).await.status(), StatusCode::OK);
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_key_is_validated_before_the_store_is_asked() {
    let store = Scripted::new();
    let keys = KeySource::new().max_bytes(36).alphabet(|character| character != '_');
    let (app, calls) = app(layer_over(store.clone()).keys(keys), |_| "done");
    let asked = || {
        [Op::Claim, Op::Load, Op::Watch]
            .map(|op| store.calls(op))
            .iter()
            .sum::<usize>()
    };
    let (long, huge) = ("k".repeat(37), "k".repeat(1 << 20));
    for key in [
        "", "\"\"", "a, b", "\"a", "\"a\\n\"", "a b", "a_b", "\"a_b\"", &long, &huge,
    ] {
        let refused = send(&app, request(key, "tea")).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{key:.40}");
    }
    assert_eq!((asked(), calls.count()), (0, 0));
    assert_eq!(
        send(&app, request(&"k".repeat(36), "tea")).await.status(),
        StatusCode::OK
    );
    assert!(asked() > 0);
}

#[tokio::test]
async fn a_safe_method_passes_whatever_key_it_carries() {
    let calls = Calls::default();
    let counted = calls.clone();
    let handler = move |_: Request| {
        counted.next();
        async { "done" }
    };
    let app = Router::new().route("/orders", any(handler)).layer(layer().required());
    let methods = ["OPTIONS", "HEAD", "GET", "PUT", "DELETE"];
    for method in methods {
        for key in ["k", "k", "no, key"] {
            let request = Request::builder().method(method).uri("/orders");
            let response = send(&app, request.header("idempotency-key", key).body(unread()).unwrap()).await;
            assert_eq!((response.status(), origin(&response)), (StatusCode::OK, ""), "{method}");
        }
    }
    assert_eq!(calls.count(), methods.len() * 3);

    let covered = layer().methods([Method::POST, Method::PUT]);
    let app = Router::new().route("/orders", any(|| async { "done" })).layer(covered);
    for expected in ["executed", "replayed"] {
        let put = Request::put("/orders")
            .header("idempotency-key", "k")
            .body(Body::empty());
        assert_eq!(origin(&send(&app, put.unwrap()).await), expected);
    }
    assert_eq!(origin(&send(&app, keyless("tea")).await), "");
}
