//! Promises 17 and 18 where a client, a handler or a setting is at its worst: everything is bounded, nothing hangs, and no one sees a
//! 5xx that was not asked for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use axum::routing::post;
use futures::StreamExt;
use http_body_util::BodyExt;
use oneflight::http::layer::{IdempotencyLayer, Requirement};
use oneflight::http::{Fingerprints, KEY_FIELD, KeySource, kind};
use oneflight::{Idempotency, MemoryStore, Scope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::{Layer, ServiceExt};

use crate::http;

use crate::http::{Calls, app, bytes, connect, head, layer, line, origin, post_raw, request, send, serve, typed};

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A service that counts what it executes, and says how long the body was.
fn counting(layer: IdempotencyLayer) -> (Router, Calls) {
    let calls = Calls::default();
    let counted = calls.clone();
    let handler = move |body: Bytes| {
        counted.next();
        async move { body.len().to_string() }
    };
    let route = post(handler).layer(axum::extract::DefaultBodyLimit::disable());
    (Router::new().route("/orders", route).layer(layer), calls)
}

/// Returns the status of an answer to what is sent as it is, or nothing if the server just hangs up.
async fn status(address: SocketAddr, raw: &[u8]) -> Option<u16> {
    let mut connection = TcpStream::connect(address).await.unwrap();
    // A server may have answered and closed before all of it was sent.
    let _ = connection.write_all(raw).await;
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).await.ok()?;
    std::str::from_utf8(&answer[9..]).unwrap().parse().ok()
}

