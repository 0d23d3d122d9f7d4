//! The names under which a key is looked for unless others are set.

use http::header::HeaderName;

/// The name of the `Idempotency-Key` header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The name of the body field that may carry the key instead: `idempotency_key`.
pub const KEY_FIELD: &str = "idempotency_key";
