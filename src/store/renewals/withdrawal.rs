//! How a renewal is taken back that is not needed any more, unless it was sent.
//!
//! The end of a claim waits for a renewal that is under way, since that could prolong what the end leaves. It must not wait
//! for one that is still being gathered. Only the place where it is gathered knows which of the two it is, and between them
//! is the contract of stores. So the [`Withdrawal`] stands in a task-local while the renewal is polled.

use std::future::{Future, pending};
use std::sync::Arc;

use tokio::sync::watch;

tokio::task_local! {
    static WITHDRAWAL: Withdrawal;
}

/// Takes back the renewals that are asked for within its scope. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Withdrawal(Arc<watch::Sender<bool>>);

impl Withdrawal {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// From now on, what was not sent is not to be sent.
    pub(crate) fn withdraw(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn scope<R: Future>(&self, renewal: R) -> impl Future<Output = R::Output> + use<R> {
        WITHDRAWAL.scope(self.clone(), renewal)
    }

    /// Waits until what is asked for in this scope is withdrawn.
    pub(super) async fn here() {
        match WITHDRAWAL.try_with(Self::clone) {
            // It does not fail, since this has the sender.
            Ok(Self(withdrawn)) => drop(withdrawn.subscribe().wait_for(|is_withdrawn| *is_withdrawn).await),
            Err(_) => pending().await,
        }
    }
}
