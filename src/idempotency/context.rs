//! What the work is told about its execution.

use std::fmt;

use super::claim::View;
use super::downstream::downstream_key;
use crate::identity::RequestIdentity;

/// What the work is told about its execution. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    id: RequestIdentity,
    attempt: u32,
    /// `None` in a transaction, which has none.
    lease: Option<View>,
}

impl Context {
    pub(super) fn new(id: RequestIdentity, attempt: u32, lease: Option<View>) -> Self {
        Self { id, attempt, lease }
    }

    /// The request that is executed.
    #[must_use]
    pub fn id(&self) -> &RequestIdentity {
        &self.id
    }

    /// Which attempt it is: 1, or more if an earlier holder died and the policy is to run again.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// An idempotency key for one step of the work, to be sent downstream: 64 hexadecimal digits.
    ///
    /// It depends on the identity and the step only, so it is the same when the work is run again: a
    /// downstream service that honours it does its part once.
    #[must_use]
    pub fn downstream_key(&self, step: impl AsRef<str>) -> String {
        downstream_key(&self.id, step.as_ref())
    }

    /// Whether the claim is lost: another holder took over, or it was not renewed for longer than the lease, since the
    /// store was out of reach or the runtime did not run. The result will not be recorded unless it turns out that nobody
    /// took over.
    ///
    /// It is judged by the clock: it is true as well where nothing has run that could tell.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        self.lease.as_ref().is_some_and(View::is_lost)
    }

    /// Waits until the claim is [lost](Self::is_lease_lost); for ever, if it never is.
    ///
    /// Work of several steps may race this against each of them, and stop between two.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
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
