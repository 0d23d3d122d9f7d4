//! Whose work this thread is polling at the moment.
//!
//! A call that is polled inside a flight's work has that flight as its parent; so the group sees who waits for whom.
//! Entered flights are on this thread's stack, one above the other; the innermost is kept, the outer ones are put
//! back when it is left.

use super::{Cargo, Flight};
use crate::sync::per_thread;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::task::{RawWaker, RawWakerVTable, Waker};

per_thread! {
    static CURRENT: Cell<Option<Polled>> = Cell::new(None);
}

#[derive(Clone, Copy)]
struct Polled {
    flight: *const (),
    waker: &'static RawWakerVTable,
}

impl Polled {
    /// # Safety
    /// The flight is alive.
    #[inline]
    unsafe fn new<K, T, C: Cargo<K, T> + ?Sized>(flight: NonNull<Flight<K, T, C>>) -> Self {
        Self {
            flight: flight.as_ptr().cast_const().cast(),
            // SAFETY: alive by contract.
            waker: unsafe { flight.as_ref() }.cargo.waker(),
        }
    }
}

/// While this lives, the flight's work is what this thread polls.
pub(super) struct Frame {
    outer: Option<Polled>,
}

impl Frame {
    /// # Safety
    /// The flight is alive until the frame is dropped, on this thread and before any frame that was entered earlier.
    #[inline]
    pub(super) unsafe fn enter<K, T, C: Cargo<K, T> + ?Sized>(flight: NonNull<Flight<K, T, C>>) -> Self {
        // SAFETY: alive by contract.
        let polled = unsafe { Polled::new(flight) };
        Self {
            outer: CURRENT.with(|current| current.replace(Some(polled))),
        }
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        CURRENT.with(|current| current.set(self.outer));
    }
}

/// A flight of any type, kept from being freed, so that its address stays its own.
#[derive(Debug)]
pub(crate) struct Anchor(Waker);

impl Anchor {
    /// The innermost flight whose work this thread makes or polls, if it does.
    #[inline]
    pub(crate) fn current() -> Option<Self> {
        let polled = CURRENT.with(Cell::get)?;
        // SAFETY: its frame has not been left, so the flight is alive.
        Some(unsafe { Self::new(polled) })
    }

    /// Its address.
    #[inline]
    pub(crate) fn current_id() -> Option<usize> {
        CURRENT.with(Cell::get).map(|polled| polled.flight.addr())
    }

    /// # Safety
    /// The flight is alive.
    pub(super) unsafe fn of<K, T>(flight: NonNull<Flight<K, T>>) -> Self {
        // SAFETY: passed on.
        unsafe { Self::new(Polled::new(flight)) }
    }

    /// # Safety
    /// The flight is alive.
    unsafe fn new(polled: Polled) -> Self {
        // SAFETY: pointer and table belong together. This waker owns no reference; its clone does.
        let lent = ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(polled.flight, polled.waker)) });
        Self(Waker::clone(&lent))
    }

    /// The flight's address.
    pub(crate) fn id(&self) -> usize {
        self.0.data().addr()
    }
}
