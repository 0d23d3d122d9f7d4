//! Whose turn to write is being taken: how work in a transaction that calls its own store is told apart from others.
//!
//! A turn is known by the address of its queue. It stands in a task-local while the work is polled, and is carried into
//! a flight that the work begins, which may be polled by another task. What passes through a task that the user
//! spawns cannot be seen.

use std::future::Future;

tokio::task_local! {
    /// The queue in which the work that is being polled has its turn.
    static TURN_IN: usize;
}

/// A turn that is being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn(usize);

impl Turn {
    /// The turn in the queue at this address.
    #[cfg(feature = "sqlite")]
    pub(super) fn at<Q: ?Sized>(queue: *const Q) -> Self {
        Self(queue.addr())
    }

    /// The one that the code which runs now takes, if any.
    pub(crate) fn current() -> Option<Self> {
        TURN_IN.try_with(|queue| Self(*queue)).ok()
    }

    /// Runs work as part of the turn.
    pub(crate) fn scope<W: Future>(self, work: W) -> impl Future<Output = W::Output> + use<W> {
        TURN_IN.scope(self.0, work)
    }
}
