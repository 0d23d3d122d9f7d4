//! Promises 17 and 18 among neighbours: what stays right whichever side of the layer another one stands on, under which path a
//! router is nested, and which version of HTTP a client speaks.
//!
//! Outside is what `docs/http.md` recommends. Inside is what happens to those who do not read it: no answer is wrong then, and no
//! operation is executed twice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use oneflight::http::kind;
use oneflight::http::layer::{IdempotencyLayer, Recording};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::decompression::{DecompressionLayer, RequestDecompressionLayer};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use crate::http::{
    Calls, Gated, app, bytes, connect, gated, head, layer, line, origin, post_raw, problem, request, send, serve,
};

fn inner(calls: &Calls) -> Router {
    let counted = calls.clone();
    let place = move |body: Bytes| {
        let call = counted.next();
        async move { format!("{call}: {}", String::from_utf8_lossy(&body)) }
    };
    Router::new().route("/orders", post(place))
}

fn from_page(page: &str) -> Request<Body> {
    let mut request = request("k", "tea");
    request.headers_mut().insert("origin", page.parse().unwrap());
    request
}

fn mirroring(layer: &IdempotencyLayer) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_credentials(true)
        .allow_headers(layer.cors_request_headers())
        .expose_headers(layer.cors_response_headers())
}

fn allowed(headers: &HeaderMap) -> Vec<&str> {
    let lines = headers.get_all("access-control-allow-origin").iter();
    lines.map(|line| line.to_str().unwrap()).collect()
}

