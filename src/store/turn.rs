//! Whose turn to write is being taken: how work in a transaction that calls its own store is told apart from others.
//!
//! A turn is known by the address of its queue. It stands in a task-local while the work is polled, and is carried into
//! a flight that the work begins, which may be polled by another task. What passes through a task that the user
//! spawns cannot be seen.
//!
//! A flight that the work does not begin but joins waits for turns of its own accord. It shows by its [`Sign`] for which,
//! as long as it stands in the queue, so that work which has that turn does not wait for it.

use std::future::Future;

use tokio::sync::watch;

use super::StoreError;

tokio::task_local! {
    /// The queue in which the work that is being polled has its turn.
    static TURN_IN: usize;
    /// The sign of the flight that is being polled.
    static SIGN: Sign;
}

/// A turn that is being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(usize);

impl Turn {
    /// The turn in the queue at this address.
    pub fn at<Q: ?Sized>(queue: *const Q) -> Self {
        Self(queue.addr())
    }

    /// The one that the code which runs now takes, if any.
    pub fn current() -> Option<Self> {
        TURN_IN.try_with(|queue| Self(*queue)).ok()
    }

    /// Runs work as part of the turn.
    pub fn scope<W: Future>(self, work: W) -> impl Future<Output = W::Output> + use<W> {
        TURN_IN.scope(self.0, work)
    }

    /// Waits for this turn, for all to see who share the flight that does.
    pub async fn wait_for<W: Future>(self, turn: W) -> W::Output {
        let sign = SIGN.try_with(Sign::clone).ok();
        let _shown = sign.as_ref().map(|sign| sign.show(self));
        turn.await
    }
}

/// What is said to work that waits for its own turn.
pub fn waits_for_itself() -> StoreError {
    StoreError::Unsupported {
        advice: "work in a transaction called the store that the transaction belongs to, and would wait for \
                 itself; make the call before or after",
    }
}

/// Shows for which turn a flight waits. Clones show the same.
#[derive(Clone, Default)]
pub(crate) struct Sign(watch::Sender<Option<Turn>>);

impl Sign {
    /// Runs a flight under this sign.
    pub(crate) fn scope<W: Future>(self, flight: W) -> impl Future<Output = W::Output> + use<W> {
        SIGN.scope(self, flight)
    }

    /// Waits until the flight waits for this turn.
    pub(crate) async fn says(&self, turn: Turn) {
        let mut sign = self.0.subscribe();
        // The sender is this one, so there is one for as long as this is waited for.
        let _ = sign.wait_for(|shown| *shown == Some(turn)).await;
    }

    fn show(&self, turn: Turn) -> impl Drop + use<'_> {
        struct Shown<'s>(&'s Sign);

        impl Drop for Shown<'_> {
            fn drop(&mut self) {
                self.0.0.send_replace(None);
            }
        }

        self.0.send_replace(Some(turn));
        Shown(self)
    }
}
