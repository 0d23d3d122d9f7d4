//! The layer's property for any request whatever: it is answered with what its handler says or with a 4xx, and the same once more.
//!
//! `tests/http/fuzz.rs` and the fuzz target `http` share it. An input is a text that looks like HTTP:
//!
//! ```text
//! 3POST /orders?a=b                  the number of the settings, the method, the target
//! idempotency-key: k                 any lines; those that are none are left out
//! x-answer: 201                      the status that the handler answers; 200 unless it is said
//! x-outcome: unknown                 what the handler says is to become of its answer
//! answer-location: /orders/1         a line of the answer
//!
//! the body, which the handler answers
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use oneflight::http::layer::{
    Cookies, Dialect, IDEMPOTENCY_ORIGIN, IdempotencyLayer, IdempotencyService, Outcome, Recording,
};
use oneflight::http::{Fingerprints, KEY_FIELD, KeySource};
use oneflight::{Idempotency, MemoryStore, Scope};
use tower_layer::Layer;
use tower_service::Service;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers what the request says.
#[derive(Clone, Default)]
struct Handler {
    calls: Arc<AtomicUsize>,
}

impl Service<Request<Body>> for Handler {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (parts, body) = request.into_parts();
        let mut response = Response::new(body);
        *response.status_mut() = asked_for(&parts.headers);
        for (name, value) in &parts.headers {
            if let Some(name) = name.as_str().strip_prefix("answer-")
                && let Ok(name) = name.parse::<HeaderName>()
                // What the layer says of an answer is read below.
                && name != IDEMPOTENCY_ORIGIN
            {
                response.headers_mut().append(name, value.clone());
            }
        }
        if let Some(outcome) = said(&parts.headers) {
            response.extensions_mut().insert(outcome);
        }
        ready(Ok(response))
    }
}

fn asked_for(headers: &HeaderMap) -> StatusCode {
    let said = headers
        .get("x-answer")
        .and_then(|it| StatusCode::from_bytes(it.as_bytes()).ok());
    said.unwrap_or(StatusCode::OK)
}

fn said(headers: &HeaderMap) -> Option<Outcome> {
    match headers.get("x-outcome")?.as_bytes() {
        b"record" => Some(Outcome::Record),
        b"outcome only" => Some(Outcome::OutcomeOnly),
        b"nothing done" => Some(Outcome::NothingDone),
        b"unknown" => Some(Outcome::Unknown),
        _ => None,
    }
}

fn layer(number: u8) -> IdempotencyLayer {
    let layer = IdempotencyLayer::new(Idempotency::builder(MemoryStore::new()).build());
    let anywhere = KeySource::new()
        .alias(HeaderName::from_static("x-idempotency-key"))
        .field(KEY_FIELD);
    let tenant = |parts: &http::request::Parts| {
        let tenant = parts.headers.get("x-tenant")?;
        Some(Scope::new(String::from_utf8_lossy(tenant.as_bytes())))
    };
    match number % 8 {
        0 => layer,
        1 => layer.unscoped().required().keys(anywhere),
        2 => layer.required().keys(KeySource::new().strict()),
        3 => layer
            .keys(anywhere)
            .fingerprints(Fingerprints::new().sorted_json().leave_out("csrf")),
        4 => layer.scope(tenant).dialect(Dialect::Stripe),
        5 => layer
            .max_request_bytes(20)
            .max_answer_bytes(10)
            .cookies(Cookies::OutcomeOnly),
        6 => layer
            .recording(Recording::successes())
            .documentation("https://docs.example/keys"),
        _ => layer
            .unscoped()
            .key(|_, body| std::str::from_utf8(body).ok().map(str::to_owned)),
    }
}

/// What a time-out inside of the layer answers.
fn is_time_out(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT)
}

fn records_successes(number: u8) -> bool {
    number % 8 == 6
}

