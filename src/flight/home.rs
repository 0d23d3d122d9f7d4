//! What a flight needs of its owner.

use super::event::Event;
use super::reference::{FlightRef, Seat};
use super::rounds::Waking;
use crate::sync::Handle;

/// The group that a flight belongs to, as the flight sees it.
pub(crate) trait Home<K, T> {
    /// Whether callers with this home are tasks of the group, which no user is behind.
    const TASK: bool;

    /// Takes the flight's entry out of the map, if it is still there. Compares identity, not keys.
    fn vacate(&self, flight: &FlightRef<K, T>) -> Option<FlightRef<K, T>>;

    /// Runs `act` while the flight cannot be joined: under the lock that guards its entry, if it has one. Runs no user code.
    fn while_nobody_joins<R>(&self, flight: &FlightRef<K, T>, act: impl FnOnce() -> R) -> R;

    /// Counts and logs what happened to the flight. Called with no lock held.
    fn note(&self, event: Event);

    /// Spawns a task that sees to it that the rest of a flight's callers are woken, so that landing a flight with many callers
    /// does not occupy a thread for long.
    fn wake_rest(&self, rest: Waking<K, T>, runtime: &Handle);

    /// Returns the runtime that a task would be spawned on now, if there is one.
    fn runtime(&self) -> Option<Handle>;

    /// Spawns a task that polls the flight to its end, as the caller that `seat` stands for. `takes_off` says that the flight
    /// begins with that: it has had no task before, and its leader still has `POLLING`.
    fn attend(&self, flight: &FlightRef<K, T>, runtime: Handle, seat: Seat<K, T>, takes_off: bool);

    /// Returns the runtime of the flight's task, if the task is not steady. A caller that polls the work in the task's stead
    /// does so inside this runtime.
    fn runtime_of(&self, flight: &FlightRef<K, T>) -> Option<Handle>;

    /// Returns the group's own runtime, if it has one and this thread is in none. The work is polled inside it.
    fn around(&self) -> Option<Handle>;

    /// Returns what ends the flight if it is idle when called. It does not borrow this home.
    fn ends_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnOnce()>;

    /// Returns what polls the flight's work if that is called for when it is called, inside the runtime that is current now. It
    /// does not borrow this home, and returns whether the flight has ended with the poll.
    fn polls_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnMut() -> bool>;
}
