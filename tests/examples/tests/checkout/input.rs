//! Promise 17: bad input is answered with a problem that says what to do, never with a 5xx, and nothing is written.

use crate::checkout_support::{Request, Server, exchange};

const GOOD: &str = r#"{"item": "tea", "quantity": 1}"#;

fn service(directory: &tempfile::TempDir) -> Server {
    Server::start(&directory.path().join("shop.db"), 0, &["--delay-ms", "0"])
}

/// The last part of the type's address, without its ending.
fn kind(type_uri: &str) -> &str {
    let page = type_uri.rsplit('/').next().unwrap_or(type_uri);
    page.trim_start_matches("constant.").trim_end_matches(".html")
}

fn bad_requests() -> Vec<(&'static str, Request, u16, &'static str)> {
    let order = Request::order;
    let keyed = || order().key("\"k-1\"");
    let long_item = format!(r#"{{"item": "{}", "quantity": 1}}"#, "x".repeat(101));
    let large = format!(r#"{{"item": "{}", "quantity": 1}}"#, "x".repeat(17 * 1024));
    let mut chunked = keyed().json(&large);
    chunked.length = None;
    vec![
        ("no key", order().json(GOOD), 400, "KEY_MISSING"),
        (
            "no key in a form",
            order().form("item=tea&quantity=1"),
            400,
            "KEY_MISSING",
        ),
        ("empty key", order().key("").json(GOOD), 400, "KEY_MALFORMED"),
        ("empty quoted key", order().key("\"\"").json(GOOD), 400, "KEY_MALFORMED"),
        ("open quote", order().key("\"k-1").json(GOOD), 400, "KEY_MALFORMED"),
        (
            "two keys in a header",
            order().key("k-1, k-2").json(GOOD),
            400,
            "KEY_MALFORMED",
        ),
        ("two headers", keyed().key("\"k-2\"").json(GOOD), 400, "KEY_MALFORMED"),
        (
            "key of 256 bytes",
            order().key("k".repeat(256)).json(GOOD),
            400,
            "KEY_MALFORMED",
        ),
        (
            "key that is not ASCII",
            order().key(b"caf\xc3\xa9").json(GOOD),
            400,
            "KEY_MALFORMED",
        ),
        ("key with a space", order().key("k 1").json(GOOD), 400, "KEY_MALFORMED"),
        (
            "key that is a number",
            order().json(r#"{"item": "tea", "quantity": 1, "idempotency_key": 1}"#),
            400,
            "KEY_MALFORMED",
        ),
        (
            "key with a line break",
            order().json(r#"{"item": "tea", "quantity": 1, "idempotency_key": "a\nb"}"#),
            400,
            "KEY_MALFORMED",
        ),
        (
            "other key in the body",
            keyed().json(r#"{"item": "tea", "quantity": 1, "idempotency_key": "k-2"}"#),
            400,
            "KEY_MALFORMED",
        ),
        (
            "key twice in a form",
            order().form("item=tea&quantity=1&idempotency_key=a&idempotency_key=b"),
            400,
            "KEY_MALFORMED",
        ),
        (
            "empty key in a form",
            order().form("item=tea&quantity=1&idempotency_key="),
            400,
            "KEY_MALFORMED",
        ),
        (
            "key twice in JSON",
            order().json(r#"{"item": "tea", "quantity": 1, "idempotency_key": "a", "idempotency_key": "b"}"#),
            400,
            "KEY_MALFORMED",
        ),
        ("empty body", keyed().json(""), 400, "BODY_MALFORMED"),
        ("no JSON", keyed().json("tea, please"), 400, "BODY_MALFORMED"),
        (
            "JSON cut off",
            keyed().json(r#"{"item": "tea", "quant"#),
            400,
            "BODY_MALFORMED",
        ),
        (
            "JSON and more",
            keyed().json(format!("{GOOD} {GOOD}")),
            400,
            "BODY_MALFORMED",
        ),
        ("an array", keyed().json(r#"["tea", 1]"#), 400, "BODY_MALFORMED"),
        (
            "an array with an element for every field",
            keyed().json(" \r\n\t[\"tea\", 1, null]"),
            400,
            "BODY_MALFORMED",
        ),
        ("a text", keyed().json("\"tea\""), 400, "BODY_MALFORMED"),
        ("null", keyed().json("null"), 400, "BODY_MALFORMED"),
        (
            "very deep JSON",
            keyed().json("[".repeat(10_000)),
            400,
            "BODY_MALFORMED",
        ),
        (
            "JSON that is not UTF-8",
            keyed().json(b"{\"item\": \"\xff\", \"quantity\": 1}"),
            400,
            "BODY_MALFORMED",
        ),
        (
            "unknown member",
            keyed().json(r#"{"item": "tea", "quantity": 1, "price": 0}"#),
            400,
            "BODY_MALFORMED",
        ),
        (
            "missing member",
            keyed().json(r#"{"item": "tea"}"#),
            400,
            "BODY_MALFORMED",
        ),
        (
            "quantity as text",
            keyed().json(r#"{"item": "tea", "quantity": "1"}"#),
            400,
            "BODY_MALFORMED",
        ),
        (
            "quantity below 0",
            keyed().json(r#"{"item": "tea", "quantity": -1}"#),
            400,
            "BODY_MALFORMED",
        ),
        (
            "half a quantity",
            keyed().json(r#"{"item": "tea", "quantity": 1.5}"#),
            400,
            "BODY_MALFORMED",
        ),
        (
            "quantity beyond counting",
            keyed().json(r#"{"item": "tea", "quantity": 99999999999999999999}"#),
            400,
            "BODY_MALFORMED",
        ),
        (
            "quantity 0",
            keyed().json(r#"{"item": "tea", "quantity": 0}"#),
            400,
            "invalid-order",
        ),
        (
            "quantity 1001",
            keyed().json(r#"{"item": "tea", "quantity": 1001}"#),
            400,
            "invalid-order",
        ),
        (
            "empty item",
            keyed().json(r#"{"item": " ", "quantity": 1}"#),
            400,
            "invalid-order",
        ),
        ("long item", keyed().json(long_item), 400, "invalid-order"),
        (
            "item with a NUL",
            keyed().json(r#"{"item": "a\u0000b", "quantity": 1}"#),
            400,
            "invalid-order",
        ),
        (
            "unknown field in a form",
            keyed().form("item=tea&quantity=1&price=0"),
            400,
            "BODY_MALFORMED",
        ),
        (
            "missing field in a form",
            keyed().form("item=tea"),
            400,
            "BODY_MALFORMED",
        ),
        (
            "field twice in a form",
            keyed().form("item=tea&item=cake&quantity=1"),
            400,
            "BODY_MALFORMED",
        ),
        (
            "no number in a form",
            keyed().form("item=tea&quantity=one"),
            400,
            "invalid-order",
        ),
        (
            "quantity 0 in a form",
            keyed().form("item=tea&quantity=0"),
            400,
            "invalid-order",
        ),
        ("plain text", keyed().body("text/plain", GOOD), 415, "MEDIA_TYPE"),
        (
            "multipart",
            keyed().body("multipart/form-data; boundary=x", "--x--"),
            415,
            "MEDIA_TYPE",
        ),
        (
            "two content types",
            keyed().json(GOOD).header("Content-Type", "text/plain"),
            415,
            "MEDIA_TYPE",
        ),
        ("no content type", keyed(), 415, "MEDIA_TYPE"),
        ("large body", keyed().json(large), 413, "BODY_TOO_LARGE"),
        ("large body in chunks", chunked, 413, "BODY_TOO_LARGE"),
        (
            "unknown address",
            Request::new("POST", "/order").json(GOOD),
            404,
            "about:blank",
        ),
        ("unknown method", Request::new("DELETE", "/orders"), 405, "about:blank"),
    ]
}

#[test]
fn bad_input_gets_a_problem_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = service(&directory);
    for (name, request, status, type_of_problem) in bad_requests() {
        let answer = server.send(&request);
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{name}"
        );
        assert!(answer.header("x-correlation-id").is_some(), "{name}");
        let problem = answer.json();
        let type_uri = problem["type"].as_str().unwrap();
        assert_eq!(kind(type_uri), type_of_problem, "{name}: {problem}");
        assert_eq!(problem["status"], status, "{name}");
        assert!(!problem["title"].as_str().unwrap().is_empty(), "{name}");
        assert!(problem["detail"].as_str().unwrap().len() > 20, "{name}: {problem}");
    }
    assert_eq!(server.orders(), 0);

    // The key was in most of them, and is not used up.
    let answer = server.send(&Request::order().key("\"k-1\"").json(GOOD));
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("idempotency-origin"), Some("executed"));
    assert_eq!(server.orders(), 1);
}

#[test]
fn another_payload_under_the_same_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = service(&directory);
    assert_eq!(server.send(&Request::order().key("k-1").json(GOOD)).status, 201);
    for other in [
        r#"{"item": "tea", "quantity": 2}"#,
        r#"{"item": "cake", "quantity": 1}"#,
    ] {
        let answer = server.send(&Request::order().key("k-1").json(other));
        assert_eq!(answer.status, 422, "{answer:?}");
        assert_eq!(kind(answer.json()["type"].as_str().unwrap()), "KEY_REUSED");
    }
    assert_eq!(server.orders(), 1);
    // And the first request's answer is still there.
    let again = server.send(&Request::order().key("k-1").json(GOOD));
    assert_eq!(
        (again.status, again.header("idempotency-origin")),
        (201, Some("replayed"))
    );
}

#[test]
fn a_body_that_breaks_off_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let server = service(&directory);
    let mut request = Request::order().key("k-1").json(GOOD);
    request.length = Some(GOOD.len() + 10);
    for bytes in [request.bytes(), b"POST /orders HTTP/1.1\r\nhost: sh".to_vec()] {
        let mut stream = std::net::TcpStream::connect(server.address).unwrap();
        std::io::Write::write_all(&mut stream, &bytes).unwrap();
        drop(stream);
    }
    // What is no HTTP at all is turned away before any handler sees it.
    if let Ok(answer) = exchange(server.address, b"how much is the tea?\r\n\r\n") {
        assert_eq!(answer.status, 400);
    }
    let answer = server.send(&Request::order().key("k-1").json(GOOD));
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(server.orders(), 1);
}
