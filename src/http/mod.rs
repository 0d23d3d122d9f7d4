//! The HTTP side of an idempotent request: its key, its problems, its correlation id.
//!
//! The functions here use the types of the [`http` crate](https://docs.rs/http/1) and nothing else of the web: they know no
//! framework, read no socket and write no response of their own. A handler in axum, actix, warp or bare hyper gives them the
//! headers and the body that it has read, and gets values back:
//!
//! | question | answer |
//! | --- | --- |
//! | How do I make my tower service idempotent? | By one layer: [`layer::IdempotencyLayer`] |
//! | Which key does this request carry? | [`require_key`], [`find_key`], or one place at a time: [`header_key`], [`json_key`], [`form_key`] |
//! | And under names or within limits of my own? | [`KeySource`] |
//! | What is the body, JSON or a form? | [`BodyFormat::of`] |
//! | Is this the payload that the key was first sent with? | It has the same fingerprint: [`Fingerprints`] |
//! | What do I answer when something is wrong? | [`Problem`], made from [`KeyError`], [`IdentityError`](crate::identity::IdentityError) or [`idempotency::Error`](crate::idempotency::Error) |
//! | How does my handler in axum answer it? | It returns `Result<_, Problem>`, under the feature `axum` |
//! | How do I recognise this request in every log? | [`CorrelationLayer`], or [`CorrelationId`] by hand |
//! | How do I send a mutation to another service? | With a client in an [`OutgoingLayer`] |
//!
//! # Example: a door for any framework
//!
//! ```
//! use oneflight::http::{self, CorrelationId, Problem, X_CORRELATION_ID};
//! use oneflight::{RequestIdentity, Scope};
//!
//! fn identify(headers: &::http::HeaderMap, body: &[u8]) -> Result<RequestIdentity, Problem> {
//!     let key = http::require_key(headers, body)?;
//!     let scope = Scope::new("tenant-7").route("POST /orders");
//!     Ok(RequestIdentity::new(scope, key)?)
//! }
//!
//! // A retry-safe client sends a key. The answer to a request without one says what to do.
//! let request = ::http::Request::post("/orders")
//!     .header("Idempotency-Key", "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"")
//!     .header("Content-Type", "application/json")
//!     .body(r#"{"item": "tea"}"#)?;
//! assert!(identify(request.headers(), request.body().as_bytes()).is_ok());
//!
//! let problem = identify(&::http::HeaderMap::new(), b"").unwrap_err();
//! let correlation = CorrelationId::from_headers(request.headers());
//! let mut response: ::http::Response<String> = problem.into_response();
//! response.headers_mut().insert(X_CORRELATION_ID, correlation.to_header_value());
//! assert_eq!(response.status(), 400);
//! assert_eq!(response.headers()["content-type"], "application/problem+json");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Fingerprints
//!
//! Take the [fingerprint](crate::identity::Fingerprint) of what the request means, not of its bytes, and leave the key
//! out of it. The bytes of one request differ from retry to retry: a browser makes a new multipart boundary at each
//! click, a page has a new CSRF token, a client that is upgraded writes its JSON in another order, or sends the key in
//! the header that stood in the body before. A service that digests the whole body answers such a retry with
//! [`KEY_REUSED`](kind::KEY_REUSED). [`Fingerprints`] does not:
//!
//! ```
//! use bytes::Bytes;
//! use http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE};
//! use oneflight::Fingerprint;
//! use oneflight::http::{Fingerprints, KEY_FIELD, KeySource};
//!
//! async fn fingerprint(body: &'static str) -> Fingerprint {
//!     let key = KeySource::new().field(KEY_FIELD);
//!     let mut headers = HeaderMap::new();
//!     headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
//!     let fingerprints = Fingerprints::new().sorted_json().leave_out("csrf_token");
//!     fingerprints.of(&Method::POST, "/orders", None, &headers, &Bytes::from(body), &key).await
//! }
//!
//! # futures::executor::block_on(async {
//! let with_its_key = fingerprint(r#"{"idempotency_key": "a7f3", "item": "tea", "amount": 1}"#).await;
//! assert_eq!(with_its_key, fingerprint(r#"{"amount":1,"item":"tea","csrf_token":"x"}"#).await);
//! assert_ne!(with_its_key, fingerprint(r#"{"amount":2,"item":"tea"}"#).await);
//! # });
//! ```
//!
//! A deploy that adds fingerprints, or changes what they are taken of, meets records of the version before. For the
//! first there is [`missing_fingerprint`](crate::idempotency::IdempotencyBuilder::missing_fingerprint). For the second
//! there is no such passage: two fingerprints that differ may be two requests.
//!
//! # All of it at once
//!
//! For a tower service, axum's among them, all of this is one [`layer`]. The functions are for other services: reading the body
//! within a limit and running the work ([`Idempotency`](crate::idempotency::Idempotency)) are for their handlers.

mod body;
mod correlation;
mod fingerprints;
mod key;
pub mod kind;
pub mod layer;
mod mapping;
mod outgoing;
mod problem;

pub use crate::correlation::{CorrelationId, CorrelationIdError};
pub use body::BodyFormat;
pub use correlation::{
    CorrelationFuture, CorrelationLayer, CorrelationService, TRACEPARENT, X_CORRELATION_ID, X_REQUEST_ID,
};
pub use fingerprints::Fingerprints;
pub use key::{
    IDEMPOTENCY_KEY, KEY_FIELD, KeyError, KeyPlace, KeySource, find_key, form_key, header_key, json_key, require_key,
};
pub use outgoing::{OutgoingFuture, OutgoingLayer, OutgoingRequest, OutgoingResponse, OutgoingService};
pub use problem::Problem;
