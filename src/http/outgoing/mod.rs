//! What a service sends to another one: its correlation id goes along, its key is made once, and it is tried again:
//! [`OutgoingLayer`].
//!
//! ```text
//! called: correlation id and key ──▶ sent ──▶ response, or an error that is final
//!                                     ▲  └──▶ may be repeated, and there is a try and time left ──▶ pause
//!                                     └─────────────────── the same key ───────────────────────────┘
//! ```
//!
//! It knows requests and responses of the `http` crate and, under the feature `reqwest`, those of reqwest. It knows no
//! connection: a try is one call of the service that it wraps.

mod future;
mod layer;
mod message;
mod policy;
mod retry_after;
mod service;

pub use future::OutgoingFuture;
pub use layer::OutgoingLayer;
pub use message::{OutgoingRequest, OutgoingResponse};
pub use service::OutgoingService;
