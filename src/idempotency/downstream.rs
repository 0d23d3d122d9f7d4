//! What a step of a request is called by what it calls.

use crate::identity::{Fingerprint, RequestIdentity};

/// The key under which a step of a request is known downstream.
pub(super) fn downstream_key(id: &RequestIdentity, step: &str) -> String {
    Fingerprint::builder()
        .part("purpose", "oneflight downstream key 1")
        .part("identity", id.canonical())
        .part("step", step)
        .build()
        .to_string()
}
