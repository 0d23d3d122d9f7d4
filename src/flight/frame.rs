//! Whose work this thread is polling at the moment.
//!
//! A call made from inside a flight's work has that flight as its parent; so the group sees who waits for whom.
//! Entered flights are on this thread's stack, one above the other; the innermost is kept, the outer ones are put
//! back when it is left.

use super::{Cargo, Flight};
use crate::sync::{deepest, per_thread};
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
    /// How many frames there are, with this one.
    depth: u32,
}

impl Polled {
    /// # Safety
    /// The flight is alive.
    #[inline]
    unsafe fn new<K, T, C: Cargo<K, T> + ?Sized>(flight: NonNull<Flight<K, T, C>>, depth: u32) -> Self {
        Self {
            flight: flight.as_ptr().cast_const().cast(),
            // SAFETY: alive by contract.
            waker: unsafe { flight.as_ref() }.cargo.waker(),
            depth,
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
        CURRENT.with(|current| {
            let outer = current.get();
            let depth = 1 + outer.map_or(0, |outer| outer.depth);
            // SAFETY: alive by contract.
            current.set(Some(unsafe { Polled::new(flight, depth) }));
            Self { outer }
        })
    }
}

/// Whether so much work is being polled on this stack, one inside the other, that what comes is to be polled on another one.
#[inline]
pub(crate) fn is_deep() -> bool {
    CURRENT.with(Cell::get).is_some_and(|polled| polled.depth >= deepest())
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

    /// # Safety
    /// The flight is alive.
    pub(super) unsafe fn of<K, T>(flight: NonNull<Flight<K, T>>) -> Self {
        // SAFETY: passed on.
        unsafe { Self::new(Polled::new(flight, 0)) }
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
