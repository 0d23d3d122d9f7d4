//! How the callers of a flight are woken when there are many of them.
//!
//! To wake all at once would occupy a thread for long, and fill the queues of a runtime, in which other tasks stand behind those
//! that were woken. So the caller that lands the flight wakes a round of them, and leaves the rest to a task ([`Waking`]) and to
//! the callers that leave. How they go on depends on where the callers are polled.
//!
//! **Anywhere.** The first round is [`round`]. Each caller that takes its result, or leaves without it, wakes another one, and the
//! task wakes a [`round`] whenever it is polled. So callers that are polled go on although the task is not: all threads of its
//! runtime may be blocked, or it may not be driven.
//!
//! **On workers of one runtime that drives itself**, and the flight lands on that runtime. The first round is [`first_round`].
//! Callers that take their results wake others [`together`]: one of so many wakes as many. If each woke another one, a worker's own
//! queue would never be empty. What is in the queue that all workers share would then wait until nearly all callers have left. And
//! each would take the lock of the list. A caller that leaves without its result wakes another one. The task sees to it that this
//! goes on although callers that were woken are not polled: if few callers have left since it was polled last, it wakes more.
//!
//! Which of the two it is, is known as each caller joins, and as it is polled again: the flight keeps the number of the runtime on
//! whose workers all have been polled so far (`State::runtime`). It does not count any more once a caller is polled elsewhere, or
//! inside other work, which may be polled elsewhere the next time. A future that another executor polls within a poll on a
//! worker's thread (by its `block_on`) cannot be told from one that the worker polls.

use super::allocation::{Flight, wake_within};
use super::reference::FlightRef;
use super::state::UNTOLD;
use crate::sync::{few, first_round, round, together};

/// The callers of a landed flight that are still to be woken. Dropping it wakes them all.
pub(crate) struct Waking<K, T> {
    flight: FlightRef<K, T>,
    /// The number of callers that had not left at the last look. `None` before the first, since nobody can have come by then: a
    /// worker may poll the task before those that it woke.
    there: Option<u32>,
}

impl<K, T> Waking<K, T> {
    /// Leaves the callers that have not been woken to a task. The flight is done.
    pub(super) fn begin(flight: FlightRef<K, T>) -> Self {
        flight.flight().state.set(UNTOLD);
        Self { flight, there: None }
    }

    /// Wakes a round, or what is due on one runtime's workers. Returns whether there may be more.
    pub(crate) fn wake_due(&mut self) -> bool {
        let state = &self.flight.flight().state;
        if state.runtime() == 0 {
            return self.flight.flight().wake_rest(round());
        }
        let now = state.load();
        let there = state.callers(now);
        let due = match self.there.replace(there).map(|before| before - there) {
            // A worker's queue is to have room for them.
            Some(0) => first_round(),
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
    /// Wakes the first round; returns whether there are more.
    pub(super) fn wake_first_round(&self) -> bool {
        let more = self.wake_some(first_round());
        // A caller that was polled elsewhere meanwhile, and that waits, is seen by now: the list has been locked since the flight
        // was done.
        if more && self.state.runtime() == 0 {
            return self.wake_some(round() - first_round());
        }
        more
    }

    /// Wakes up to `most` of the callers that have not been told that the flight is done; returns whether there are more.
    fn wake_rest(&self, most: usize) -> bool {
        let more = self.wake_some(most);
        if !more {
            self.state.clear(UNTOLD);
        }
        more
    }

    /// Wakes as many of the callers that have not been told as are due when one takes its result.
    #[cold]
    pub(super) fn wake_due(&self) {
        match self.state.due(together()) {
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
            wake_within(next);
        }
    }
}
