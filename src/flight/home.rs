//! What a flight needs of its owner.

use super::event::Event;
use super::reference::{FlightRef, Seat, Waking};
use crate::sync::Handle;

/// What a flight needs of the group it belongs to.
pub(crate) trait Home<K, T> {
    /// Whether callers of this kind are tasks of ours, which nobody is behind.
    const TASK: bool;

    /// Takes the flight's own entry out of the map, if it is still there. Compares identity, not keys.
    fn vacate(&self, flight: &FlightRef<K, T>) -> Option<FlightRef<K, T>>;

    /// Runs `act` while nobody can join the flight: under the lock that guards its entry, if it has one. Runs no user code.
    fn while_nobody_joins<R>(&self, flight: &FlightRef<K, T>, act: impl FnOnce() -> R) -> R;

    /// Something happened. Called with no lock held.
    fn note(&self, event: Event);

    /// Spawns a task that wakes the rest of a flight's callers, round by round, so that whoever lands a flight with many
    /// callers keeps his thread from nobody for long. Drops them, which wakes them all, where there is no runtime.
    fn wake_rest(&self, rest: Waking<K, T>);

    /// The runtime that a task would be spawned on now, if there is one.
    fn runtime(&self) -> Option<Handle>;

    /// Spawns a task that polls the flight to its end, as the caller that `seat` stands for. If the flight takes off with that, it
    /// has had no task before, and its leader still has `POLLING`.
    fn attend(&self, flight: &FlightRef<K, T>, runtime: Handle, seat: Seat<K, T>, takes_off: bool);

    /// The runtime of the flight's task, if that is not steady: who polls the work in its stead does so inside that.
    fn runtime_of(&self, flight: &FlightRef<K, T>) -> Option<Handle>;

    /// What ends the flight if it is idle then, and does not borrow this home.
    fn ends_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnOnce()>;

    /// What polls the flight's work if that is called for then, inside the runtime that is current now, and does not borrow
    /// this home. Says whether the flight has ended with that.
    fn polls_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnMut() -> bool>;
}
