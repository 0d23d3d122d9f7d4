//! Promise 17: what the layer answers with where a request cannot be executed, by section 2.7 of the draft and by RFC 9457.
//! `docs/http.md` has a row for each requirement, with the name of its test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use axum::routing::post;
use futures::join;
use oneflight::http::layer::{IdempotencyLayer, Outcome};
use oneflight::http::{KeySource, Problem, kind};
use oneflight::{Idempotency, MemoryStore, Scope};
use serde_json::Value;
use tower::{Layer, ServiceExt};

use crate::http::{app, bytes, gated, keyless, layer, layer_over, origin, problem, request, send, typed, unread};
use crate::scripted::{Fault, Op, Scripted};

const DOCUMENTATION: &str = "https://shop.example/idempotency";
const LINK: &str = "<https://shop.example/idempotency>; rel=\"describedby\"; type=\"text/html\"";

/// A key, and a payload, that no answer may repeat.
const KEY: &str = "hidden-key";
const PAYLOAD: &str = "hidden-payload";

#[tokio::test]
async fn a_missing_key_is_a_400_with_a_link_to_the_documentation() {
    let (app, calls) = app(layer().required().documentation(DOCUMENTATION), |_| "done");
    let refused = send(&app, keyless(unread())).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(refused.headers()["link"], LINK);
    let told = problem(refused).await;
    assert_eq!(told["type"], kind::KEY_MISSING);
    assert!(told["detail"].as_str().unwrap().contains("Idempotency-Key"), "{told}");
    assert_eq!(calls.count(), 0);
}

#[tokio::test]
async fn a_malformed_key_is_a_400_even_where_keys_are_optional() {
    for layer in [layer(), layer().required()] {
        let (app, calls) = app(layer.documentation(DOCUMENTATION), |_| "done");
        let long = "k".repeat(256);
        for key in ["", "\"", "\"a\"b", "a, b", "a;b", "two words", "caf\u{e9}", &long] {
            let refused = send(&app, request(key, "tea")).await;
            assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{key}");
            assert_eq!(refused.headers()["link"], LINK);
            assert_eq!(problem(refused).await["type"], kind::KEY_MALFORMED, "{key}");
        }
        assert_eq!(calls.count(), 0);
    }
}

