//! How a store with one writer tells work that it would wait for itself.
//!
//! The [`Turn`] that work has stands in a task-local while the work is polled. It is carried into a flight that the
//! work begins, of whichever store, since another task may poll that flight. What passes through a task that the user
//! spawns cannot be seen.
//!
//! A flight that the work does not begin but joins waits for turns of its own accord. While it waits, its [`Sign`]
//! shows for which turn, so that work which has that turn does not wait for the flight.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::error::StoreError;

tokio::task_local! {
    /// The turn of the work that is being polled, if it has one.
    static TURN: Option<Turn>;
    /// The sign of the flight that is being polled.
    static SIGN: Sign;
}

/// The right to write, which one piece of work has at a time, in a store that queues its writers.
///
/// Work that has the turn and calls its own store again would wait for itself. With this it gets an error at once: when
/// it asks the store, when it begins a flight that does, and when it joins one that waits for the turn. A store whose
/// writers do not wait for each other has no use for this, and pays nothing.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), oneflight::store::StoreError> {
/// use oneflight::store::{StoreError, Turn};
/// use tokio::sync::Mutex;
///
/// /// The writers of a store of your own.
/// #[derive(Default)]
/// struct Writer {
///     turn: Turn,
///     queue: Mutex<()>,
/// }
///
/// impl Writer {
///     async fn write<W: Future>(&self, work: W) -> Result<W::Output, StoreError> {
///         let _place = self.turn.wait_for(self.queue.lock()).await?;
///         Ok(self.turn.scope(work).await)
///     }
/// }
///
/// let writer = Writer::default();
/// assert_eq!(writer.write(async { 7 }).await?, 7);
///
/// let within = writer.write(writer.write(async { 7 })).await?;
/// assert!(matches!(within, Err(StoreError::Unsupported { .. })));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(u64);

impl Turn {
    /// Makes a turn that no other store has. Clones of the store have it in common.
    #[must_use]
    pub fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs work that has the turn.
    pub fn scope<W: Future>(self, work: W) -> impl Future<Output = W::Output> + use<W> {
        TURN.scope(Some(self), work)
    }

    /// Waits for the turn, for as long as `queue` takes, and shows that to the callers that share the flight.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unsupported`] at once, if the work that asks has the turn itself.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped, and drops `queue`.
    pub async fn wait_for<Q: Future>(self, queue: Q) -> Result<Q::Output, StoreError> {
        if Self::current() == Some(self) {
            return Err(waits_for_itself());
        }
        let sign = SIGN.try_with(Sign::clone).ok();
        let _shown = sign.as_ref().map(|sign| sign.show(self));
        Ok(queue.await)
    }

    /// Returns the turn of the code that runs now, if it has one.
    pub(crate) fn current() -> Option<Self> {
        TURN.try_with(|turn| *turn).ok().flatten()
    }
}

impl Default for Turn {
    fn default() -> Self {
        Self::new()
    }
}

/// The error for work that waits for its own turn.
pub(crate) fn waits_for_itself() -> StoreError {
    StoreError::Unsupported {
        advice: "work in a transaction called the store that the transaction belongs to, and would wait for \
                 itself; make the call before or after",
    }
}

/// Shows for which turn a flight waits. Clones show the same.
#[derive(Clone, Default)]
pub(crate) struct Sign(Arc<Shown>);

#[derive(Default)]
struct Shown {
    turn: Mutex<Option<Turn>>,
    changed: Notify,
}

impl Sign {
    /// Runs a flight under this sign, begun by work with this turn, if any.
    pub(crate) fn scope<W: Future>(self, turn: Option<Turn>, flight: W) -> impl Future<Output = W::Output> + use<W> {
        SIGN.scope(self, TURN.scope(turn, flight))
    }

    /// Waits until the flight waits for this turn.
    pub(crate) async fn says(&self, turn: Turn) {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if *self.0.turn.lock() == Some(turn) {
                return;
            }
            changed.await;
        }
    }

    fn show(&self, turn: Turn) -> impl Drop + use<'_> {
        struct TakenDown<'s>(&'s Sign);

        impl Drop for TakenDown<'_> {
            fn drop(&mut self) {
                *self.0.0.turn.lock() = None;
            }
        }

        *self.0.turn.lock() = Some(turn);
        self.0.changed.notify_waiters();
        TakenDown(self)
    }
}