async fn preflight(app: &Router) -> Response<Body> {
    let preflight = Request::options("/orders")
        .header("origin", "https://one.example")
        .header("idempotency-key", "k")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "idempotency-key");
    send(app, preflight.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn inside_of_cors_each_page_gets_headers_of_its_own() {
    let calls = Calls::default();
    let layer = layer().required();
    let cors = mirroring(&layer);
    let app = inner(&calls).layer(layer).layer(cors);
    assert_eq!(preflight(&app).await.status(), StatusCode::OK);
    for (page, expected) in [
        ("https://one.example", "executed"),
        ("https://two.example", "replayed"),
        ("https://one.example", "replayed"),
    ] {
        let response = send(&app, from_page(page)).await;
        assert_eq!((origin(&response), allowed(response.headers())), (expected, vec![page]));
        assert_eq!(bytes(response).await, "1: tea");
    }
}

#[tokio::test]
async fn outside_of_cors_a_page_is_never_told_what_another_one_was() {
    let calls = Calls::default();
    let layer = layer().required();
    let app = inner(&calls).layer(mirroring(&layer)).layer(layer);
    // A preflight is no mutation: it passes.
    assert_eq!(allowed(preflight(&app).await.headers()), ["https://one.example"]);
    let first = send(&app, from_page("https://one.example")).await;
    assert_eq!(allowed(first.headers()), ["https://one.example"]);
    // This is the price: the page does not see the answer. The operation is not executed again.
    let second = send(&app, from_page("https://two.example")).await;
    assert_eq!((origin(&second), allowed(second.headers())), ("replayed", vec![]));
    assert!(!second.headers().contains_key("access-control-allow-credentials"));
    assert_eq!(calls.count(), 1);
}

fn accepting(encodings: Option<&str>) -> Request<Body> {
    let mut request = request("k", "tea".repeat(100));
    if let Some(encodings) = encodings {
        request
            .headers_mut()
            .insert("accept-encoding", encodings.parse().unwrap());
    }
    request
}

fn encoding(response: &Response<Body>) -> Option<&str> {
    let encoding = response.headers().get("content-encoding");
    encoding.map(|encoding| encoding.to_str().unwrap())
}

#[tokio::test]
async fn inside_of_compression_each_client_gets_what_it_accepts() {
    let calls = Calls::default();
    let app = inner(&calls).layer(layer()).layer(CompressionLayer::new());
    // What a client does that asked for it.
    let decoding = Router::new().fallback_service(DecompressionLayer::new().layer(app.clone()));
    let expected = format!("1: {}", "tea".repeat(100));
    for (accepted, encoded) in [
        (Some("gzip"), Some("gzip")),
        (None, None),
        (Some("identity"), None),
        (Some("gzip;q=0"), None),
        (Some("br, gzip"), Some("gzip")),
    ] {
        let response = send(&app, accepting(accepted)).await;
        assert_eq!(encoding(&response), encoded, "{accepted:?}");
        let compressed = bytes(response).await;
        assert_eq!(compressed == expected, encoded.is_none(), "{accepted:?}");
        let decoded = bytes(send(&decoding, accepting(accepted)).await).await;
        assert_eq!(decoded, expected, "{accepted:?}");
    }
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn outside_of_compression_the_one_answer_is_for_all() {
    let calls = Calls::default();
    let app = inner(&calls).layer(CompressionLayer::new()).layer(layer());
    for (accepted, expected) in [
        (Some("gzip"), "executed"),
        (None, "replayed"),
        (Some("gzip"), "replayed"),
    ] {
        let response = send(&app, accepting(accepted)).await;
        assert_eq!((origin(&response), encoding(&response)), (expected, None));
        assert_eq!(bytes(response).await, format!("1: {}", "tea".repeat(100)));
    }
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn an_answer_that_the_handler_encoded_itself_is_replayed_as_it_was() {
    let (app, calls) = app(layer(), |_| ([("content-encoding", "gzip")], "no gzip, in truth"));
    for compressing in [app.clone(), app.layer(CompressionLayer::new())] {
        let response = send(&compressing, accepting(Some("gzip"))).await;
        assert_eq!(encoding(&response), Some("gzip"));
        assert_eq!(bytes(response).await, "no gzip, in truth");
    }
    assert_eq!(calls.count(), 1);
}

/// The text, as a client compresses it.
async fn gzipped(text: &str) -> Bytes {
    let text = text.to_owned();
    let echo = Router::new().route("/orders", post(move || async move { text }));
    let response = send(&echo.layer(CompressionLayer::new()), accepting(Some("gzip"))).await;
    assert_eq!(encoding(&response), Some("gzip"));
    bytes(response).await
}

#[tokio::test]
async fn a_compressed_request_is_limited_where_it_is_unpacked() {
    let small = gzipped(&"tea".repeat(100)).await;
    let bomb = gzipped(&"0".repeat(4 << 20)).await;
    assert!(bomb.len() < 16 << 10, "{}", bomb.len());
    let packed = |body: &Bytes| {
        let mut request = request("k", body.clone());
        request
            .headers_mut()
            .insert("content-encoding", "gzip".parse().unwrap());
        request
    };

    // Outside: the layer reads what is unpacked, and no more of it than its limit.
    let calls = Calls::default();
    let outside = inner(&calls).layer(layer()).layer(RequestDecompressionLayer::new());
    let refused = send(&outside, packed(&bomb)).await;
    assert_eq!((refused.status(), calls.count()), (StatusCode::PAYLOAD_TOO_LARGE, 0));
    for expected in ["executed", "replayed"] {
        let response = send(&outside, packed(&small)).await;
        assert_eq!(origin(&response), expected);
        assert_eq!(bytes(response).await, format!("1: {}", "tea".repeat(100)));
    }
    // Inside: the layer never unpacks anything. What the handler unpacks is limited by its own extractor.
    let calls = Calls::default();
    let inside = inner(&calls).layer(RequestDecompressionLayer::new()).layer(layer());
    let refused = send(&inside, packed(&bomb)).await;
    assert_eq!((refused.status(), calls.count()), (StatusCode::PAYLOAD_TOO_LARGE, 0));
    let another = send(&inside, packed(&small)).await;
    assert_eq!(another.status(), StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test(start_paused = true)]
async fn a_time_out_outside_ends_the_wait_and_not_the_work() {
    for status in [StatusCode::REQUEST_TIMEOUT, StatusCode::GATEWAY_TIMEOUT] {
        let Gated { app, calls, gate, .. } = gated(layer());
        let app = app.layer(TimeoutLayer::with_status_code(status, Duration::from_secs(1)));
        let cut = send(&app, request("k", "tea")).await;
        assert_eq!((cut.status(), origin(&cut), calls.count()), (status, "", 1));
        // A second one that waits in vain as well.
        assert_eq!(send(&app, request("k", "tea")).await.status(), status);
        gate.add_permits(1);
        let again = send(&app, request("k", "tea")).await;
        assert_eq!(again.status(), StatusCode::OK);
        assert_eq!(bytes(again).await, "order 1");
        let replay = send(&app, request("k", "tea")).await;
        assert_eq!((origin(&replay), calls.count()), ("replayed", 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_out_inside_leaves_the_request_in_doubt() {
    for (status, recording) in [
        (StatusCode::REQUEST_TIMEOUT, Recording::answers()),
        (StatusCode::REQUEST_TIMEOUT, Recording::successes()),
        (StatusCode::GATEWAY_TIMEOUT, Recording::answers()),
        (StatusCode::GATEWAY_TIMEOUT, Recording::successes()),
    ] {
        let calls = Calls::default();
        let counted = calls.clone();
        let never = move || {
            counted.next();
            std::future::pending::<String>()
        };
        let app = Router::new()
            .route("/orders", post(never))
            .layer(TimeoutLayer::with_status_code(status, Duration::from_secs(1)))
            .layer(layer().recording(recording));
        let cut = send(&app, request("k", "tea")).await;
        assert_eq!((cut.status(), origin(&cut)), (status, "executed"));
        // The handler was dropped in the middle, and nobody knows what it did.
        let again = send(&app, request("k", "tea")).await;
        assert_eq!(again.status(), StatusCode::CONFLICT);
        assert_eq!(problem(again).await["type"], kind::IN_DOUBT);
        assert_eq!(calls.count(), 1);
    }
}

#[tokio::test]
async fn traces_see_each_request_outside_and_each_execution_inside() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&seen);
    let trace = TraceLayer::new_for_http().on_response(move |_: &Response<_>, _: Duration, _: &tracing::Span| {
        counting.fetch_add(1, Ordering::SeqCst);
    });
    for (is_outside, expected) in [(true, 3), (false, 1)] {
        seen.store(0, Ordering::SeqCst);
        let calls = Calls::default();
        let app = match is_outside {
            true => inner(&calls).layer(layer()).layer(trace.clone()),
            false => inner(&calls).layer(trace.clone()).layer(layer()),
        };
        for _ in 0..3 {
            assert_eq!(bytes(send(&app, request("k", "tea")).await).await, "1: tea");
        }
        assert_eq!((seen.load(Ordering::SeqCst), calls.count()), (expected, 1));
    }
}

/// A body that does not say how long it is.
fn chunked(body: &'static str) -> Body {
    let pieces = body
        .as_bytes()
        .chunks(3)
        .map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
    Body::from_stream(futures::stream::iter(pieces.collect::<Vec<_>>()))
}

#[tokio::test]
async fn a_limit_on_bodies_answers_the_same_on_either_side() {
    for is_outside in [true, false] {
        let calls = Calls::default();
        let limit = RequestBodyLimitLayer::new(5);
        let app = match is_outside {
            true => inner(&calls).layer(layer()).layer(limit),
            false => inner(&calls).layer(limit).layer(layer()),
        };
        let mut known = request("known", "coffee");
        known.headers_mut().insert("content-length", "6".parse().unwrap());
        assert_eq!(send(&app, known).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let unknown = send(&app, request("unknown", chunked("coffee"))).await;
        assert_eq!(unknown.status(), StatusCode::PAYLOAD_TOO_LARGE, "outside: {is_outside}");
        if is_outside {
            assert_eq!(problem(unknown).await["type"], kind::BODY_TOO_LARGE);
        }
        // Inside, it is an answer like any other.
        let again = send(&app, request("unknown", chunked("coffee"))).await;
        let expected = if is_outside { "" } else { "replayed" };
        assert_eq!(
            (again.status(), origin(&again)),
            (StatusCode::PAYLOAD_TOO_LARGE, expected)
        );
        assert_eq!(calls.count(), 0);
        for expected in ["executed", "replayed"] {
            assert_eq!(origin(&send(&app, request("k", chunked("tea"))).await), expected);
        }
        assert_eq!(calls.count(), 1);
    }
}

#[tokio::test]
async fn a_client_that_expects_100_continue_sends_its_body_only_for_a_key_that_is_right() {
    let calls = Calls::default();
    let address = serve(inner(&calls).layer(layer())).await;
    let expecting = |key: &str| {
        format!(
            "POST /orders HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nexpect: 100-continue\r\nidempotency-key: {key}\r\n\
             content-length: 3\r\n\r\n"
        )
    };
    for expected in ["executed", "replayed"] {
        let mut connection = connect(address, &expecting("k")).await;
        let asked = head(&mut connection).await;
        assert!(asked.starts_with("HTTP/1.1 100 "), "{asked}");
        connection.write_all(b"tea").await.unwrap();
        let answered = head(&mut connection).await;
        assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
        assert_eq!(line(&answered, "idempotency-origin"), Some(expected));
        let mut body = String::new();
        connection.read_to_string(&mut body).await.unwrap();
        assert_eq!(body, "1: tea");
    }
    let mut connection = connect(address, &expecting("no, key")).await;
    let refused = head(&mut connection).await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    assert_eq!(calls.count(), 1);
}

/// Serves HTTP/2, by prior knowledge, for one connection.
async fn serve_http2(app: Router) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server
            .serve_connection(TokioIo::new(connection), TowerToHyperService::new(app))
            .await
    });
    address
}

#[tokio::test]
async fn a_request_is_the_same_over_http_1_and_http_2() {
    let shop = gated(layer());
    let (first, second) = (serve(shop.app.clone()).await, serve_http2(shop.app.clone()).await);
    let connection = TokioIo::new(TcpStream::connect(second).await.unwrap());
    let (client, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), connection)
        .await
        .unwrap();
    tokio::spawn(driver);
    // In HTTP/2 the authority is a part of the URI, and lines of a connection do not exist.
    let ask = |key: &str| {
        let request = Request::post(format!("http://shop:{}/orders", second.port()))
            .header("idempotency-key", key)
            .body(Full::new(Bytes::from("tea")))
            .unwrap();
        let mut client = client.clone();
        async move {
            let response = client.send_request(request).await.unwrap();
            let origin = origin(&response).to_owned();
            (origin, response.into_body().collect().await.unwrap().to_bytes())
        }
    };
    // Many streams of one connection, in flight together.
    let many = futures::stream::iter(0..20)
        .map(|_| ask("k"))
        .buffer_unordered(20)
        .collect::<Vec<_>>();
    let opened = async {
        shop.begun.notified().await;
        shop.gate.add_permits(1);
    };
    let (answers, ()) = futures::join!(many, opened);
    assert!(answers.iter().all(|(_, body)| body == "order 1"), "{answers:?}");
    assert_eq!(answers.iter().filter(|(origin, _)| origin == "executed").count(), 1);
    let (head, body) = post_raw(first, "idempotency-key: k\r\n", "tea").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(line(&head, "idempotency-origin"), Some("replayed"));
    assert_eq!((body.as_str(), shop.calls.count()), ("order 1", 1));
}

async fn at(app: &Router, path: &str) -> String {
    let request = Request::post(path).header("idempotency-key", "k");
    let response = send(app, request.body(Body::from("tea")).unwrap()).await;
    match response.status() {
        StatusCode::OK => origin(&response).to_owned(),
        other => other.as_str().to_owned(),
    }
}

#[tokio::test]
async fn one_router_nested_twice_is_two_routes() {
    let orders = || Router::new().route("/orders", post(|| async { "done" }));
    let one = layer();
    let nested: [(&str, Router); 7] = [
        (
            "outside of both",
            Router::new().nest("/eu", orders()).nest("/us", orders()).layer(layer()),
        ),
        (
            "inside of each",
            Router::new()
                .nest("/eu", orders().layer(one.clone()))
                .nest("/us", orders().layer(one.clone())),
        ),
        ("of routes", {
            let one = layer();
            Router::new()
                .nest("/eu", orders().route_layer(one.clone()))
                .nest("/us", orders().route_layer(one))
        }),
        (
            "outside of services",
            Router::new()
                .nest_service("/eu", orders())
                .nest_service("/us", orders())
                .layer(layer()),
        ),
        ("around services", {
            let one = layer();
            Router::new()
                .nest_service("/eu", one.layer(orders()))
                .nest_service("/us", one.layer(orders()))
        }),
        (
            "of a fallback",
            Router::new().fallback(|| async { "done" }).layer(layer()),
        ),
        ("outside of axum", {
            let app = Router::new().nest("/eu", orders()).nest("/us", orders());
            Router::new().fallback_service(layer().layer(app))
        }),
    ];
    for (name, app) in nested {
        assert_eq!(at(&app, "/eu/orders").await, "executed", "{name}");
        assert_eq!(at(&app, "/us/orders").await, "executed", "{name}");
        assert_eq!(at(&app, "/eu/orders").await, "replayed", "{name}");
        assert_eq!(at(&app, "/us/orders").await, "replayed", "{name}");
        // Another query is another request under the same key.
        assert_eq!(at(&app, "/us/orders?express=1").await, "422", "{name}");
    }
}

#[tokio::test]
async fn what_a_pattern_captures_is_a_part_of_the_request() {
    let done = || post(|| async { "done" });
    let orders = Router::new().route("/orders/{id}", done());
    let nested: [(&str, Router); 3] = [
        ("nested", Router::new().nest("/{region}", orders.clone()).layer(layer())),
        ("nested, inside", Router::new().nest("/{region}", orders.layer(layer()))),
        ("a rest", Router::new().route("/{*rest}", done()).layer(layer())),
    ];
    for (name, app) in nested {
        assert_eq!(at(&app, "/eu/orders/1").await, "executed", "{name}");
        assert_eq!(at(&app, "/eu/orders/1").await, "replayed", "{name}");
        // One route, and so one key: it is told, and never answered with what belongs to another path.
        assert_eq!(at(&app, "/us/orders/1").await, "422", "{name}");
        assert_eq!(at(&app, "/eu/orders/2").await, "422", "{name}");
    }
}

#[tokio::test]
async fn what_no_route_matches_is_answered_by_the_router_and_kept_for_none_else() {
    let app = Router::new()
        .route("/orders", post(|| async { "done" }))
        .layer(layer())
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page").into_response() });
    assert_eq!(at(&app, "/nothing").await, "404");
    assert_eq!(at(&app, "/orders").await, "executed");
    // Another method of the route.
    let get = Request::get("/orders").header("idempotency-key", "k");
    let response = app.oneshot(get.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}
