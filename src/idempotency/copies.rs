//! Copies of an [`Idempotency`] that have another setting, and share its flights and its store.

use std::sync::Arc;
use std::time::Duration;

use super::codec::{Format, Sizes};
use super::recovery::Recovery;
use super::run::Idempotency;
use super::shared::Shared;
use crate::store::Store;

impl<S: Store, C: Format> Idempotency<S, C> {
    fn copy_with(&self, shared: Shared<S>) -> Self {
        Self {
            shared: Arc::new(shared),
            ..self.clone()
        }
    }

    /// Returns a copy with another [lease](super::IdempotencyBuilder::lease).
    ///
    /// The copy shares everything else, flights too, as with [`with_retention`](Self::with_retention). Of calls that share a
    /// flight, the one that executes sets the lease.
    #[must_use]
    pub fn with_lease(&self, lease: Duration) -> Self {
        self.copy_with(Shared {
            lease: lease.max(Duration::from_millis(1)),
            ..self.shared.copy()
        })
    }

    /// Returns a copy with another [wait](super::IdempotencyBuilder::wait).
    ///
    /// The copy shares everything else, flights too. Each caller of a flight has a wait of its own.
    #[must_use]
    pub fn with_wait(&self, wait: Duration) -> Self {
        self.copy_with(Shared {
            wait,
            ..self.shared.copy()
        })
    }

    /// Returns a copy with another [recovery policy](super::IdempotencyBuilder::recovery), and with the time to
    /// [settle](super::IdempotencyBuilder::settle) that is that policy's default.
    ///
    /// The copy shares everything else, flights too. Of calls that share a flight, the one that executes sets the policy.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::{Recovery, Unknown};
    /// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    /// use std::time::Duration;
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// // What these calls do may be done twice.
    /// let idempotent = idem.with_recovery(Recovery::Rerun).with_settle(Duration::ZERO);
    ///
    /// let id = RequestIdentity::new(Scope::new("tenant-7").route("PUT /settings"), "a7f3")?;
    /// let lost = idempotent.try_run(id.clone(), |_| async { Err::<u8, _>(Unknown::because("a time-out").into()) });
    /// assert!(lost.await.is_err());
    /// assert_eq!(*idempotent.run(id, |_| async { 1_u8 }).await?, 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_recovery(&self, recovery: Recovery) -> Self {
        let settle = recovery.default_settle(self.shared.lease);
        self.copy_with(Shared {
            recovery,
            settle,
            ..self.shared.copy()
        })
    }

    /// Returns a copy with another time to [settle](super::IdempotencyBuilder::settle).
    ///
    /// The copy shares everything else, flights too. Of calls that share a flight, the one that executes sets the time.
    #[must_use]
    pub fn with_settle(&self, settle: Duration) -> Self {
        self.copy_with(Shared {
            settle,
            ..self.shared.copy()
        })
    }

    /// Returns a copy with another limit on the [size of a result](super::IdempotencyBuilder::max_result_bytes).
    ///
    /// The copy shares everything else, flights too. Of calls that share a flight, the one that executes sets the limit.
    #[must_use]
    pub fn with_max_result_bytes(&self, bytes: usize) -> Self {
        self.copy_with(Shared {
            sizes: Sizes {
                most: bytes,
                ..self.shared.sizes
            },
            ..self.shared.copy()
        })
    }
}
