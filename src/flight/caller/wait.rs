//! How a caller waits: where in the flight's list it stands, and in which role.

use super::berth::Caller;
use crate::flight::allocation::Flight;
use crate::flight::event::Event;
use crate::flight::frame::runtime_of_poll;
use crate::flight::home::Home;
use crate::flight::list::{Driver, Leaves, List};
use crate::flight::reference::FlightRef;
use crate::flight::state::{STEADY, Snapshot, TASK, WOKEN};
use std::task::Waker;

/// One in this many newcomers takes the lock and moves the others from the stack to the ring. So the next holder of the lock,
/// which may be about to wake the work, finds few.
const NEWCOMERS: u32 = 64;

/// A caller's position in the list, and its role.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Behind the others, to wait.
    Back,
    /// Before the others, to be woken for the work: the flight's task, which has not polled the work this time.
    Front,
    /// Before the others, as the caller that polled the work because the work was woken.
    Driver,
    /// Has polled the work only to give it the flight's waker. Waits behind the others, unless the driver has left.
    Helper,
}

impl<K, T, H: Home<K, T>> Caller<K, T, H> {
    /// Returns the place of a caller that polls the work now, or puts the poll off.
    pub(super) fn place_to_poll(&self, now: Snapshot) -> Place {
        // A first follower that only gives the work the flight's waker does not become the driver by that.
        if now.has(WOKEN) || H::TASK {
            Place::Driver
        } else {
            Place::Helper
        }
    }

    /// Makes sure that the node is in the list, with this waker.
    pub(super) fn register(&self, whole: &FlightRef<K, T>, waker: &Waker, place: Place) {
        let flight = whole.flight();
        if flight.state.keeps_to_a_runtime() && !self.node.looked.replace(false) {
            self.note_where(whole);
        }
        // Only the caller itself puts its node in the list, so this look needs no lock.
        if self.node.is_linked() {
            let mut waiting = flight.waiting();
            // SAFETY: the lock is held.
            if self.node.is_linked() && unsafe { self.node.is_woken_by(waker) } {
                let event = self.place(flight, &mut waiting, place);
                drop(waiting);
                self.note(event);
                return;
            }
        }
        let waker = waker.clone();
        if let (Place::Back, false) = (place, self.node.is_linked()) {
            // SAFETY: the node is ours and not linked. It is pinned in the caller's future, which unlinks it before it is freed.
            drop(unsafe { flight.waiting.push(&self.node, waker) });
            if flight.state.joined_or_so().is_multiple_of(NEWCOMERS) {
                drop(flight.waiting());
            }
            return;
        }
        let (event, old) = {
            let mut waiting = flight.waiting();
            let event = self.place(flight, &mut waiting, place);
            // SAFETY: the lock is held.
            (event, unsafe { self.node.set_waker(waker) })
        };
        drop(old);
        self.note(event);
    }

    /// Notes if this caller is polled elsewhere than the others. Called before it can be found by the waker that it has here.
    pub(super) fn note_where(&self, flight: &FlightRef<K, T>) {
        flight.note_where(&self.home, runtime_of_poll);
    }

    /// Puts the node where it belongs. Returns the event if the work has passed to another driver with that.
    fn place(&self, flight: &Flight<K, T>, waiting: &mut List, place: Place) -> Option<Event> {
        // A caller that puts the poll off does not hold `POLLING`, so the work may have been given a steady task meanwhile.
        // Only that task is woken, so the caller must not stand before it. If the mark is not seen here, the task has yet to
        // take this lock, and goes before this caller then. A caller that has polled holds `POLLING`; no other caller sets the
        // mark meanwhile.
        let place = match !H::TASK && flight.state.load().has(STEADY) {
            true => Place::Back,
            false => place,
        };
        let front = match place {
            Place::Back => false,
            Place::Front | Place::Driver => true,
            Place::Helper => !waiting.has_another_driver(&self.node),
        };
        // SAFETY: the node is pinned in the caller's future and unlinked before that is freed. It is linked in no other list,
        // since a caller has one flight at a time.
        unsafe {
            if front {
                waiting.unlink(&self.node, Leaves::ForNow);
                waiting.push_front(&self.node);
            } else if !self.node.is_linked() {
                waiting.push_back(&self.node);
            }
        }
        match place {
            Place::Driver | Place::Helper if front => self.become_driver(flight, waiting),
            _ => None,
        }
    }

    pub(super) fn become_driver(&self, flight: &Flight<K, T>, waiting: &mut List) -> Option<Event> {
        match waiting.set_driver(&self.node) {
            _ if H::TASK => None,
            Driver::Same => None,
            // The task is there, and has not polled the work yet.
            Driver::Gone if flight.state.load().has(TASK) => Some(Event::TakenOver),
            Driver::Gone => Some(Event::HandedOver),
            Driver::Another => Some(Event::TakenOver),
        }
    }

    pub(super) fn note(&self, event: Option<Event>) {
        if let Some(event) = event {
            self.home.note(event);
        }
    }
}

impl<K, T> FlightRef<K, T> {
    /// Notes if a caller is polled elsewhere than on workers of the runtime that the flight has kept to so far.
    #[inline]
    pub(in crate::flight) fn note_where(&self, home: &impl Home<K, T>, own_runtime: impl FnOnce() -> u32) {
        if self.flight().state.keeps_to_a_runtime() {
            self.compare_where(home, own_runtime);
        }
    }

    /// Apart, so that callers of other flights have little of it.
    #[inline(never)]
    fn compare_where(&self, home: &impl Home<K, T>, own_runtime: impl FnOnce() -> u32) {
        let state = &self.flight().state;
        let runtime = state.runtime();
        if runtime != 0 && runtime != own_runtime() {
            home.while_nobody_joins(self, || state.mix());
        }
    }
}