#[tokio::test]
async fn a_reused_key_is_a_422_with_a_link_to_the_documentation() {
    let (app, calls) = app(layer().documentation(DOCUMENTATION), |_| "done");
    send(&app, request("k", "tea")).await;
    let refused = send(&app, request("k", "coffee")).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.headers()["link"], LINK);
    assert!(!refused.headers().contains_key("retry-after"));
    assert_eq!(problem(refused).await["type"], kind::KEY_REUSED);
    assert_eq!(calls.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_still_running_elsewhere_is_a_409_with_its_problem_and_retry_after() {
    // Two layers over one store are what two processes are: they share nothing else.
    let store = MemoryStore::new();
    let here = gated(layer_over(store.clone()));
    let wait = Duration::from_secs(3);
    let idempotency = Idempotency::builder(store).wait(wait).build();
    let (there, calls) = app(IdempotencyLayer::new(idempotency).unscoped(), |_| "there");
    let (first, ()) = join!(send(&here.app, request("k", "tea")), async {
        here.begun.notified().await;
        let asked = tokio::time::Instant::now();
        let refused = send(&there, request("k", "tea")).await;
        assert!(asked.elapsed() >= wait);
        assert_eq!(refused.status(), StatusCode::CONFLICT);
        let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(seconds >= 1);
        let told = problem(refused).await;
        assert_eq!(told["type"], kind::IN_PROGRESS);
        assert_eq!(told["retry_after"], seconds);
        here.gate.add_permits(1);
    });
    assert_eq!(bytes(first).await, "order 1");
    let again = send(&there, request("k", "tea")).await;
    assert_eq!(origin(&again), "replayed");
    assert_eq!((bytes(again).await, calls.count()), (Bytes::from("order 1"), 0));
}

#[tokio::test]
async fn a_request_sent_again_uncorrected_fails_again_and_corrected_runs() {
    let keys = KeySource::new().field("key");
    let layer = layer().required().max_request_bytes(20).keys(keys);
    let (app, calls) = app(layer, |_| "done");
    let json = |key: &str, body: &'static str| typed("application/json", key, body);
    let of = |key: Option<&str>, body: &'static str| match key {
        Some(key) => json(key, body),
        None => {
            let request = Request::post("/orders").header("content-type", "application/json");
            request.body(Body::from(body)).unwrap()
        }
    };
    for (key, body, status) in [
        (None, "{}", 400),
        (Some("a, b"), "{}", 400),
        (Some("k"), "{", 400),
        (Some("k"), r#"{"key":"other"}"#, 400),
        (Some("k"), r#"{"item":"more than that"}"#, 413),
    ] {
        for _ in 0..3 {
            assert_eq!(send(&app, of(key, body)).await.status(), status, "{key:?} {body}");
        }
    }
    assert_eq!(calls.count(), 0);
    // The key is as free as ever.
    assert_eq!(origin(&send(&app, of(Some("k"), "{}")).await), "executed");
    for _ in 0..3 {
        assert_eq!(send(&app, of(Some("k"), "[]")).await.status(), 422);
    }
    assert_eq!(origin(&send(&app, of(Some("l"), "[]")).await), "executed");
    assert_eq!(calls.count(), 2);
}

#[tokio::test]
async fn what_is_in_doubt_is_a_409_of_its_own_type() {
    let (app, calls) = app(layer(), |_| (StatusCode::BAD_GATEWAY, Outcome::Unknown, "?"));
    assert_eq!(send(&app, request("k", "tea")).await.status(), StatusCode::BAD_GATEWAY);
    for _ in 0..2 {
        let refused = send(&app, request("k", "tea")).await;
        assert_eq!(refused.status(), StatusCode::CONFLICT);
        // Waiting alone does not help.
        assert!(!refused.headers().contains_key("retry-after"));
        let told = problem(refused).await;
        assert_eq!(
            (&told["type"], &told["effect"]),
            (&kind::IN_DOUBT.into(), &"unknown".into())
        );
    }
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_covered_body_over_its_limit_is_a_413() {
    let (app, calls) = app(layer().max_request_bytes(3), |_| "done");
    // By what is declared, and by what comes.
    let mut declared = request("k", unread());
    declared.headers_mut().insert("content-length", "4".parse().unwrap());
    let piece = |text: &'static str| Ok::<_, std::io::Error>(Bytes::from(text));
    let streamed = Body::from_stream(futures::stream::iter([piece("te"), piece("as")]));
    for request in [declared, request("k", streamed), request("k", "teas")] {
        let refused = send(&app, request).await;
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let told = problem(refused).await;
        assert_eq!(
            (&told["type"], &told["limit"]),
            (&kind::BODY_TOO_LARGE.into(), &3.into())
        );
    }
    assert_eq!(calls.count(), 0);
    // The limit itself is in, and what is not covered has none.
    assert_eq!(origin(&send(&app, request("k", "tea")).await), "executed");
    assert_eq!(send(&app, keyless("teas")).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn overload_and_a_store_that_is_away_are_a_503_with_retry_after() {
    let store = Scripted::new();
    store.always(Op::Claim, Fault::Fails);
    let (away, calls) = app(layer_over(store.clone()), |_| "done");
    let one_at_a_time = Idempotency::builder(MemoryStore::new()).max_flights(1).build();
    let full = gated(IdempotencyLayer::new(one_at_a_time).unscoped());

    let from_away = send(&away, request("k", "tea")).await;
    let (_, from_full) = join!(send(&full.app, request("one", "tea")), async {
        full.begun.notified().await;
        let response = send(&full.app, request("two", "tea")).await;
        full.gate.add_permits(1);
        response
    });
    for refused in [from_away, from_full] {
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(problem(refused).await["type"], kind::UNAVAILABLE);
    }
    assert_eq!((calls.count(), full.calls.count()), (0, 1));

    store.always(Op::Claim, Fault::None);
    assert_eq!(origin(&send(&away, request("k", "tea")).await), "executed");
}

/// Answers each request by what its payload says.
async fn handler(body: String) -> axum::response::Response {
    use axum::response::IntoResponse;
    match body.rsplit(' ').next() {
        Some("panics") => panic!("{PAYLOAD}"),
        Some("unknown") => (StatusCode::BAD_GATEWAY, Outcome::Unknown, "?").into_response(),
        Some("secret") => ([("location", "/orders/1")], Outcome::OutcomeOnly, PAYLOAD).into_response(),
        _ => "done".into_response(),
    }
}

/// Every problem that the layer can answer with, under the same key and with the same payload.
async fn problems() -> Vec<Response<Body>> {
    let documented = |layer: IdempotencyLayer| layer.documentation(DOCUMENTATION);
    let routed = |layer| Router::new().route("/orders", post(handler)).layer(documented(layer));
    let (body, keys) = (|| Body::from(PAYLOAD), KeySource::new().field("key"));
    let mut found = Vec::new();

    let required = routed(layer().required());
    found.push(send(&required, keyless(body())).await);
    found.push(send(&required, request(&format!("{KEY}, {KEY}"), body())).await);
    let broken = typed("application/json", KEY, PAYLOAD);
    found.push(send(&routed(layer().keys(keys)), broken).await);
    found.push(send(&routed(layer().max_request_bytes(3)), request(KEY, body())).await);
    let slow = routed(layer().request_time(Duration::from_millis(1)));
    let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    found.push(send(&slow, request(KEY, never)).await);
    let nobody = routed(layer().scope(|_| None::<Scope>));
    found.push(send(&nobody, request(KEY, body())).await);
    let odd = routed(layer().scope(|_| Scope::new("hidden-tenant\n")));
    found.push(send(&odd, request(KEY, body())).await);

    let usual = routed(layer());
    send(&usual, request(KEY, body())).await;
    found.push(send(&usual, request(KEY, format!("{PAYLOAD} of another"))).await);
    for told in ["panics", "unknown", "secret"] {
        let app = routed(layer());
        let payload = format!("{PAYLOAD} {told}");
        let first = send(&app, request(KEY, payload.clone())).await;
        let again = send(&app, request(KEY, payload)).await;
        found.push(if told == "panics" { first } else { again });
    }

    let busy = gated(documented(layer().wait(Duration::ZERO)));
    let (_, duplicate) = join!(send(&busy.app, request(KEY, body())), async {
        busy.begun.notified().await;
        let response = send(&busy.app, request(KEY, body())).await;
        busy.gate.add_permits(1);
        response
    });
    found.push(duplicate);

    let store = Scripted::new();
    store.always(Op::Claim, Fault::Fails);
    found.push(send(&routed(layer_over(store)), request(KEY, body())).await);

    // A service that fails without an answer: under a lease, and in a transaction.
    let failing = tower::service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>(PAYLOAD) });
    let transactional = IdempotencyLayer::transactional(Idempotency::builder(Scripted::new()).build());
    for layer in [layer(), transactional.unscoped()] {
        let service = documented(layer).layer(failing);
        found.push(service.oneshot(request(KEY, body())).await.unwrap());
    }
    found
}

/// Each problem's head, and its members.
async fn told() -> Vec<(axum::http::response::Parts, Value)> {
    let mut told = Vec::new();
    for response in problems().await {
        let (parts, body) = response.into_parts();
        let members = problem(Response::from_parts(parts.clone(), body)).await;
        told.push((parts, members));
    }
    told
}

/// Status and title of each kind, by its name, as its page documents them.
fn documented() -> BTreeMap<String, (String, String)> {
    let source = include_str!("../../src/http/kind.rs");
    let kinds = source.split("kinds! {\n").nth(1).unwrap();
    let mut documented = BTreeMap::new();
    for page in kinds.split(";\n") {
        let mut lines = page.lines().map(str::trim).filter(|line| !line.is_empty());
        let Some(first) = lines.next().and_then(|line| line.strip_prefix("/// ")) else {
            continue;
        };
        let (name, rest) = page
            .rsplit("\n    ")
            .map(str::trim)
            .find_map(|line| line.split_once(": "))
            .unwrap();
        let title = rest.split('"').nth(1).unwrap().to_owned();
        let status = first
            .split(':')
            .next()
            .filter(|status| status.len() == 3)
            .unwrap_or_default();
        documented.insert(name.to_owned(), (status.to_owned(), title));
    }
    documented
}

/// The kinds that only an application answers with.
const OF_APPLICATIONS: &str = "MEDIA_TYPE";

fn name(type_uri: &Value) -> String {
    let uri = type_uri.as_str().unwrap();
    let page = uri.rsplit("constant.").next().unwrap();
    page.trim_end_matches(".html").to_owned()
}

#[tokio::test]
async fn every_problem_of_the_layer_explains_itself() {
    let told = told().await;
    let seen: BTreeSet<_> = told.iter().map(|(_, members)| name(&members["type"])).collect();
    let known: BTreeSet<_> = documented()
        .into_keys()
        .filter(|name| name != OF_APPLICATIONS)
        .collect();
    assert_eq!(seen, known, "each kind is shown here");
    for (parts, members) in told {
        let name = name(&members["type"]);
        assert_eq!(members["status"], parts.status.as_u16(), "{name}");
        assert_eq!(parts.headers["cache-control"], "no-store", "{name}");
        assert_eq!(parts.headers["link"], LINK, "{name}");
        let detail = members["detail"].as_str().unwrap();
        assert!(detail.len() > 30 && detail.ends_with('.'), "{name}: {detail}");
        // What passes says when to come back.
        let passes = ["IN_PROGRESS", "OUTCOME_UNKNOWN", "NOT_DONE", "UNAVAILABLE"].contains(&name.as_str());
        assert_eq!(parts.headers.contains_key("retry-after"), passes, "{name}");
        assert_eq!(members.get("retry_after").is_some(), passes, "{name}");
    }
}

#[tokio::test]
async fn a_title_belongs_to_its_type() {
    let documented = documented();
    for (parts, members) in told().await {
        let name = name(&members["type"]);
        let (status, title) = &documented[&name];
        assert_eq!(members["title"], *title, "{name}");
        // One kind has the status of the first answer.
        assert!(status == parts.status.as_str() || name == "OUTCOME_ONLY", "{name}");
    }
    let media_type: Response<String> = Problem::unsupported_media_type("JSON").into_response();
    let (status, title) = &documented[OF_APPLICATIONS];
    assert_eq!(media_type.status().as_str(), status);
    assert!(media_type.body().contains(title));
}

#[tokio::test]
async fn no_problem_repeats_the_key_or_the_payload() {
    for (parts, members) in told().await {
        let all = format!("{parts:?} {members}");
        assert!(!all.contains("hidden"), "{all}");
    }
}

#[tokio::test]
async fn the_members_of_a_problem_have_portable_names() {
    let mut names = BTreeSet::new();
    for (_, members) in told().await {
        names.extend(members.as_object().unwrap().keys().cloned());
    }
    for name in &names {
        let portable = name.chars().all(|it| it.is_ascii_alphanumeric() || it == '_');
        assert!(
            portable && name.starts_with(|it: char| it.is_ascii_alphabetic()) && name.len() >= 3,
            "{name}"
        );
    }
    let standard = ["type", "title", "status", "detail", "instance"];
    let ours: Vec<_> = names.iter().filter(|name| !standard.contains(&name.as_str())).collect();
    assert_eq!(ours, ["effect", "limit", "limit_ms", "location", "retry_after"]);
}
