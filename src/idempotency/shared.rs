//! What all clones of an [`Idempotency`](super::Idempotency) share: its settings, and the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::codec::Sizes;
use super::later::Later;
use super::missing::MissingFingerprint;
use super::progress::Flights;
use super::recovery::Recovery;
use super::workflow::Workflow;
use crate::telemetry::steps::Announced;

/// What a flight needs, whichever caller polls it.
pub(super) struct Shared<S> {
    pub(super) store: Arc<S>,
    pub(super) retention: Duration,
    pub(super) lease: Duration,
    pub(super) wait: Duration,
    /// How long the store may take to answer a call that asks for a claim.
    pub(super) store_patience: Duration,
    /// How long what an execution left is given to settle, when it ended without telling what it did.
    pub(super) settle: Duration,
    pub(super) missing_fingerprint: MissingFingerprint,
    pub(super) recovery: Recovery,
    pub(super) sizes: Sizes,
    /// The name of the codec in use, by which a result that is brought from outside is accepted.
    pub(super) format: &'static str,
    pub(super) conflict_retries: u32,
    /// What mutations of several steps are started as.
    pub(super) workflow: Arc<Workflow>,
    /// The runtime on which work is spawned, if one was set.
    pub(super) runtime: Option<Handle>,
    /// What is in flight, of this and of its copies.
    pub(super) flights: Flights,
    /// How many claims are about to be ended by tasks of their own, of this and of its copies.
    pub(super) ends: watch::Sender<usize>,
    /// The leases that are not to be renewed so far, of this and of its copies.
    pub(super) renewals: Later,
    /// The workflows of which the recorder of metrics was told, by this and by its copies.
    pub(super) announced: Announced,
}

impl<S> Shared<S> {
    /// Returns the same settings over the same store.
    pub(super) fn copy(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            recovery: self.recovery.clone(),
            runtime: self.runtime.clone(),
            flights: self.flights.clone(),
            ends: self.ends.clone(),
            workflow: Arc::clone(&self.workflow),
            renewals: self.renewals.clone(),
            announced: self.announced.clone(),
            ..*self
        }
    }

    /// Returns the same settings over another store, which stands before this one, with another policy.
    pub(super) fn over<T>(&self, store: T, recovery: Recovery) -> Shared<T> {
        Shared {
            store: Arc::new(store),
            retention: self.retention,
            lease: self.lease,
            wait: self.wait,
            store_patience: self.store_patience,
            settle: self.settle,
            missing_fingerprint: self.missing_fingerprint,
            recovery,
            sizes: self.sizes,
            format: self.format,
            conflict_retries: self.conflict_retries,
            workflow: Arc::clone(&self.workflow),
            runtime: self.runtime.clone(),
            flights: self.flights.clone(),
            ends: self.ends.clone(),
            renewals: self.renewals.clone(),
            announced: self.announced.clone(),
        }
    }
}
