//! Promise 18: what a replay, or an answer of the layer's own, has to be as a message of HTTP: RFC 9110. `docs/http.md` has a row
//! for each requirement, with the name of its test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::SystemTime;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{any, post};
use futures::join;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use oneflight::http::kind;
use oneflight::http::layer::{Cookies, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http::{
    Calls, app, bytes, connect, head, layer, line, origin, post_raw, problem, request, send, serve, typed, unread,
};

#[tokio::test]
async fn header_lines_are_replayed_in_order_and_neither_split_nor_joined() {
    let values: [&[u8]; 5] = [b"a, b", b"", b"c;d=\"e, f\"", b"a, b", b"caf\xe9"];
    let (app, _) = app(layer(), move |_| {
        let mut response = "order".into_response();
        for value in values {
            let value = HeaderValue::from_bytes(value).unwrap();
            response.headers_mut().append("x-line", value.clone());
            response.headers_mut().append("vary", value);
        }
        response
    });
    for expected in ["executed", "replayed"] {
        let response = send(&app, request("k", "tea")).await;
        assert_eq!(origin(&response), expected);
        for name in ["x-line", "vary"] {
            let lines = response.headers().get_all(name).iter().map(HeaderValue::as_bytes);
            assert_eq!(lines.collect::<Vec<_>>(), values, "{name}");
        }
    }
}

#[tokio::test]
async fn a_cookie_is_never_replayed() {
    for policy in [Cookies::Drop, Cookies::OutcomeOnly] {
        let (app, calls) = app(layer().cookies(policy), |_| {
            ([("set-cookie", "session=ann")], "welcome")
        });
        let ask = || send(&app, request("k", "tea"));
        let (one, two, three) = join!(ask(), ask(), ask());
        for response in [one, two, three, ask().await] {
            let is_own = origin(&response) == "executed";
            assert_eq!(response.headers().contains_key("set-cookie"), is_own, "{policy:?}");
            let is_kept = is_own || policy == Cookies::Drop;
            assert_eq!(bytes(response).await == "welcome", is_kept, "{policy:?}");
        }
        assert_eq!(calls.count(), 1);
    }
}

#[tokio::test]
async fn trailers_are_replayed_as_trailers() {
    let (app, calls) = app(layer(), |_| {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        Body::new(http_body_util::Full::from("message").with_trailers(async move { Some(Ok(trailers)) }))
    });
    for _ in 0..2 {
        let response = send(&app, request("k", "tea")).await;
        assert!(!response.headers().contains_key("grpc-status"));
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "message");
    }
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_replay_has_a_date_of_its_own_and_tells_the_first_ones() {
    let long_ago = "Thu, 01 Jan 1970 00:00:00 GMT";
    let (app, _) = app(layer(), move |_| ([("date", long_ago)], "order"));
    let address = serve(app).await;
    let key = "idempotency-key: k\r\n";
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let before = seconds(SystemTime::now());
    let (first, _) = post_raw(address, key, "tea").await;
    assert_eq!(line(&first, "date"), Some(long_ago));
    let after = seconds(SystemTime::now());
    let (again, _) = post_raw(address, key, "tea").await;
    // The server made it.
    assert!(line(&again, "date").is_some_and(|date| date != long_ago), "{again}");
    let original = line(&again, "idempotency-original-date").unwrap();
    let original = seconds(httpdate::parse_http_date(original).unwrap());
    assert!((before..=after).contains(&original), "{again}");
}

#[tokio::test]
async fn hop_by_hop_and_connection_named_headers_are_not_recorded() {
    let of_the_connection = [
        ("connection", "keep-alive, X-Hop"),
        ("connection", "x-other"),
        ("x-hop", "1"),
        ("x-other", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("trailer", "x-sum"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
    ];
    let of_one_message = [
        ("access-control-allow-origin", "https://shop.example"),
        ("access-control-expose-headers", "x-kept"),
        ("date", "then"),
        ("content-length", "5"),
    ];
    let (app, _) = app(layer(), move |_| {
        let kept = AppendHeaders([("x-kept", "1")]);
        (
            AppendHeaders(of_the_connection),
            AppendHeaders(of_one_message),
            kept,
            "order",
        )
    });
    let first = send(&app, request("k", "tea")).await;
    assert!(
        of_the_connection
            .iter()
            .all(|(name, _)| first.headers().contains_key(*name))
    );
    let again = send(&app, request("k", "tea")).await;
    for (name, _) in of_the_connection.iter().chain(&of_one_message) {
        let replayed = again.headers().get(*name);
        assert!(replayed.is_none() || *name == "content-length", "{name}: {replayed:?}");
    }
    assert_eq!(again.headers()["x-kept"], "1");
}

/// Switches to a protocol that echoes a line.
async fn switch(request: Request) -> Response {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let mut connection = TokioIo::new(upgrade.await.unwrap());
        let mut line = [0; 4];
        connection.read_exact(&mut line).await.unwrap();
        connection.write_all(&line).await.unwrap();
    });
    let lines = [("connection", "upgrade"), ("upgrade", "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, lines).into_response()
}

#[tokio::test]
async fn an_upgrade_passes() {
    let address = serve(Router::new().route("/orders", any(switch)).layer(layer())).await;
    // Twice each: the second one is no replay.
    for method in ["GET", "GET", "POST", "POST"] {
        let raw = format!(
            "{method} /orders HTTP/1.1\r\nhost: shop\r\nidempotency-key: k\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
        );
        let mut connection = connect(address, &raw).await;
        let head = head(&mut connection).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{method}: {head}");
        assert_eq!(line(&head, "idempotency-replayed"), None);
        connection.write_all(b"tea\n").await.unwrap();
        let mut echo = String::new();
        connection.read_to_string(&mut echo).await.unwrap();
        assert_eq!(echo, "tea\n", "{method}");
    }
}

#[tokio::test]
async fn content_length_is_of_the_body_that_is_sent() {
    for (status, outcome) in [
        (StatusCode::OK, Outcome::Record),
        (StatusCode::OK, Outcome::OutcomeOnly),
        (StatusCode::NO_CONTENT, Outcome::Record),
        (StatusCode::NO_CONTENT, Outcome::OutcomeOnly),
    ] {
        let (app, _) = app(layer(), move |_| match status {
            StatusCode::OK => (status, outcome, [("content-length", "5")], "order").into_response(),
            _ => (status, outcome, ()).into_response(),
        });
        let address = serve(app).await;
        for replayed in [None, Some("true")] {
            let (head, body) = post_raw(address, "idempotency-key: k\r\n", "tea").await;
            assert_eq!(line(&head, "idempotency-replayed"), replayed);
            let length = match status {
                StatusCode::OK => Some(body.len().to_string()),
                _ => None,
            };
            assert_eq!(line(&head, "content-length"), length.as_deref(), "{status} {outcome:?}");
            let is_order = status == StatusCode::OK && (outcome == Outcome::Record || replayed.is_none());
            assert_eq!(body == "order", is_order, "{status} {outcome:?}");
            assert_eq!(body.is_empty(), status == StatusCode::NO_CONTENT);
        }
    }
}

#[tokio::test]
async fn the_location_of_what_was_created_is_replayed() {
    for outcome in [Outcome::Record, Outcome::OutcomeOnly] {
        let (app, _) = app(layer(), move |call| {
            let location = [("location", format!("/orders/{call}"))];
            (StatusCode::CREATED, outcome, location, "order")
        });
        for _ in 0..2 {
            let response = send(&app, request("k", "tea")).await;
            assert_eq!(response.status(), StatusCode::CREATED);
            assert_eq!(response.headers()["location"], "/orders/1");
        }
    }
}

#[tokio::test]
async fn a_malformed_key_is_answered_before_the_body_is_read() {
    let (app, _) = app(layer(), |_| "order");
    let refused = send(&app, request("no, key", unread())).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);

    // A client that asks before it sends the body (RFC 9110, section 10.1.1).
    let address = serve(app).await;
    for (key, expected) in [("no, key", "HTTP/1.1 400 "), ("k", "HTTP/1.1 100 ")] {
        let raw = format!(
            "POST /orders HTTP/1.1\r\nhost: shop\r\nidempotency-key: {key}\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        );
        let mut connection = connect(address, &raw).await;
        assert!(head(&mut connection).await.starts_with(expected), "{key}");
        if key == "k" {
            connection.write_all(b"tea").await.unwrap();
            assert!(head(&mut connection).await.starts_with("HTTP/1.1 200 "));
        }
    }
}

#[tokio::test]
async fn a_retry_with_another_accept_gets_the_same_answer() {
    let negotiate = |headers: HeaderMap, _: Bytes| async move {
        match headers[HeaderName::from_static("accept")].to_str().unwrap() {
            "application/json" => ([("content-type", "application/json")], "{}").into_response(),
            _ => StatusCode::NOT_ACCEPTABLE.into_response(),
        }
    };
    let app = Router::new().route("/orders", post(negotiate)).layer(layer());
    for (accept, expected) in [
        ("application/json", "executed"),
        ("text/html", "replayed"),
        ("image/*", "replayed"),
    ] {
        let mut request = typed("application/json", "k", "{}");
        request.headers_mut().insert("accept", accept.parse().unwrap());
        let response = send(&app, request).await;
        assert_eq!((response.status(), origin(&response)), (StatusCode::OK, expected));
        assert_eq!(response.headers()["content-type"], "application/json");
    }
    // Nor are problems negotiated.
    let mut other = typed("application/json", "k", "[]");
    other.headers_mut().insert("accept", "text/html".parse().unwrap());
    assert_eq!(problem(send(&app, other).await).await["type"], kind::KEY_REUSED);
}

#[tokio::test]
async fn a_method_is_covered_however_it_is_written() {
    let calls = Calls::default();
    let counted = calls.clone();
    let handler = move |_: Bytes| {
        counted.next();
        async { "order" }
    };
    let app = Router::new().route("/orders", any(handler)).layer(layer());
    let ask = |method: &str| {
        let mut asked = request("k", "tea");
        *asked.method_mut() = method.parse().unwrap();
        send(&app, asked)
    };
    for (method, expected) in [("patch", "executed"), ("patch", "replayed"), ("PATCH", "executed")] {
        assert_eq!(origin(&ask(method).await), expected, "{method}");
    }
    assert_eq!(calls.count(), 2);
}