#[tokio::test]
async fn bodies_that_trickle_in_are_given_up_after_their_time() {
    let (app, calls) = counting(layer().request_time(Duration::from_millis(300)));
    let address = serve(app).await;
    let trickling = (0..50).map(|number| async move {
        let raw =
            format!("POST /orders HTTP/1.1\r\nhost: shop\r\nidempotency-key: {number}\r\ncontent-length: 99\r\n\r\n");
        let (mut reader, mut writer) = connect(address, &raw).await.into_split();
        // A byte now and then: the connection is never idle for long.
        let sending = async {
            while writer.write_all(b"t").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = [0; 12];
        tokio::select! {
            read = reader.read_exact(&mut answer) => read.map(|_| answer).unwrap(),
            () = sending => unreachable!(),
        }
    });
    let others = async {
        let (head, body) = post_raw(address, "idempotency-key: quick\r\n", "tea").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(body, "3");
    };
    let both = timeout(
        LONG,
        futures::future::join(futures::future::join_all(trickling), others),
    );
    let (answers, ()) = both.await.expect("they are waited for");
    assert!(answers.iter().all(|answer| answer == b"HTTP/1.1 408"), "{answers:?}");
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn keys_that_are_none_are_refused_over_the_wire() {
    let (app, calls) = counting(layer());
    let address = serve(app).await;
    let line = |value: &[u8]| [b"idempotency-key: ", value, b"\r\n"].concat();
    let raw = |lines: &[Vec<u8>]| {
        let head = b"POST /orders HTTP/1.1\r\nhost: shop\r\ncontent-length: 3\r\n".to_vec();
        [head, lines.concat(), b"\r\ntea".to_vec()].concat()
    };
    for (lines, expected) in [
        (vec![line(b"k"), line(b"k")], 400),
        (vec![line(b"k"), line(b"")], 400),
        (vec![line(b"k"); 90], 400),
        (vec![line(b"\xff\xfe")], 400),
        (vec![line("\u{fc}ber".as_bytes())], 400),
        (vec![line(b"\"k")], 400),
        (vec![line(b"k\x00")], 400),
        (vec![line(&[b'k'; 100 << 10])], 400),
        // More than hyper takes.
        (vec![line(&[b'k'; 1 << 20])], 431),
        (vec![line(b"k"); 10_000], 431),
    ] {
        let answered = timeout(LONG, status(address, &raw(&lines))).await.expect("an end");
        // The server may hang up on what it does not read.
        assert!(
            answered == Some(expected) || answered.is_none() && expected == 431,
            "{answered:?}"
        );
    }
    assert_eq!(calls.count(), 0);
    assert_eq!(status(address, &raw(&[line(b"k")])).await, Some(200));
}

fn any_key() -> IdempotencyLayer {
    layer()
        .required()
        .keys(KeySource::new().field(KEY_FIELD))
        .fingerprints(Fingerprints::new().sorted_json().leave_out("csrf"))
}

/// A form of this many parts.
fn parts(many: usize, last: &str) -> String {
    let mut form = String::new();
    for number in 0..many {
        write!(
            form,
            "--b\r\ncontent-disposition: form-data; name=\"f{number}\"\r\n\r\nx\r\n"
        )
        .unwrap();
    }
    form + last + "--b--\r\n"
}

#[tokio::test]
async fn bodies_made_to_be_hard_to_read_get_an_answer() {
    let key = "--b\r\ncontent-disposition: form-data; name=\"idempotency_key\"\r\n\r\nk\r\n";
    let deep = |open: &str, close: &str, many: usize| format!("{}1{}", open.repeat(many), close.repeat(many));
    let members: String = (0..50_000).map(|number| format!(r#""m{number}":1,"#)).collect();
    let repeated: String = r#""m":1,"#.repeat(50_000);
    let multipart = "multipart/form-data; boundary=b";
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    let mut utf_8 = br#"{"idempotency_key":""#.to_vec();
    utf_8.extend_from_slice(b"\xff\xfe\"}");
    for (content_type, body) in [
        (multipart, parts(10_000, "").into_bytes()),
        (multipart, parts(10_000, key).into_bytes()),
        (multipart, parts(2, &key.repeat(10_000)).into_bytes()),
        (multipart, b"--b\r\n".repeat(100_000)),
        (multipart, b"--b".repeat(100_000)),
        (
            multipart,
            format!("--b\r\n{}\r\n\r\nx\r\n--b--\r\n", "a: b\r\n".repeat(50_000)).into_bytes(),
        ),
        (multipart, b"\xff".repeat(100_000)),
        ("multipart/form-data", parts(1, key).into_bytes()),
        (json, deep("[", "]", 500_000).into_bytes()),
        (json, deep(r#"{"a":"#, "}", 200_000).into_bytes()),
        (
            json,
            format!(r#"{{"idempotency_key":{}}}"#, deep("[", "]", 100_000)).into_bytes(),
        ),
        (json, b"[".repeat(1_000_000)),
        (json, format!("{{{members}\"idempotency_key\":\"k\"}}").into_bytes()),
        (json, format!("{{{repeated}\"idempotency_key\":\"k\"}}").into_bytes()),
        (json, format!(r#"{{"n":{}}}"#, "9".repeat(1_000_000)).into_bytes()),
        (json, format!(r#"{{"s":"{}"}}"#, r"\u0000".repeat(100_000)).into_bytes()),
        (json, utf_8),
        (json, b"\xef\xbb\xbf{}".to_vec()),
        (form, b"&".repeat(1_000_000)),
        (form, b"idempotency_key=k&".repeat(50_000)),
        (form, b"idempotency_key=%ff%fe".to_vec()),
        (form, b"%".repeat(1_000_000)),
        ("text/plain", b"\xff\xfe\x00".to_vec()),
    ] {
        let what = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        for with_header in [false, true] {
            let (app, calls) = counting(any_key());
            let sent = || {
                let mut request = typed(content_type, "header-key", body.clone());
                if !with_header {
                    request.headers_mut().remove("idempotency-key");
                }
                request
            };
            let answered = timeout(LONG, send(&app, sent())).await.expect(&what);
            let status = answered.status();
            assert!(status == StatusCode::OK || status.is_client_error(), "{what}: {status}");
            assert_eq!(calls.count(), usize::from(status == StatusCode::OK), "{what}");
            // The same once more: the same status, and no second execution.
            let again = timeout(LONG, send(&app, sent())).await.expect(&what);
            assert_eq!(again.status(), status, "{what}");
            assert_eq!(calls.count(), usize::from(status == StatusCode::OK), "{what}");
        }
    }
}

#[tokio::test]
async fn a_body_that_is_encoded_is_never_unpacked() {
    // No gzip at all: it cannot be looked into, and nobody tries to.
    let (app, calls) = counting(any_key());
    let packed = |key: Option<&str>| {
        let mut request = typed("application/json", key.unwrap_or("-"), "\u{1f}\u{8b} no gzip");
        request
            .headers_mut()
            .insert("content-encoding", "gzip".parse().unwrap());
        if key.is_none() {
            request.headers_mut().remove("idempotency-key");
        }
        request
    };
    let refused = send(&app, packed(None)).await;
    assert_eq!(refused.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let taken = send(&app, packed(Some("k"))).await;
    assert_eq!((taken.status(), calls.count()), (StatusCode::OK, 1));
}

/// Header lines, under as many names as there may be, and more lines under one of them.
fn many_lines(names: usize, repeated: usize) -> HeaderMap {
    let mut lines = HeaderMap::new();
    for number in 0..repeated {
        lines.append("x-0", HeaderValue::from(number));
    }
    for number in 0..names {
        let name: HeaderName = format!("x-{number}").parse().unwrap();
        if lines.try_append(name, HeaderValue::from(number)).is_err() {
            break;
        }
    }
    lines
}

#[tokio::test]
async fn an_answer_with_too_many_header_lines_is_an_answer() {
    for (names, repeated) in [(5_000, 0), (1, 30_000), (40_000, 0), (40_000, 10)] {
        let lines = many_lines(names, repeated);
        let sent = lines.len();
        let roomy = Idempotency::builder(MemoryStore::new()).max_result_bytes(16 << 20);
        let layer = IdempotencyLayer::new(roomy.build()).unscoped();
        let calls = Calls::default();
        let counted = calls.clone();
        // Not axum's: its router adds lines of its own, and panics where there is no room for them.
        let service = layer.layer(tower::service_fn(move |_: Request<Body>| {
            counted.next();
            let mut answer = Response::new(Body::from("done"));
            answer.headers_mut().clone_from(&lines);
            std::future::ready(Ok::<_, Infallible>(answer))
        }));
        for expected in ["executed", "replayed"] {
            let Ok(response) = service.clone().oneshot(request("k", "tea")).await;
            assert_eq!(response.status(), StatusCode::OK, "{names} {repeated} {expected}");
            // Where there is no room for one more, the answer goes without the layer's own.
            assert!(
                origin(&response) == expected || names == 40_000,
                "{:?}",
                origin(&response)
            );
            let kept = response.headers().keys().filter(|name| name.as_str().starts_with("x-"));
            let kept: usize = kept.map(|name| response.headers().get_all(name).iter().count()).sum();
            assert_eq!(kept, sent, "{names} {repeated} {expected}");
            assert_eq!(bytes(response).await, "done");
        }
        assert_eq!(calls.count(), 1);
    }
}

fn panicking() -> Vec<(&'static str, IdempotencyLayer)> {
    vec![
        ("scope", layer().scope(|_| -> Scope { panic!("a bug of the scope") })),
        ("when", layer().when(|_| -> Requirement { panic!("a bug of when") })),
        ("route", layer().route(|_| -> String { panic!("a bug of the route") })),
        (
            "key",
            layer().key(|_, _| -> Option<String> { panic!("a bug of the key") }),
        ),
        (
            "alphabet",
            layer().keys(KeySource::new().alphabet(|_| panic!("a bug of the alphabet"))),
        ),
        (
            "fingerprint",
            layer().fingerprint(|_, _| panic!("a bug of the fingerprint")),
        ),
    ]
}

#[tokio::test]
async fn a_setting_that_panics_refuses_its_request_and_no_other() {
    for (name, layer) in panicking() {
        let (app, calls) = counting(layer);
        let address = serve(app).await;
        for _ in 0..2 {
            let (head, body) = post_raw(address, "idempotency-key: k\r\n", "tea").await;
            assert!(head.starts_with("HTTP/1.1 500 "), "{name}: {head}");
            assert_eq!(line(&head, "content-type"), Some("application/problem+json"), "{name}");
            assert!(
                body.contains(kind::INTERNAL) && !body.contains("a bug of"),
                "{name}: {body}"
            );
        }
        assert_eq!(calls.count(), 0, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_fails_after_it_has_begun_is_not_executed_again() {
    let (app, calls) = app(layer().max_answer_bytes(100), |_| {
        let pieces = (0..50).map(|_| Ok(Bytes::from_static(b"0123456789")));
        let broken = std::io::Error::other("the disk is gone");
        let pieces: Vec<_> = pieces.chain([Err(broken)]).collect();
        (StatusCode::CREATED, Body::from_stream(futures::stream::iter(pieces)))
    });
    let first = send(&app, request("k", "tea")).await;
    assert_eq!((first.status(), origin(&first)), (StatusCode::CREATED, "executed"));
    // Its client sees that it broke off.
    assert!(first.into_body().collect().await.is_err());
    let again = send(&app, request("k", "tea")).await;
    assert_eq!((again.status(), origin(&again)), (StatusCode::CREATED, "replayed"));
    let told: serde_json::Value = serde_json::from_slice(&bytes(again).await).unwrap();
    assert_eq!(told["type"], kind::OUTCOME_ONLY);
    assert_eq!(calls.count(), 1);
}

#[tokio::test]
async fn a_request_that_breaks_off_in_its_body_is_not_executed() {
    let (app, calls) = counting(layer());
    let address = serve(app).await;
    let head = "POST /orders HTTP/1.1\r\nhost: shop\r\nidempotency-key: k\r\n";
    for (rest, expected) in [
        ("content-length: 9\r\n\r\ntea", 400),
        ("transfer-encoding: chunked\r\n\r\n3\r\ntea\r\n", 400),
        ("transfer-encoding: chunked\r\n\r\nno chunk", 400),
        ("transfer-encoding: chunked\r\n\r\n3\r\ntea\r\n0\r\n", 400),
        ("transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\ntea", 400),
        ("content-length: 3\r\ncontent-length: 4\r\n\r\ntea", 400),
        ("content-length: -1\r\n\r\ntea", 400),
    ] {
        let mut connection = connect(address, &format!("{head}{rest}")).await;
        connection.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(LONG, connection.read_to_string(&mut answer))
            .await
            .expect("an end")
            .unwrap();
        // There may be nobody to answer; if there is one, it learns that nothing was done.
        let status = format!("HTTP/1.1 {expected} ");
        assert!(answer.is_empty() || answer.starts_with(&status), "{rest:?}: {answer}");
    }
    assert_eq!(calls.count(), 0);
    let (head, body) = post_raw(address, "idempotency-key: k\r\n", "tea").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!((body.as_str(), calls.count()), ("3", 1));
}

#[tokio::test]
async fn a_client_that_hangs_up_amid_a_large_answer_gets_it_when_it_comes_back() {
    let large = "x".repeat(200 << 10);
    let sent = large.clone();
    let (app, calls) = app(layer(), move |_| sent.clone());
    let address = serve(app).await;
    let raw = "POST /orders HTTP/1.1\r\nhost: shop\r\nidempotency-key: k\r\ncontent-length: 3\r\n\r\ntea";
    let mut connection = connect(address, raw).await;
    head(&mut connection).await;
    connection.read_u8().await.unwrap();
    drop(connection);
    let (head, body) = post_raw(address, "idempotency-key: k\r\n", "tea").await;
    assert_eq!(line(&head, "idempotency-origin"), Some("replayed"));
    assert_eq!((body == large, calls.count()), (true, 1));
}

#[tokio::test]
async fn no_more_of_a_body_is_read_than_its_limit() {
    let (app, calls) = counting(layer().max_request_bytes(1000));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let endless = futures::stream::repeat(Bytes::from_static(&[b'x'; 100])).map(move |piece| {
        tell.send(piece.len()).unwrap();
        Ok::<_, std::io::Error>(piece)
    });
    let refused: Response<Body> = send(&app, request("k", Body::from_stream(endless))).await;
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let mut read = 0;
    while let Some(more) = told.recv().await {
        read += more;
    }
    assert!((1001..=1100).contains(&read), "{read}");
    // What says that it is too large is not read at all.
    let mut request: Request<Body> = request("k", http::unread());
    request.headers_mut().insert("content-length", "1001".parse().unwrap());
    assert_eq!(send(&app, request).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(calls.count(), 0);
}
