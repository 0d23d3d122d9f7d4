//! Who writes next, among the writers of one process.
//!
//! ```text
//! business ──one at a time──▶ door ──▶ gate ──nobody of rank Lease waits──▶ turn
//!                                       ▲ └──────────else, goes behind them─┐
//!                                       └───────────────────────────────────┘
//! lease ───────────────────────────────▶ gate ─────────────────────────────▶ turn
//! ```
//!
//! Door and gate are fair, so each rank is served in the order in which it came; of business, only the head of the
//! line is at the gate. So what concerns a lease waits for one turn, the one that is being taken, however many stand in
//! line. It must: whoever holds a claim and is alive is not to lose it to a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, OwnedMutexGuard};

/// How urgent a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// What prolongs or ends a claim that is held: goes first.
    Lease,
    /// Everything else.
    Business,
}

/// The right to write. Clones of the queue share it.
#[derive(Default)]
pub(super) struct Queue {
    door: Mutex<()>,
    gate: Arc<Mutex<()>>,
    /// How many of rank [`Lease`](Rank::Lease) wait.
    urgent: AtomicUsize,
}

/// Being one of the urgent.
struct Urgent<'q>(&'q AtomicUsize);

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Queue {
    /// Waits for a turn, which lasts until what this answers is dropped.
    pub(super) async fn enter(&self, rank: Rank) -> OwnedMutexGuard<()> {
        if rank == Rank::Lease {
            self.urgent.fetch_add(1, Ordering::SeqCst);
            let _waiting = Urgent(&self.urgent);
            return Arc::clone(&self.gate).lock_owned().await;
        }
        let _head = self.door.lock().await;
        loop {
            let turn = Arc::clone(&self.gate).lock_owned().await;
            if self.urgent.load(Ordering::SeqCst) == 0 {
                return turn;
            }
            drop(turn);
            // One who has said that he comes may not stand at the gate yet.
            tokio::task::yield_now().await;
        }
    }
}
