//! What the work knows of its execution.

use std::fmt;

use super::claim::View;
use super::downstream::downstream_key;
use crate::identity::RequestIdentity;

/// What the work knows of its execution. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    id: RequestIdentity,
    attempt: u32,
    /// `None` in a transaction, which has no lease.
    lease: Option<View>,
}

impl Context {
    pub(super) fn new(id: RequestIdentity, attempt: u32, lease: Option<View>) -> Self {
        Self { id, attempt, lease }
    }

    /// Returns the request that is executed.
    #[must_use]
    pub fn id(&self) -> &RequestIdentity {
        &self.id
    }

    /// Returns the number of this attempt: 1, or more if an earlier holder died and the policy is to run again.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns an idempotency key for one step of the work, to be sent downstream: 64 hexadecimal digits.
    ///
    /// The key depends on the identity and the step only, so it is the same when the work is run again. A downstream
    /// service that honours the key does its part once.
    #[must_use]
    pub fn downstream_key(&self, step: impl AsRef<str>) -> String {
        downstream_key(&self.id, step.as_ref())
    }

    /// Returns whether the claim is lost.
    ///
    /// A claim is lost when another holder took over, or when it was not renewed for longer than the lease, since the
    /// store was out of reach or the runtime did not run. The result will not be recorded then, unless it turns out
    /// that no other holder took over.
    ///
    /// The clock decides: this is true as well where nothing has run that could tell.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        self.lease.as_ref().is_some_and(View::is_lost)
    }

    /// Waits until the claim is [lost](Self::is_lease_lost). Waits forever if it never is.
    ///
    /// Work of several steps may race this against each of them, and stop between two.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped, and this be called again.
    pub async fn lease_lost(&self) {
        match &self.lease {
            Some(lease) => lease.lost().await,
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.id)
            .field("attempt", &self.attempt)
            .field("lease_lost", &self.is_lease_lost())
            .finish()
    }
}
