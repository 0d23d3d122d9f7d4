//! The order in which the writers of one process write.
//!
//! ```text
//! business ──one at a time──▶ its door ──▶ gate ──nobody of rank Lease waits──▶ turn
//! steps ─────one at a time──▶ its door ──▶  ▲ └──────────else, goes behind them─┐
//! works ─────one at a time──▶ its door ──▶  └───────────────────────────────────┘
//! lease ──────────────────────────────────▶ gate ─────────────────────────────▶ turn
//! ```
//!
//! Doors and gate are fair, so each rank is served in the order in which it came. Of business, only the head of the line
//! is at the gate. So what concerns a lease waits for one turn, the one that is being taken, however many are in line.
//! It must: a holder that is alive must not lose its claim to a queue.
//!
//! What is recorded of steps has a line of its own. The heads of both lines meet at the gate, so they take turns: neither
//! a crowd of claims nor a crowd of steps keeps the other one waiting. So have transactions of work that need a connection of
//! a user's pool, beside which the store has one of its own: their head goes away from the gate to wait for one, and keeps its
//! place in its line ([`works`](super::works)).

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{Either, select};
use tokio::sync::{Mutex, MutexGuard, Notify, OwnedMutexGuard};

/// How urgent a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// What prolongs or ends a claim that is held: goes first.
    Lease,
    /// What is recorded of a step: alternates with business.
    Step,
    /// Work on a connection of the user's pool, beside which the store has one of its own: alternates with the others.
    Work,
    /// Everything else.
    Business,
}

/// The right to write. Clones of the queue share it.
#[derive(Default)]
pub(super) struct Queue {
    door: Mutex<()>,
    steps_door: Mutex<()>,
    works_door: Mutex<()>,
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

/// The first one in the line of works, until this is dropped, whether or not it has a turn.
pub(super) struct Head<'q> {
    queue: &'q Queue,
    _door: MutexGuard<'q, ()>,
}

impl Head<'_> {
    /// Waits at the gate for a turn, as [`Queue::enter`] does.
    pub(super) async fn enter<S: Future<Output = Infallible>>(&self, see_to_it: impl Fn() -> S) -> OwnedMutexGuard<()> {
        self.queue.enter_as_head(&see_to_it).await
    }
}

impl Queue {
    /// Returns the door of a line. What concerns a lease goes to the gate at once.
    fn door(&self, rank: Rank) -> Option<&Mutex<()>> {
        match rank {
            Rank::Lease => None,
            Rank::Step => Some(&self.steps_door),
            Rank::Work => Some(&self.works_door),
            Rank::Business => Some(&self.door),
        }
    }

    /// Takes a turn at once, if nothing has it, and nothing waits that would have gone first.
    pub(super) fn try_enter(&self, rank: Rank) -> Option<OwnedMutexGuard<()>> {
        let Some(door) = self.door(rank) else {
            return Arc::clone(&self.gate).try_lock_owned().ok();
        };
        let _head = door.try_lock().ok()?;
        let turn = Arc::clone(&self.gate).try_lock_owned().ok()?;
        (!self.urgent.is_any()).then_some(turn)
    }

    /// Returns whether one of a line is at the gate, or has gone away from it and keeps its place.
    #[cfg(test)]
    pub(super) fn has_head(&self, rank: Rank) -> bool {
        self.door(rank).is_some_and(|door| door.try_lock().is_err())
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
        let Some(door) = self.door(rank) else {
            let _waiting = self.urgent();
            return self.at_gate(&see_to_it).await;
        };
        let _head = door.lock().await;
        self.enter_as_head(&see_to_it).await
    }

    /// Waits to be the first one in the line of works.
    pub(super) async fn head_of_works(&self) -> Head<'_> {
        Head {
            queue: self,
            _door: self.works_door.lock().await,
        }
    }

    async fn enter_as_head<S: Future<Output = Infallible>>(&self, see_to_it: &impl Fn() -> S) -> OwnedMutexGuard<()> {
        loop {
            let turn = self.at_gate(see_to_it).await;
            let fewer = self.urgent.fewer.notified();
            if !self.urgent.is_any() {
                return turn;
            }
            drop(turn);
            // A writer that is counted as urgent may not be at the gate yet.
            fewer.await;
        }
    }

    async fn at_gate<S: Future<Output = Infallible>>(&self, see_to_it: &impl Fn() -> S) -> OwnedMutexGuard<()> {
        match select(pin!(Arc::clone(&self.gate).lock_owned()), pin!(see_to_it())).await {
            Either::Left((turn, _)) => turn,
            Either::Right((never, _)) => match never {},
        }
    }
}
