//! Promise 20: every request has a correlation id that can stand in a header, a log line and a database column.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use http::{HeaderMap, HeaderValue};
use oneflight::http::{CorrelationId, CorrelationIdError, X_CORRELATION_ID, X_REQUEST_ID};
use proptest::prelude::*;

fn of(name: &http::HeaderName, value: &[u8]) -> CorrelationId {
    let mut headers = HeaderMap::new();
    headers.insert(name, HeaderValue::from_bytes(value).unwrap());
    CorrelationId::from_headers(&headers)
}

fn is_fresh(id: &CorrelationId) -> bool {
    let text = id.as_str();
    text.len() == 36 && text.as_bytes()[14] == b'4' && text.matches('-').count() == 4
}

#[test]
fn a_sane_inbound_id_is_kept() {
    assert_eq!(of(&X_REQUEST_ID, b"edge-5f2c").as_str(), "edge-5f2c");
    assert_eq!(of(&X_CORRELATION_ID, b"edge-5f2c").as_str(), "edge-5f2c");
    let longest = "x".repeat(CorrelationId::MAX_BYTES);
    assert_eq!(of(&X_REQUEST_ID, longest.as_bytes()).as_str(), longest);
}

#[test]
fn the_request_id_goes_before_the_correlation_id_unless_it_is_unusable() {
    let mut headers = HeaderMap::new();
    headers.insert(X_REQUEST_ID, HeaderValue::from_static("request"));
    headers.insert(X_CORRELATION_ID, HeaderValue::from_static("correlation"));
    assert_eq!(CorrelationId::from_headers(&headers).as_str(), "request");
    headers.insert(X_REQUEST_ID, HeaderValue::from_static("two words"));
    assert_eq!(CorrelationId::from_headers(&headers).as_str(), "correlation");
}

#[test]
fn anything_else_is_replaced_by_a_new_one() {
    let too_long = "x".repeat(CorrelationId::MAX_BYTES + 1);
    for value in [&b""[..], b"two words", b"caf\xc3\xa9", b"a\tb", too_long.as_bytes()] {
        assert!(is_fresh(&of(&X_REQUEST_ID, value)), "{value:?}");
    }
    let mut headers = HeaderMap::new();
    headers.append(X_REQUEST_ID, HeaderValue::from_static("a"));
    headers.append(X_REQUEST_ID, HeaderValue::from_static("b"));
    assert!(is_fresh(&CorrelationId::from_headers(&headers)));
    assert_ne!(CorrelationId::random(), CorrelationId::random());
}

#[test]
fn a_refused_id_says_the_limit_and_never_the_content() {
    let error = CorrelationId::new("secret\nsecret").unwrap_err();
    assert_eq!(error, CorrelationIdError::Character { position: 6 });
    assert!(!error.to_string().contains("secret"), "{error}");
    let error = "y".repeat(200).parse::<CorrelationId>().unwrap_err();
    assert!(error.to_string().contains("128"), "{error}");
}

proptest! {
    #[test]
    fn whatever_comes_in_the_id_can_be_sent_on(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, value);
            let id = CorrelationId::from_headers(&headers);
            let value = id.to_header_value();
            prop_assert_eq!(value.as_bytes(), id.as_str().as_bytes());
        }
    }
}
