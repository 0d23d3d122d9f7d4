//! How the callers of a flight are woken when there are many of them.
//!
//! To wake all at once would occupy a thread for long, and fill the queues of a runtime, in which other tasks stand behind those
//! that were woken. So the caller that lands the flight wakes the first of them ([`first_round`]). From then on, about as many are
//! woken as leave:
//!
//! * Callers that take their results on workers of one runtime, that of the task below, wake others [`together`]: one of so many
//!   wakes as many. If each woke another one, a worker's own queue would never be empty. What is in the queue that all workers
//!   share would then wait until nearly all callers have left. And each would take the lock of the list.
//! * Any other caller that takes its result wakes another one, and so does every caller that leaves without it. So no caller
//!   depends on the threads of a runtime that it is not polled on: they may all be blocked.
//! * A task ([`Waking`]) sees to it that this goes on although callers that were woken are not polled. When it is polled and finds
//!   that few callers have left since it looked last, it wakes more.

use super::allocation::Flight;
use super::reference::FlightRef;
use super::state::{RUNTIMES, UNTOLD};
use crate::sync::{Handle, few, first_round, number_of, own_runtime, round, together};
use crate::unwind::quietly;

/// The callers of a landed flight that are still to be woken. Dropping it wakes them all.
pub(crate) struct Waking<K, T> {
    flight: FlightRef<K, T>,
    /// The number of callers that had not left at the last look. `None` if nobody can have come before the first.
    there: Option<u32>,
    /// The number that is woken if none has left.
    round: usize,
}

impl<K, T> Waking<K, T> {
    /// Leaves the callers that have not been woken to a task on `runtime`. The flight is done, and has `there` callers.
    pub(super) fn begin(flight: FlightRef<K, T>, there: u32, runtime: &Handle) -> Self {
        let runtime = number_of(runtime, RUNTIMES);
        flight.flight().state.share_out(runtime);
        flight.flight().state.set(UNTOLD);
        match runtime {
            0 => Self {
                flight,
                there: Some(there),
                round: round(),
            },
            // A worker polls the task, which it spawned last, before those that it woke. And its queue is to have room for them.
            _ => Self {
                flight,
                there: None,
                round: first_round(),
            },
        }
    }

    /// Wakes a round if no caller has left since the last look, and some if few have. Returns whether there may be more.
    pub(crate) fn wake_due(&mut self) -> bool {
        let state = &self.flight.flight().state;
        let now = state.load();
        let there = state.callers(now);
        let due = match self.there.replace(there).map(|before| before - there) {
            Some(0) => self.round,
            Some(left) => few().saturating_sub(left) as usize,
            None => 0,
        };
        match due {
            0 => now.has(UNTOLD),
            due => self.flight.flight().wake_rest(due),
        }
    }
}

impl<K, T> Drop for Waking<K, T> {
    fn drop(&mut self) {
        self.flight.flight().wake_rest(usize::MAX);
    }
}

impl<K, T, C: ?Sized> Flight<K, T, C> {
    /// Wakes up to `most` of the callers that have not been told that the flight is done; returns whether there are more.
    fn wake_rest(&self, most: usize) -> bool {
        let more = self.wake_some(most);
        if !more {
            self.state.clear(UNTOLD);
        }
        more
    }

    /// Wakes as many of the callers that have not been told as are due when one leaves.
    #[cold]
    pub(super) fn wake_due(&self) {
        match self.state.due(own_runtime, together()) {
            0 => {}
            1 => self.wake_next(),
            due => _ = self.wake_rest(due as usize),
        }
    }

    /// Wakes one more of the callers that have not been told. It wakes only one, because each woken task stands in a runtime's
    /// queue before other work.
    #[cold]
    pub(super) fn wake_next(&self) {
        let (next, more) = {
            let mut waiting = self.waiting();
            (waiting.pop_front(), !waiting.is_empty())
        };
        if !more {
            self.state.clear(UNTOLD);
        }
        if let Some(next) = next {
            quietly(|| next.wake());
        }
    }
}