/// A request, as it can be made twice.
struct Asked {
    settings: u8,
    method: Method,
    target: http::Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    /// Returns nothing if no server would make a request of it.
    fn read(input: &[u8]) -> Option<Self> {
        let (head, body) = match input.windows(2).position(|pair| pair == b"\n\n") {
            Some(at) => (&input[..at], &input[at + 2..]),
            None => (input, &b""[..]),
        };
        let mut lines = head.split(|byte| *byte == b'\n');
        let (settings, first) = lines.next()?.split_first()?;
        let mut words = first.splitn(2, |byte| *byte == b' ');
        let method = Method::from_bytes(words.next()?).ok()?;
        let target = http::Uri::try_from(words.next()?).ok()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        Some(Self {
            settings: *settings,
            method,
            target,
            headers,
            body: Bytes::copy_from_slice(body),
        })
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Full::new(self.body.clone()).boxed_unsync());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Whether nobody knows what its handler did.
    fn is_unknown(&self) -> bool {
        let status = asked_for(&self.headers);
        match said(&self.headers) {
            _ if status.is_informational() => false,
            Some(outcome) => outcome == Outcome::Unknown,
            None => is_time_out(status),
        }
    }

    /// Whether its handler did nothing.
    fn is_undone(&self) -> bool {
        let status = asked_for(&self.headers);
        match said(&self.headers) {
            _ if status.is_informational() => true,
            Some(outcome) => outcome == Outcome::NothingDone,
            None if is_time_out(status) => false,
            None if records_successes(self.settings) => status.as_u16() >= 400,
            None => matches!(status.as_u16(), 425 | 429 | 503),
        }
    }
}

async fn answer(service: &mut IdempotencyService<Handler>, asked: &Asked) -> (StatusCode, String, Bytes) {
    let Ok(response) = service.call(asked.request()).await;
    let origin = response.headers().get(IDEMPOTENCY_ORIGIN);
    let origin = origin.map_or(String::new(), |origin| {
        String::from_utf8_lossy(origin.as_bytes()).into_owned()
    });
    let status = response.status();
    let Ok(body) = response.into_body().collect().await;
    (status, origin, body.to_bytes())
}

/// Sends a request twice, and panics if an answer is not one of those that there may be.
pub async fn check(input: &[u8]) {
    let Some(asked) = Asked::read(input) else { return };
    let wanted = asked_for(&asked.headers);
    let handler = Handler::default();
    let calls = Arc::clone(&handler.calls);
    let mut service = layer(asked.settings).layer(handler);
    let (first, first_origin, body) = answer(&mut service, &asked).await;
    let is_executed = calls.load(Ordering::Relaxed) == 1;
    match is_executed {
        true => assert_eq!(first, wanted, "the handler said something else"),
        false => assert!(first.is_client_error(), "{first}, and nobody asked for it"),
    }
    let (second, origin, again) = answer(&mut service, &asked).await;
    let executed = calls.load(Ordering::Relaxed);
    match (first_origin.as_str(), origin.as_str()) {
        // In the hands of the handler alone, both times; or refused, both times.
        ("", "") => assert_eq!((second, executed), (first, 2 * usize::from(is_executed))),
        ("executed", "replayed") => {
            assert!(!asked.is_unknown() && !asked.is_undone(), "replayed: {first}");
            assert_eq!((second, executed), (first, 1));
            let is_kept = again == body;
            let is_left_out = again.is_empty() || serde_json::from_slice::<serde_json::Value>(&again).is_ok();
            assert!(is_kept || is_left_out, "another body");
        }
        ("executed", "executed") => {
            assert!(asked.is_undone(), "executed twice: {first}");
            assert_eq!((second, executed), (first, 2));
        }
        ("executed", "") => {
            assert!(asked.is_unknown(), "{second} after {first}");
            assert_eq!((second, executed), (StatusCode::CONFLICT, 1));
        }
        other => panic!("{other:?}"),
    }
}
