//! What a call returns.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::record::{RecordedResult, Verdict};

/// How a reply came to be.
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

impl Origin {
    /// Returns the origin in a word: `executed`, `collapsed` or `replayed`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Collapsed => "collapsed",
            Self::Replayed => "replayed",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The result of a request, and how it came to be. The callers of a flight share one copy of the value.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use oneflight::{Idempotency, MemoryStore, Origin, RequestIdentity, Scope};
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
    /// Returns how the reply came to be.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns whether the work of another call answered, an earlier one or one at the same time.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        self.origin != Origin::Executed
    }

    /// Returns whether the work in a transaction was [declined](crate::idempotency::Rollback::Declined): its rows were
    /// rolled back and this answer kept.
    #[must_use]
    pub fn is_declined(&self) -> bool {
        self.verdict == Verdict::Declined
    }

    /// Returns the number of the attempt whose result this is: 1 unless an earlier attempt ended in doubt.
    ///
    /// A result that a policy or an operator found out is recorded as the next attempt's. So a replay is of attempt 2 if
    /// attempt 1 was [resolved](crate::idempotency::Idempotency::resolve) as completed. Only the call that asked the
    /// policy is given the number of the attempt that was in doubt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the value.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Returns the result as it is recorded, byte for byte.
    pub fn recorded(&self) -> &RecordedResult {
        &self.result
    }

    /// Returns the value, which the callers of a flight share.
    #[must_use]
    pub fn into_shared(self) -> Arc<T> {
        self.value
    }

    /// Returns the value, cloned if other callers share it.
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

/// Shows how it came to be, not the value.
impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("origin", &self.origin)
            .field("verdict", &self.verdict)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
