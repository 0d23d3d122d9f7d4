//! The layer that makes a tower service idempotent, by the header `Idempotency-Key`.
//!
//! One `.layer(…)` around an axum router, or any tower service over `http`, and a request that is sent again gets the answer
//! of the first one: while that is executed, afterwards, in another process, and after a crash. It follows
//! [draft-ietf-httpapi-idempotency-key-header](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/).
//!
#![cfg_attr(feature = "axum", doc = "```")]
#![cfg_attr(not(feature = "axum"), doc = "```ignore")]
//! use axum::{Router, routing::post};
//! use oneflight::http::layer::IdempotencyLayer;
//! use oneflight::{Idempotency, MemoryStore};
//!
//! async fn charge(body: String) -> String {
//!     format!("charged: {body}")
//! }
//!
//! let idem = Idempotency::builder(MemoryStore::new()).build(); // Or a store that lasts.
//! let app: Router = Router::new()
//!     .route("/charges", post(charge))
//!     .route_layer(IdempotencyLayer::new(idem).unscoped());
//! # let _ = app;
//! ```
//!
//! # What it does with a request
//!
//! 1. A request with another method than POST and PATCH, or without a key, passes through. It is not buffered, and costs
//!    nothing.
//! 2. The key is validated, and joined with its scope: the principal, the method and the route.
//! 3. The body is read, within a size and a time, and its fingerprint is taken.
//! 4. The request is executed once, by [`Idempotency`](crate::idempotency::Idempotency). Duplicates that arrive meanwhile share
//!    the answer. The handler goes on if its client hangs up.
//! 5. The answer is recorded with its status, header lines, body and trailers, and replayed.
//!
//! Every answer of a handler's to a request with a key has the header [`Idempotency-Origin`](IDEMPOTENCY_ORIGIN). A replay has
//! [`Idempotency-Replayed`](IDEMPOTENCY_REPLAYED) and [`Idempotency-Original-Date`](IDEMPOTENCY_ORIGINAL_DATE) as well. What goes wrong is
//! answered with a [`Problem`](super::Problem) of a [kind](super::kind).
//!
//! In axum, prefer [`route_layer`](https://docs.rs/axum/0.8/axum/struct.Router.html#method.route_layer): `layer` covers the
//! fallback as well, and a 404 is an answer like any other, which is recorded.
//!
//! # What is not replayed
//!
//! What belongs to one message, connection, session or user agent: the fields of a connection (RFC 9110, section 7.6.1) and
//! those that `Connection` names, those of CORS, `Date`, `Set-Cookie`, and the ids of a request. The layer stands inside of
//! layers that add such: CORS, compression, request ids.
//!
//! For the same reason the handler does not see `Accept-Encoding`: the one answer is for all who ask. A layer that compresses
//! stands outside, and compresses for each.
//!
//! An answer whose body is too large, a stream, or secret is recorded as an outcome without a body. A replay of it has its
//! status, its `Location`, and a body of the type [`OUTCOME_ONLY`](super::kind::OUTCOME_ONLY). The operation is not executed
//! again.
//!
//! # What clients are told
//!
//! [`client_page`](IdempotencyLayer::client_page) is a page for the documentation of the service, and
//! [`openapi`](IdempotencyLayer::openapi) a fragment of OpenAPI; both are made from the settings, so that they are never out of date.
//!
//! # What operators see
//!
//! Under the feature `tracing`, a request with a key has a span `oneflight.idempotency` with the fields `request` (the scope, and the key
//! [redacted](crate::RequestIdentity::redacted)), `route`, `correlation_id`, `status` and `origin`.
//!
//! Under the feature `metrics`, these are told to the recorder of the facade `metrics`. A request with a key is counted once: by its
//! origin if it has an answer, and otherwise as a conflict, as in doubt, or as refused.
//!
#![doc = include_str!("../../telemetry/metrics.md")]

mod answer;
mod body;
mod client_page;
mod cors;
mod dialect;
mod duplicate;
mod execute;
#[cfg(feature = "axum")]
mod extract;
#[cfg(feature = "axum")]
mod failure;
mod future;
mod guard;
mod headers;
mod key;
#[allow(clippy::module_inception, reason = "beside `service` and `future`, as in tower-http")]
mod layer;
mod openapi;
mod outcome;
mod own;
mod recorded;
mod resolve;
mod scope;
mod seen;
mod service;
mod settings;
mod through;

pub use body::FromBody;
pub use dialect::Dialect;
#[cfg(feature = "axum")]
pub use extract::Checked;
#[cfg(feature = "axum")]
pub use failure::Failure;
pub use future::ResponseFuture;
pub use headers::{IDEMPOTENCY_ORIGIN, IDEMPOTENCY_ORIGINAL_DATE, IDEMPOTENCY_REPLAYED};
pub use key::IntoKey;
pub use layer::IdempotencyLayer;
pub use outcome::{Cookies, Outcome, Recording};
pub use recorded::RecordedAnswer;
pub use scope::IntoScope;
pub use seen::RouteName;
pub use service::IdempotencyService;
pub use settings::Requirement;
