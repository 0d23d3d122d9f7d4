//! The keys under which the steps of a request are known to what they call.

use crate::identity::{Fingerprint, RequestIdentity};

impl RequestIdentity {
    /// Returns the key under which a part of this request's work is known to what it calls, as
    /// [`Context::downstream_key`](super::Context::downstream_key) gives it to the work.
    ///
    /// It is for a person who looks there what became of a request that is in doubt.
    ///
    /// ```
    /// use oneflight::{RequestIdentity, Scope};
    ///
    /// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?;
    /// assert_eq!(id.downstream_key("charge").len(), 64);
    /// # Ok::<(), oneflight::identity::IdentityError>(())
    /// ```
    #[must_use]
    pub fn downstream_key(&self, step: impl AsRef<str>) -> String {
        downstream_key(self, step.as_ref())
    }
}

/// Returns the key under which a step of a request is known downstream.
pub(super) fn downstream_key(id: &RequestIdentity, step: &str) -> String {
    Fingerprint::builder()
        .part("purpose", "oneflight downstream key 1")
        .part("identity", id.canonical())
        .part("step", step)
        .build()
        .to_string()
}
