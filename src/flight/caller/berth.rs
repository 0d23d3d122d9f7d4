//! What a caller is, and how it joins a flight.

use crate::flight::allocation::Flight;
use crate::flight::frame::Anchor;
use crate::flight::home::Home;
use crate::flight::list::Node;
use crate::flight::reference::{Lent, Seat};
use crate::flight::state::DONE;
use std::cell::Cell;
use std::ops::Deref;
use std::ptr::NonNull;

/// One place in a flight, and the node by which the caller waits.
pub(crate) struct Caller<K, T, H: Home<K, T>> {
    pub(super) home: H,
    pub(super) flight: Berth<K, T>,
    pub(super) node: Node,
}

/// The flight whose caller this is, if any. While it is set, the flight's word counts the caller.
///
/// A caller is `Send` because its parts are, and has no `impl` of its own for that. Such an `impl` would need a [`Home`] as
/// a bound, and with it `'static`. But where the compiler checks whether an `async` block is `Send` it has erased the
/// lifetimes, so it would reject every block in which a key or result holds a reference or a trait object.
pub(super) struct Berth<K, T>(Cell<Option<NonNull<Flight<K, T>>>>);

// SAFETY: the pointer is a counted place in a flight, which it keeps alive, and is not bound to a thread. Through it another
// thread reads the key and copies the result while others do (`Sync`), takes the result out, or drops both (`Send`). The
// work, whose type is erased here, is `Send` and `Sync` as a `Cargo`. The cell itself is reached by one thread at a time, since
// it keeps the berth from being `Sync`.
unsafe impl<K: Send + Sync, T: Send + Sync> Send for Berth<K, T> {}

impl<K, T> Deref for Berth<K, T> {
    type Target = Cell<Option<NonNull<Flight<K, T>>>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K, T, H: Home<K, T>> Caller<K, T, H> {
    pub(crate) fn new(home: H) -> Self {
        Self {
            home,
            flight: Berth(Cell::new(None)),
            node: Node::new(),
        }
    }

    pub(crate) fn home(&self) -> &H {
        &self.home
    }

    /// Returns whether this is a caller of a flight at present.
    pub(crate) fn is_seated(&self) -> bool {
        self.flight.get().is_some()
    }

    /// Returns the flight whose caller this is, kept from being freed, unless it has landed.
    pub(crate) fn under_way(&self) -> Option<Anchor> {
        let flight = self.flight.get()?;
        // SAFETY: this is a caller of the flight.
        let lent = unsafe { Lent::new(flight) };
        (!lent.flight().state.load().has(DONE)).then(|| lent.anchor())
    }

    /// Takes the seat, and with it becomes a caller of the seat's flight.
    pub(crate) fn sit(&self, seat: Seat<K, T>) {
        debug_assert!(!self.is_seated());
        // A note left over from an earlier flight has no meaning in this one.
        self.node.outwaited.set(false);
        // The task is polled elsewhere than it gets its seat. Any other caller joins as it is polled.
        self.node.looked.set(!H::TASK);
        self.flight.set(Some(seat.flight));
        if !H::TASK {
            // SAFETY: this is a caller of the flight.
            unsafe { Lent::new(seat.flight) }.flight().span.link_current();
        }
    }
}
