//! What a call gets.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::record::{RecordedResult, Verdict};

/// Where a reply comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Origin {
    /// This call's own work was executed.
    Executed,
    /// This call joined another one whose work was executed.
    Collapsed,
    /// The result was recorded earlier.
    Replayed,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Executed => "executed",
            Self::Collapsed => "collapsed",
            Self::Replayed => "replayed",
        })
    }
}

/// The result of a request, and where it comes from. All who share a flight share one copy of the value.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use oneflight::idempotency::{Idempotency, Origin};
/// use oneflight::identity::{RequestIdentity, Scope};
/// use oneflight::store::MemoryStore;
///
/// let idem = Idempotency::builder(MemoryStore::new()).build();
/// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?;
///
/// let reply = idem.run(id.clone(), |_| async { String::from("order 1") }).await?;
/// assert_eq!((reply.as_str(), reply.is_cached()), ("order 1", false));
///
/// let reply = idem.run(id, |_| async { String::from("order 2") }).await?;
/// assert_eq!((reply.as_str(), reply.origin()), ("order 1", Origin::Replayed));
/// # Ok(()) }
/// ```
#[must_use]
pub struct Reply<T> {
    pub(super) value: Arc<T>,
    pub(super) origin: Origin,
    pub(super) verdict: Verdict,
    pub(super) attempt: u32,
    pub(super) result: RecordedResult,
}

impl<T> Reply<T> {
    /// Where it comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether the work of another call, earlier or at the same time, is what answered.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        self.origin != Origin::Executed
    }

    /// Whether the work in a transaction was [declined](crate::idempotency::Rollback::Declined): its rows were
    /// rolled back and this answer kept.
    #[must_use]
    pub fn is_declined(&self) -> bool {
        self.verdict == Verdict::Declined
    }

    /// At which attempt the work was done: 1 unless an earlier holder died.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The result as it is recorded, byte for byte.
    pub fn recorded(&self) -> &RecordedResult {
        &self.result
    }

    /// Returns the value, which the callers of a flight share.
    #[must_use]
    pub fn into_shared(self) -> Arc<T> {
        self.value
    }

    /// The value, cloned if others share it.
    #[must_use]
    pub fn into_inner(self) -> T
    where
        T: Clone,
    {
        Arc::unwrap_or_clone(self.value)
    }
}

impl<T> Deref for Reply<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Clone for Reply<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            origin: self.origin,
            verdict: self.verdict,
            attempt: self.attempt,
            result: self.result.clone(),
        }
    }
}

/// Shows where it comes from, not the value.
impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("origin", &self.origin)
            .field("verdict", &self.verdict)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
