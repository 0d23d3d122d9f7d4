//! How a request gets its correlation id, and what has it then: [`CorrelationLayer`].
//!
//! ```text
//! extensions ── none ──▶ headers ── none well formed ──▶ a new one
//!     └────────────────────┴──────────▶ task-local, span, extensions ──▶ headers of the response
//! ```
//!
//! The id itself, and the task-local, are in [`correlation`](crate::correlation), which knows no HTTP.

mod future;
mod headers;
mod layer;
mod service;
mod traceparent;

pub use future::CorrelationFuture;
pub use headers::{TRACEPARENT, X_CORRELATION_ID, X_REQUEST_ID};
pub use layer::CorrelationLayer;
pub use service::CorrelationService;
