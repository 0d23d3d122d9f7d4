//! The request that all services are sent: an order of some hundred bytes, with a key and a session of its own.
//!
//! `axum-idempotent` keeps answers in the client's session, and walks through all answers of a session when it adds one. So
//! every key comes with a session of its own, which costs it the least. The others are sent the same bytes.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, COOKIE, HOST};
use axum::http::{Method, Request};
use bytes::Bytes;

/// The body of every request.
pub const ORDER: &str =
    r#"{"customer":"c-1027","items":[{"sku":"tea-100","count":2},{"sku":"pot-1","count":1}],"currency":"EUR"}"#;

/// Where it is sent.
pub const PATH: &str = "/orders";

/// Whether a request has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyed {
    /// It has the key with this number.
    With(u64),
    /// It has none.
    Without,
}

/// Returns a key: 36 characters, as a UUID has.
pub fn key(number: u64) -> String {
    format!(
        "{:08x}-0000-4000-8000-{number:012x}",
        number.wrapping_mul(0x9E37_79B9) as u32
    )
}

/// Returns a session's cookie: its id is 16 bytes in base64.
pub fn cookie(number: u64) -> String {
    format!("session={number:021}A")
}

/// Returns the request as a service of tower's takes it.
pub fn request(keyed: Keyed) -> Request<Body> {
    with_body(keyed, Bytes::from_static(ORDER.as_bytes()))
}

/// Returns the request with another body.
pub fn with_body(keyed: Keyed, body: Bytes) -> Request<Body> {
    let number = match keyed {
        Keyed::With(number) => number,
        Keyed::Without => 0,
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header(HOST, "127.0.0.1")
        .header(CONTENT_TYPE, "application/json")
        .header(COOKIE, cookie(number));
    let request = match keyed {
        Keyed::With(number) => request.header("idempotency-key", key(number)),
        Keyed::Without => request,
    };
    request.body(Body::from(body)).expect("a valid request")
}

/// Writes the request as it goes over a connection.
pub fn write(keyed: Keyed, to: &mut Vec<u8>) {
    let number = match keyed {
        Keyed::With(number) => number,
        Keyed::Without => 0,
    };
    let key = match keyed {
        Keyed::With(number) => format!("idempotency-key: {}\r\n", key(number)),
        Keyed::Without => String::new(),
    };
    let cookie = cookie(number);
    let length = ORDER.len();
    let text = format!(
        "POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncookie: {cookie}\r\n{key}content-length: \
         {length}\r\n\r\n{ORDER}"
    );
    to.extend_from_slice(text.as_bytes());
}
