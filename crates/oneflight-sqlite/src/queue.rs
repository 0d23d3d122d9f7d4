//! The order in which the writers of one process write.
//!
//! ```text
//! business ──one at a time──▶ its door ──▶ gate ──nobody of rank Lease waits──▶ turn
//! steps ─────one at a time──▶ its door ──▶  ▲ └──────────else, goes behind them─┐
//!                                           └───────────────────────────────────┘
//! lease ──────────────────────────────────▶ gate ─────────────────────────────▶ turn
//! ```
//!
//! Doors and gate are fair, so each rank is served in the order in which it came. Of business, only the head of the line
//! is at the gate. So what concerns a lease waits for one turn, the one that is being taken, however many are in line.
//! It must: a holder that is alive must not lose its claim to a queue.
//!
//! What is recorded of steps has a line of its own. The heads of both lines meet at the gate, so they take turns: neither
//! a crowd of claims nor a crowd of steps keeps the other one waiting.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{Either, select};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

/// How urgent a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// What prolongs or ends a claim that is held: goes first.
    Lease,
    /// What is recorded of a step: alternates with business.
    Step,
    /// Everything else.
    Business,
}

/// The right to write. Clones of the queue share it.
#[derive(Default)]
pub(super) struct Queue {
    door: Mutex<()>,
    steps_door: Mutex<()>,
    gate: Arc<Mutex<()>>,
    urgent: Arc<Urgency>,
}

/// How many of rank [`Lease`](Rank::Lease) wait.
#[derive(Default)]
struct Urgency {
    many: AtomicUsize,
    fewer: Notify,
}

impl Urgency {
    fn is_any(&self) -> bool {
        self.many.load(Ordering::SeqCst) > 0
    }
}

/// One writer that counts as urgent.
pub(super) struct Urgent(Arc<Urgency>);

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.many.fetch_sub(1, Ordering::SeqCst);
        self.0.fewer.notify_waiters();
    }
}

impl Queue {
    /// Takes a turn at once, if nothing has it, and nothing waits that would have gone first.
    pub(super) fn try_enter(&self, rank: Rank) -> Option<OwnedMutexGuard<()>> {
        let door = match rank {
            Rank::Lease => return Arc::clone(&self.gate).try_lock_owned().ok(),
            Rank::Step => &self.steps_door,
            Rank::Business => &self.door,
        };
        let _head = door.try_lock().ok()?;
        let turn = Arc::clone(&self.gate).try_lock_owned().ok()?;
        (!self.urgent.is_any()).then_some(turn)
    }

    /// Returns whether one of business waits at the gate, or has gone through.
    #[cfg(test)]
    pub(super) fn has_head(&self) -> bool {
        self.door.try_lock().is_err()
    }

    /// Has all but those of rank [`Lease`](Rank::Lease) leave the next turn to them, as long as this is kept.
    pub(super) fn urgent(&self) -> Urgent {
        self.urgent.many.fetch_add(1, Ordering::SeqCst);
        Urgent(Arc::clone(&self.urgent))
    }

    #[cfg(test)]
    pub(super) fn has_urgent(&self) -> bool {
        self.urgent.is_any()
    }

    /// Waits for a turn, which lasts until the returned guard is dropped. At the gate, which few are at, it sees to it
    /// that what has the turn goes on.
    pub(super) async fn enter<S: Future<Output = Infallible>>(
        &self,
        rank: Rank,
        see_to_it: impl Fn() -> S,
    ) -> OwnedMutexGuard<()> {
        let at_gate = async || match select(pin!(Arc::clone(&self.gate).lock_owned()), pin!(see_to_it())).await {
            Either::Left((turn, _)) => turn,
            Either::Right((never, _)) => match never {},
        };
        let door = match rank {
            Rank::Lease => {
                let _waiting = self.urgent();
                return at_gate().await;
            }
            Rank::Step => &self.steps_door,
            Rank::Business => &self.door,
        };
        let _head = door.lock().await;
        loop {
            let turn = at_gate().await;
            let fewer = self.urgent.fewer.notified();
            if !self.urgent.is_any() {
                return turn;
            }
            drop(turn);
            // A writer that is counted as urgent may not be at the gate yet.
            fewer.await;
        }
    }
}
