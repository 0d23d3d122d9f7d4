//! The keys under which the steps of a request are known to what they call.

use crate::identity::{Fingerprint, RequestIdentity};

/// Returns the key under which a step of a request is known downstream.
pub(super) fn downstream_key(id: &RequestIdentity, step: &str) -> String {
    Fingerprint::builder()
        .part("purpose", "oneflight downstream key 1")
        .part("identity", id.canonical())
        .part("step", step)
        .build()
        .to_string()
}
