//! Promise 17, for any request whatever: never a 5xx that the handler did not answer, never a panic, and the same status for the same
//! request. What the fuzz target `http` looks for from bytes, this does from pieces of requests, without a nightly toolchain.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

#[path = "../common/any_request.rs"]
mod any_request;

const METHODS: &[&str] = &["POST", "POST", "POST", "PATCH", "PUT", "GET", "OPTIONS", "PURGE"];

const TARGETS: &[&str] = &[
    "/orders",
    "/orders?a=b",
    "/",
    "*",
    "http://shop/orders",
    "/a%00|b=%7C",
    "/{id}",
    "/o?\u{fc}",
];

const NAMES: &[&str] = &[
    "idempotency-key",
    "idempotency-key",
    "x-idempotency-key",
    "content-type",
    "content-type",
    "content-encoding",
    "content-length",
    "accept-encoding",
    "authorization",
    "x-tenant",
    "x-answer",
    "x-answer",
    "x-outcome",
    "answer-content-type",
    "answer-set-cookie",
    "answer-connection",
    "answer-location",
    "answer-trailer",
    "answer-idempotency-origin",
    "answer-stripe-should-retry",
    "expect",
    "upgrade",
];

const VALUES: &[&str] = &[
    "k",
    "\"k\"",
    "\"k",
    "k;a=1",
    "",
    "a, b",
    "us",
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "multipart/form-data",
    "text/event-stream",
    "gzip",
    "identity",
    "0",
    "99999999999999999999",
    "100",
    "101",
    "199",
    "201",
    "204",
    "304",
    "400",
    "408",
    "409",
    "425",
    "429",
    "500",
    "503",
    "504",
    "599",
    "999",
    "record",
    "outcome only",
    "nothing done",
    "unknown",
    "/orders/1",
    "x-kept, close",
    "\u{fc}",
];

const BODIES: &[&str] = &[
    "",
    "tea",
    r#"{"idempotency_key":"k"}"#,
    r#"{"idempotency_key":"other","csrf":1}"#,
    r#"{"idempotency_key":null}"#,
    r#"{"idempotency_key":["k"]}"#,
    r#"{"a":1,"a":2}"#,
    "[[[[",
    "idempotency_key=k&item=tea",
    "idempotency_key=%ff",
    "--b\r\ncontent-disposition: form-data; name=\"idempotency_key\"\r\n\r\nk\r\n--b--\r\n",
    "--b\r\ncontent-disposition: form-data; name=\"idempotency_key\"; filename=\"k\"\r\n\r\nk\r\n--b--\r\n",
    "--b\r\n",
    "a body of more than twenty bytes",
];

/// A piece that means something, or any bytes.
fn piece(known: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => select(known).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..8),
    ]
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    let line = (select(NAMES), piece(VALUES)).prop_map(|(name, value)| [name.as_bytes(), b": ", &value].concat());
    let first = (0..8_u8, select(METHODS), piece(TARGETS))
        .prop_map(|(settings, method, target)| [&[settings + b'0'], method.as_bytes(), b" ", &target].concat());
    (first, vec(line, 0..6), piece(BODIES)).prop_map(|(first, lines, body)| {
        let head = [vec![first], lines].concat().join(&b'\n');
        [head, b"\n\n".to_vec(), body].concat()
    })
}

#[test]
fn any_request_is_answered_by_its_handler_or_with_a_4xx_and_the_same_once_more() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    proptest!(ProptestConfig::with_cases(2000), |(input in input())| {
        runtime.block_on(any_request::check(&input));
    });
}
