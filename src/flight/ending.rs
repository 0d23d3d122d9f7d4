//! How a flight ends: the work is dropped, the entry leaves the map, the result is published, and the waiting callers are
//! woken.

use super::allocation::Flight;
use super::event::Event;
use super::failure::{Ended, Failure};
use super::home::Home;
use super::nest::nest;
use super::reference::FlightRef;
use super::rounds::Waking;
use super::state::{ABORTED, ASKED, CANCELLED, DONE, POLLING, RUNTIMES, Snapshot, UNTOLD};
use crate::sync::{first_round, number_of, round};
use crate::unwind::quietly;

/// Which caller leaves in the step that publishes the result.
pub(super) enum Leaver {
    Nobody,
    /// The caller that publishes.
    Publisher,
}

impl<K, T> FlightRef<K, T> {
    /// Ends the flight without a value, now or as soon as the poll that is under way is over. Returns whether it had not
    /// landed.
    pub(crate) fn abort(&self, home: &impl Home<K, T>) -> bool {
        if self.flight().state.set(ABORTED).has(DONE) {
            return false;
        }
        self.end_if_idle(home);
        true
    }

    /// Ends a flight that is to be aborted or cancelled, unless its work is being polled: the holder of `POLLING` ends it
    /// then. Deep inside the end of other flights, this is put off until these have ended.
    pub(crate) fn end_if_idle(&self, home: &impl Home<K, T>) {
        nest(
            self,
            |flight| flight.end(home),
            |flight| home.ends_later(flight.clone()),
        );
    }

    fn end(&self, home: &impl Home<K, T>) {
        loop {
            let now = self.flight().state.load();
            if now.has(POLLING | DONE) {
                return;
            }
            if self.flight().try_poll_right(now) {
                // SAFETY: the right to poll was just taken; the flight is not done, so the slot holds the work.
                unsafe {
                    self.flight().cargo.drop_work();
                    // Counted before the end of the flight can be seen.
                    let failure = now.failure(home);
                    drop(self.vacate(home));
                    self.publish(Err(failure), Leaver::Nobody, home);
                }
                return;
            }
        }
    }

    /// Takes the entry out of the map. Returns the map's reference, if the flight was still listed.
    #[inline]
    pub(super) fn vacate(&self, home: &impl Home<K, T>) -> Option<FlightRef<K, T>> {
        home.vacate(self).filter(|listed| listed.is(self))
    }

    /// Publishes the result and wakes all waiting callers: a round of them here, the rest in a task if there is a runtime.
    /// The entry has left the map.
    ///
    /// # Safety
    /// `POLLING` is ours. The slot holds the value if `ended` is `Ok`, and is empty otherwise.
    pub(super) unsafe fn publish(&self, ended: Ended, leaver: Leaver, home: &impl Home<K, T>) {
        // Keeps the flight until all are woken: a caller that leaves meanwhile may be the last.
        let kept = matches!(leaver, Leaver::Publisher).then(|| self.clone());
        let flight = self.flight();
        if let Err(failure) = ended {
            // SAFETY: by contract.
            unsafe { flight.cargo.fail(failure) };
        }
        let callers = flight.state.callers(flight.state.load()) as usize;
        let runtime = match callers > first_round() {
            true => home.runtime(),
            false => None,
        };
        if callers > first_round() {
            let kept = flight.state.runtime();
            let number = |runtime| number_of(runtime, RUNTIMES);
            if kept != 0 && runtime.as_ref().map_or(0, number) != kept {
                flight.state.mix();
            }
            let all_at_once = callers <= round() && flight.state.runtime() == 0;
            if !all_at_once {
                // Before the flight is done, so that no caller that is woken in the first round takes its result and wakes no other.
                flight.state.set(UNTOLD);
            }
        }
        let left = match leaver {
            Leaver::Nobody => flight.state.finish(),
            Leaver::Publisher => flight.state.finish_and_leave(),
        };
        if flight.wake_first_round() {
            match runtime {
                Some(runtime) => home.wake_rest(Waking::begin(self.clone()), &runtime),
                None => _ = flight.wake_some(usize::MAX),
            }
        }
        if left == 0 {
            // All callers have left, and left the result to us.
            // SAFETY: a flight that is done is not joined, so no caller looks at the result any more. The callers' common
            // reference is left over.
            unsafe {
                let unclaimed = flight.cargo.take();
                quietly(|| drop(unclaimed));
                Flight::release(self.0);
            }
        }
        drop(kept);
    }
}

/// `POLLING`, which is given up even if a waker's `clone` panics.
pub(super) struct PollRight<'a, K, T, H: Home<K, T>> {
    pub(super) home: &'a H,
    pub(super) flight: &'a FlightRef<K, T>,
}

impl<K, T, H: Home<K, T>> Drop for PollRight<'_, K, T, H> {
    fn drop(&mut self) {
        let before = self.flight.flight().state.give_up_polling();
        if before.has(ABORTED) {
            self.flight.end_if_idle(self.home);
        } else if before.has(ASKED) {
            self.flight.flight().wake_other_drivers();
        }
    }
}

impl Snapshot {
    /// Returns why a flight that was to be aborted or cancelled has no value, and has it counted.
    pub(super) fn failure<K, T>(self, home: &impl Home<K, T>) -> Failure {
        if self.has(CANCELLED) {
            home.note(Event::Cancelled);
            Failure::Cancelled
        } else {
            home.note(Event::Aborted);
            Failure::Aborted
        }
    }
}
