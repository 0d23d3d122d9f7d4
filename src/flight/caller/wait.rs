//! How a caller waits: where in the flight's list he stands, and as what.

use super::berth::Caller;
use crate::flight::allocation::Flight;
use crate::flight::event::Event;
use crate::flight::home::Home;
use crate::flight::list::{Driver, Leaves, List};
use crate::flight::state::{STEADY, Snapshot, TASK, WOKEN};
use std::task::Waker;

/// One of so many newcomers takes the lock, and the others out of the stack, so that whoever takes it next, perhaps to
/// wake the work, finds few.
const NEWCOMERS: u32 = 64;

/// Where in the list, and as what.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Behind the others, to wait.
    Back,
    /// Before the others, to be woken for the work: a task of ours that has not polled it this time.
    Front,
    /// Before the others, as the one who polled the work because it was woken.
    Driver,
    /// Polled the work only to bring the flight's waker in: waits, unless the driver has gone.
    Helper,
}

impl<K, T, H: Home<K, T>> Caller<K, T, H> {
    /// The place of who polls the work now, or puts that off.
    pub(super) fn place_to_poll(&self, now: Snapshot) -> Place {
        // A first follower who only brings the flight's waker in does not become the driver by that.
        if now.has(WOKEN) || H::TASK {
            Place::Driver
        } else {
            Place::Helper
        }
    }

    /// Sees to it that the node is in the list, with this waker.
    pub(super) fn register(&self, flight: &Flight<K, T>, waker: &Waker, place: Place) {
        // Whoever is not in the list is put there by nobody else, so this look needs no lock.
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
            // SAFETY: not linked, and pinned in the caller's future, which unlinks it before it is freed.
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

    /// Puts the node where it belongs; says whether the work has passed to another driver with that.
    fn place(&self, flight: &Flight<K, T>, waiting: &mut List, place: Place) -> Option<Event> {
        // A caller that puts the poll off does not hold `POLLING`, so the work may have been given a steady task meanwhile,
        // which alone is woken: the caller is not to stand before it. If the mark is not seen here, the task has yet to take
        // this lock, and comes before us then. Who has polled holds `POLLING`, over which no caller sets the mark.
        let place = match !H::TASK && flight.state.load().has(STEADY) {
            true => Place::Back,
            false => place,
        };
        let front = match place {
            Place::Back => false,
            Place::Front | Place::Driver => true,
            Place::Helper => !waiting.has_another_driver(&self.node),
        };
        // SAFETY: the node is pinned in the caller's future and unlinked before that is freed; it is linked in no other
        // list, since a caller has one flight at a time.
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
            // It is there, and has not polled the work yet.
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
