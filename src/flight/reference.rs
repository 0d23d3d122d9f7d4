//! References to a flight: counted ones, lent ones, and those that stand for a place among its callers.

use super::allocation::Flight;
use super::frame::{Anchor, runtime_of_poll};
use super::hash::KeyHash;
use super::state::{ABORTED, PROVEN};
use crate::identity::Fingerprint;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

/// A counted reference to a flight, as the map holds it.
pub(crate) struct FlightRef<K, T>(pub(super) NonNull<Flight<K, T>>);

// SAFETY: counted atomically; a flight is `Send` and `Sync` where its key and its result are.
unsafe impl<K: Send + Sync, T: Send + Sync> Send for FlightRef<K, T> {}
// SAFETY: as above.
unsafe impl<K: Send + Sync, T: Send + Sync> Sync for FlightRef<K, T> {}

impl<K, T> FlightRef<K, T> {
    pub(crate) fn key(&self) -> &K {
        &self.flight().key
    }

    pub(crate) fn hash(&self) -> KeyHash {
        self.flight().hash.get()
    }

    #[inline]
    pub(crate) fn fingerprint(&self) -> Option<&Fingerprint> {
        // Most flights have none, and the flag spares them the call.
        if self.flight().state.load().has(PROVEN) {
            self.flight().cargo.fingerprint()
        } else {
            None
        }
    }

    /// Returns a handle that keeps the flight's address from being used again.
    pub(crate) fn anchor(&self) -> Anchor {
        // SAFETY: this reference is counted.
        unsafe { Anchor::of(self.0) }
    }

    /// Returns the number of callers, the flight's task not counted.
    #[inline]
    pub(crate) fn attending(&self) -> u32 {
        let state = &self.flight().state;
        state.attending(state.load())
    }

    /// Returns the flight's address, which is unique while a reference exists.
    pub(crate) fn id(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Returns whether the work has come to its end with no caller there for its result. Exact under the lock that guards
    /// the flight's entry.
    pub(crate) fn is_unattended(&self) -> bool {
        let state = &self.flight().state;
        let now = state.load();
        !now.has(ABORTED) && state.attending(now) == 0
    }

    /// Returns whether both refer to the same flight.
    pub(crate) fn is(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.0.as_ptr(), other.0.as_ptr())
    }

    /// Adds a caller, unless the flight is done. To be called under the lock that guards the flight's entry, and while the
    /// entry is there: then a limit that was checked under the same lock holds.
    #[inline]
    pub(crate) fn join(&self) -> Option<Seat<K, T>> {
        let before = self.flight().state.join(runtime_of_join)?;
        Some(Seat {
            flight: self.0,
            late: before.has(ABORTED),
        })
    }

    pub(super) fn flight(&self) -> &Flight<K, T> {
        // SAFETY: this reference is counted.
        unsafe { self.0.as_ref() }
    }
}

impl<K, T> Clone for FlightRef<K, T> {
    fn clone(&self) -> Self {
        self.flight().retain();
        Self(self.0)
    }
}

impl<K, T> Drop for FlightRef<K, T> {
    fn drop(&mut self) {
        // SAFETY: this reference is ours. If it is the last, the callers' reference has gone, and the result with it.
        unsafe { Flight::release(self.0) };
    }
}

/// A reference that is lent: dropping it does not give up a count.
pub(super) struct Lent<K, T>(ManuallyDrop<FlightRef<K, T>>);

impl<K, T> Lent<K, T> {
    /// # Safety
    /// The flight outlives what is returned.
    pub(super) unsafe fn new(flight: NonNull<Flight<K, T>>) -> Self {
        Self(ManuallyDrop::new(FlightRef(flight)))
    }
}

impl<K, T> Deref for Lent<K, T> {
    type Target = FlightRef<K, T>;

    fn deref(&self) -> &FlightRef<K, T> {
        &self.0
    }
}

/// Apart, so that a join to a flight that keeps to no runtime has little of it.
#[inline(never)]
fn runtime_of_join() -> u32 {
    runtime_of_poll()
}

/// One place among the callers of a flight that no [`Caller`](super::Caller) has taken yet.
#[must_use = "a place that is not taken keeps the flight from ending"]
pub(crate) struct Seat<K, T> {
    pub(super) flight: NonNull<Flight<K, T>>,
    /// The flight was being aborted or cancelled already. If it ends so, the call has to be made again.
    pub(crate) late: bool,
}

// SAFETY: a seat is a counted place in a flight that is `Send` and `Sync` itself.
unsafe impl<K: Send + Sync, T: Send + Sync> Send for Seat<K, T> {}
