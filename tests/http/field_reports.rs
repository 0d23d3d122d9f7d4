//! Promises 17 to 19: what went wrong in the field with other layers of this kind, each as the behaviour that is right.
//! `docs/http.md` lists the reports.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::Multipart;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt;
use oneflight::MemoryStore;
use oneflight::http::layer::{Checked, Outcome};
use oneflight::http::{Fingerprints, KeySource, kind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_http::cors::CorsLayer;

use crate::http;

use crate::http::{
    app, bytes, connect, gated, head, layer, layer_over, line, origin, post_raw, problem, request, send, serve, typed,
};

#[tokio::test]
async fn a_second_request_may_arrive_in_another_process_before_the_first_has_ended() {
    // Two layers over one store are what two processes are: they share nothing else.
    let store = MemoryStore::new();
    let here = gated(layer_over(store.clone()));
    let (there, calls) = app(layer_over(store), |_| "there");
    let first = tokio::spawn({
        let app = here.app.clone();
        async move { send(&app, request("k", "tea")).await }
    });
    here.begun.notified().await;
    let mut second = std::pin::pin!(send(&there, request("k", "tea")));
    assert!(futures::poll!(&mut second).is_pending());
    here.gate.add_permits(1);
    assert_eq!(bytes(first.await.unwrap()).await, "order 1");
    let second = second.await;
    assert_eq!((second.status(), origin(&second)), (StatusCode::OK, "replayed"));
    assert_eq!((bytes(second).await, calls.count()), (Bytes::from("order 1"), 0));
}

#[tokio::test]
async fn a_browsers_form_posted_twice_is_one_order() {
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&orders);
    let place = move |mut form: Multipart| {
        let order = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let mut fields = Vec::new();
            while let Some(field) = form.next_field().await.unwrap() {
                fields.push(field.text().await.unwrap());
            }
            format!("order {order}: {}", fields.join(", "))
        }
    };
    let keys = KeySource::new().field("idempotency_key");
    let app = Router::new()
        .route("/orders", post(place))
        .layer(layer().required().keys(keys));
    for (boundary, expected) in [
        ("WebKitFormBoundaryAbc", "executed"),
        ("WebKitFormBoundaryXyz", "replayed"),
    ] {
        let part = |name: &str, value: &str| {
            format!("------{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let body = part("idempotency_key", "k") + &part("item", "tea") + &format!("------{boundary}--\r\n");
        let request =
            Request::post("/orders").header(CONTENT_TYPE, format!("multipart/form-data; boundary=----{boundary}"));
        let response = send(&app, request.body(Body::from(body)).unwrap()).await;
        assert_eq!(origin(&response), expected);
        assert_eq!(bytes(response).await, "order 1: k, tea");
    }
    assert_eq!(orders.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_answer_over_the_limit_does_not_repeat_the_side_effect() {
    // Over the limit of a record, and over that of an answer that is shared.
    for size in [300 * 1024, 3 * 1024 * 1024] {
        let (app, effects) = app(layer(), move |_| (StatusCode::CREATED, "x".repeat(size)));
        assert_eq!(bytes(send(&app, request("k", "tea")).await).await.len(), size);
        for _ in 0..2 {
            let again = send(&app, request("k", "tea")).await;
            assert_eq!((again.status(), origin(&again)), (StatusCode::CREATED, "replayed"));
            assert_eq!(problem(again).await["type"], kind::OUTCOME_ONLY);
        }
        assert_eq!(effects.count(), 1);
    }
}

#[tokio::test]
async fn a_validation_error_does_not_poison_the_key() {
    let json = |body: &'static str| typed("application/json", "k", body);
    // By the extractor, by the handler, and by the layer itself.
    let place = |Checked(Json(order)): Checked<Json<Value>>| async move {
        match order["item"].as_str() {
            Some(item) => item.to_owned().into_response(),
            None => (StatusCode::UNPROCESSABLE_ENTITY, Outcome::NothingDone, "no item").into_response(),
        }
    };
    let app = Router::new()
        .route("/orders", post(place))
        .layer(layer().max_request_bytes(20));
    for (body, status) in [
        ("tea", 400),
        ("{}", 422),
        (r#"{"item":"more than there is room for"}"#, 413),
        (r#"{"item":"tea"}"#, 200),
    ] {
        assert_eq!(send(&app, json(body)).await.status(), status, "{body}");
    }
    let again = send(&app, json(r#"{"item":"tea"}"#)).await;
    assert_eq!((origin(&again), again.status()), ("replayed", StatusCode::OK));
}

#[tokio::test]
async fn a_connection_that_dies_before_the_first_byte_of_the_body_keeps_no_lock() {
    let shop = gated(layer());
    let address = serve(shop.app.clone()).await;
    // Of the request's body: nothing was claimed.
    let head_only = "POST /orders HTTP/1.1\r\nhost: shop\r\nidempotency-key: k\r\ncontent-length: 3\r\n\r\n";
    drop(connect(address, head_only).await);
    // Of the answer's: the handler goes on, and its answer is there for the next.
    let connection = connect(address, &format!("{head_only}tea")).await;
    shop.begun.notified().await;
    drop(connection);
    shop.gate.add_permits(1);
    let (head, body) = post_raw(address, "idempotency-key: k\r\n", "tea").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!((body.as_str(), shop.calls.count()), ("order 1", 1));

    // In the middle of a stream: what the handler did is recorded before its stream begins.
    let endless = |_: Bytes| async {
        let piece = Ok::<_, std::io::Error>(Bytes::from("data: 1\n\n"));
        let stream = futures::stream::once(async { piece }).chain(futures::stream::pending());
        ([("content-type", "text/event-stream")], Body::from_stream(stream))
    };
    let address = serve(Router::new().route("/orders", post(endless)).layer(layer())).await;
    let mut connection = connect(address, &format!("{head_only}tea")).await;
    http::head(&mut connection).await;
    drop(connection);
    let (head, _) = post_raw(address, "idempotency-key: k\r\n", "tea").await;
    assert_eq!(line(&head, "idempotency-origin"), Some("replayed"));
}

#[tokio::test]
async fn the_body_of_a_stream_is_not_empty_on_replay() {
    let (app, calls) = app(layer(), |_| {
        let pieces = ["data: 1\n\n", "data: 2\n\n"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
        let lines = [("content-type", "text/event-stream"), ("location", "/exports/1")];
        (lines, Body::from_stream(futures::stream::iter(pieces)))
    });
    assert_eq!(
        bytes(send(&app, request("k", "tea")).await).await,
        "data: 1\n\ndata: 2\n\n"
    );
    let again = send(&app, request("k", "tea")).await;
    assert_eq!(again.headers()["location"], "/exports/1");
    // It says what became of the request, and of the body.
    let told = problem(again).await;
    assert_eq!(
        (&told["type"], &told["location"]),
        (&kind::OUTCOME_ONLY.into(), &json!("/exports/1"))
    );
    // A stream with an end, and that comes in time, is kept whole.
    let (app, _) = http::app(layer(), |_| {
        let pieces = ["one ", "two"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
        Body::from_stream(futures::stream::iter(pieces))
    });
    for _ in 0..2 {
        assert_eq!(bytes(send(&app, request("k", "tea")).await).await, "one two");
    }
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn json_members_reordered_are_one_request() {
    let sorted = Fingerprints::new().sorted_json();
    let (app, calls) = app(layer().fingerprints(sorted), |_| "done");
    for (body, status) in [
        (r#"{"item":"tea","to":{"street":"A","no":1}}"#, 200),
        (r#"{ "to": { "no": 1, "street": "A" }, "item": "tea" }"#, 200),
        (r#"{"item":"tea","to":{"street":"A","no":2}}"#, 422),
    ] {
        assert_eq!(
            send(&app, typed("application/json", "k", body)).await.status(),
            status,
            "{body}"
        );
    }
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_preflight_allows_the_header_and_answers_expose_theirs() {
    let keys = KeySource::new().alias("x-idempotency-key".parse().unwrap());
    let layer = layer().required().keys(keys);
    let cors = CorsLayer::new()
        .allow_origin(tower_http::cors::Any)
        .allow_headers(layer.cors_request_headers())
        .expose_headers(layer.cors_response_headers());
    let place = || async { ([("access-control-allow-origin", "https://of.the.handler")], "done") };
    let app = Router::new().route("/orders", post(place)).layer(layer).layer(cors);
    let preflight = Request::options("/orders")
        .header("origin", "https://shop.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "idempotency-key");
    let allowed = send(&app, preflight.body(Body::empty()).unwrap()).await;
    assert_eq!(allowed.status(), StatusCode::OK);
    let names = |value: &axum::http::HeaderValue| -> Vec<String> {
        value.to_str().unwrap().split(',').map(str::to_owned).collect()
    };
    let allowed = names(&allowed.headers()["access-control-allow-headers"]);
    assert!(
        ["idempotency-key", "x-idempotency-key"]
            .iter()
            .all(|it| allowed.contains(&(*it).to_owned())),
        "{allowed:?}"
    );

    let cross = |key: &str| {
        let mut request = request(key, "tea");
        request
            .headers_mut()
            .insert("origin", "https://shop.example".parse().unwrap());
        request
    };
    for (key, status) in [("k", 200), ("k", 200), ("no, key", 400)] {
        let response = send(&app, cross(key)).await;
        assert_eq!(response.status(), status);
        let origins: Vec<_> = response
            .headers()
            .get_all("access-control-allow-origin")
            .iter()
            .collect();
        assert!(origins.contains(&&"*".parse().unwrap()), "{key}: {origins:?}");
        let exposed = names(&response.headers()["access-control-expose-headers"]);
        for name in response.headers().keys().map(|name| name.as_str()) {
            let is_ours = name.starts_with("idempotency-") || ["link", "location", "retry-after"].contains(&name);
            assert!(
                !is_ours || exposed.contains(&name.to_owned()),
                "{name} is hidden: {exposed:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_edge_that_sends_again_after_a_reset_gets_the_first_answer() {
    let shop = gated(layer());
    let address = serve(shop.app.clone()).await;
    let edge = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at_edge = edge.local_addr().unwrap();
    // Passes the request on, loses the first answer after the mutation, and sends the request again.
    let retrying = tokio::spawn(async move {
        let (mut client, _) = edge.accept().await.unwrap();
        let mut sent = vec![0; 1024];
        let length = client.read(&mut sent).await.unwrap();
        let raw = std::str::from_utf8(&sent[..length]).unwrap();
        let mut first = connect(address, raw).await;
        head(&mut first).await;
        drop(first);
        let mut second = connect(address, raw).await;
        let mut answer = Vec::new();
        second.read_to_end(&mut answer).await.unwrap();
        client.write_all(&answer).await.unwrap();
    });
    shop.gate.add_permits(1);
    let (head, body) = post_raw(at_edge, "idempotency-key: k\r\n", "tea").await;
    retrying.await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(line(&head, "idempotency-origin"), Some("replayed"));
    assert_eq!((body.as_str(), shop.calls.count()), ("order 1", 1));
}
