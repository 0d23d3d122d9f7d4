//! The [`RequestIdentity`] that a mutation is executed once for.
//!
//! A request identity is a [`Scope`] (whose key it is, and for which operation) and an [`IdempotencyKey`] (what the
//! client sent). The two together are hashed and compared. The [`Fingerprint`] of the payload travels along but is
//! *not* part of the identity: the same identity with another fingerprint is a conflict, not another request.
//!
//! Everything here is validated when it is made, so that no other module has to. This module knows nothing of flights,
//! stores or HTTP.
//!
//! A key is not a secret, but in its scope it is all that one needs to get its recorded answer. So log lines, spans, errors and
//! `Debug` show it [redacted](RequestIdentity::redacted). Only `Display`, and the methods that return it, have it whole.
//!
//! ```
//! use oneflight::{RequestIdentity, Scope};
//!
//! let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?;
//! assert_eq!(id.key(), "a7f3");
//! assert_eq!(id.scope(), "tenant-7|route=POST /orders");
//!
//! // The same key of another tenant is another request.
//! assert_ne!(id, RequestIdentity::new(Scope::new("tenant-8").route("POST /orders"), "a7f3")?);
//! # Ok::<(), oneflight::identity::IdentityError>(())
//! ```

mod error;
mod fingerprint;
mod key;
mod redacted;
mod request;
mod scope;

pub use error::IdentityError;
pub use fingerprint::Fingerprint;
#[cfg(feature = "durable")]
pub use fingerprint::FingerprintBuilder;
pub use key::IdempotencyKey;
pub use redacted::Redacted;
pub use request::RequestIdentity;
pub use scope::Scope;
