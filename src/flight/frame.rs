//! The flights whose work this thread is polling at the moment.
//!
//! A call that is polled inside a flight's work has that flight as its parent, so the group sees which flight waits for which.
//! Entered flights are on this thread's stack, one above the other. The innermost is kept here, and the one around it is put
//! back when the innermost is left.
//!
//! Below a bound, work is not polled on top of the others. Its poll is put off until the outermost of them has returned. Work
//! whose poll was put off puts off polls itself; these come next, and so on down a chain of flights. A flight that ends there
//! calls for the work that waited for it, so that work is polled once more, and so on up the chain. So each flight of the chain
//! is polled twice, and not once for each flight that ends below it.

use super::allocation::Flight;
use super::cargo::Cargo;
use super::state::RUNTIMES;
use crate::sync::{deepest, own_runtime, per_thread};
use crate::unwind::quietly;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::task::{RawWaker, RawWakerVTable, Waker};

per_thread! {
    static CURRENT: Cell<Option<Polled>> = Cell::new(None);
}

// The polls that were put off until the outermost frame is left. It is `None` while there are none, and has no destructor, so
// that leaving a frame costs little.
per_thread! {
    static PUT_OFF: Cell<Option<NonNull<Vec<PutOff>>>> = Cell::new(None);
}

/// Polls work if that is called for; returns whether its flight has ended with that.
pub(super) type PutOff = Box<dyn FnMut() -> bool>;

#[derive(Clone, Copy)]
struct Polled {
    flight: *const (),
    waker: &'static RawWakerVTable,
    /// The number of frames, with this one.
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

/// Marks a flight's work as what this thread polls, until it is left or dropped.
pub(super) struct Frame {
    outer: Option<Polled>,
    is_left: bool,
}

impl Frame {
    /// # Safety
    /// The flight is alive until the frame is left or dropped. That happens on this thread, and before any frame that was entered
    /// earlier is left; the frame is not forgotten.
    #[inline]
    pub(super) unsafe fn enter<K, T, C: Cargo<K, T> + ?Sized>(flight: NonNull<Flight<K, T, C>>) -> Self {
        let outer = match CURRENT.with(Cell::get) {
            None => None,
            Some(_) => outer(),
        };
        let depth = 1 + outer.map_or(0, |outer| outer.depth);
        // SAFETY: alive by contract.
        let polled = unsafe { Polled::new(flight, depth) };
        CURRENT.with(|current| current.set(Some(polled)));
        Self { outer, is_left: false }
    }

    /// Leaves the frame, if that has not been done. Where it stands: a frame that is moved, to be dropped elsewhere, costs a lone
    /// leader some nanoseconds.
    #[inline]
    pub(super) fn leave(&mut self) {
        if self.is_left {
            return;
        }
        if self.outer.is_none() && PUT_OFF.with(Cell::get).is_some() {
            // This frame stays meanwhile, so that no frame that is entered now is the outermost.
            poll_put_off();
        }
        self.is_left = true;
        match &self.outer {
            None => CURRENT.with(|current| current.set(None)),
            Some(outer) => put_back(outer),
        }
    }

    /// Returns whether there were too many frames to enter this one, see [`is_deep`].
    #[inline]
    pub(super) fn is_too_deep(&self) -> bool {
        self.outer.is_some_and(|outer| outer.depth >= deepest())
    }
}

/// Returns the innermost frame. Apart, so that it is copied only where there is one.
#[inline(never)]
fn outer() -> Option<Polled> {
    CURRENT.with(Cell::get)
}

/// Makes this the innermost frame again.
#[inline(never)]
fn put_back(outer: &Polled) {
    CURRENT.with(|current| current.set(Some(*outer)));
}

/// Returns whether as much work is being polled on this stack, one inside the other, as may be.
#[inline]
pub(super) fn is_deep() -> bool {
    CURRENT.with(Cell::get).is_some_and(|polled| polled.depth >= deepest())
}

/// Returns the number of the runtime on a worker of which the caller is polled that this thread polls now, and 0 if that is none.
///
/// A call inside work is polled by what polls the work, and that may be any caller of the work's flight the next time. So it
/// counts as polled elsewhere.
#[inline]
pub(super) fn runtime_of_poll() -> u32 {
    match CURRENT.with(Cell::get) {
        Some(_) => 0,
        None => own_runtime(RUNTIMES),
    }
}

/// Has `poll` called when the outermost frame of this thread is left. There is a frame.
pub(super) fn put_off(poll: PutOff) {
    PUT_OFF.with(|place| {
        let list = place.take().unwrap_or_else(|| NonNull::from(Box::leak(Box::default())));
        // SAFETY: made by `Box::leak` and not taken back yet; reached only from this place.
        unsafe { (*list.as_ptr()).push(poll) };
        place.set(Some(list));
    });
}

fn take_put_off() -> Vec<PutOff> {
    match PUT_OFF.with(Cell::take) {
        // SAFETY: made by `Box::leak`, and out of its place now.
        Some(list) => *unsafe { Box::from_raw(list.as_ptr()) },
        None => Vec::new(),
    }
}

#[cold]
fn poll_put_off() {
    // Each poll, and whether it was called before.
    let mut open = Vec::new();
    let mut ended = false;
    loop {
        open.extend(take_put_off().into_iter().rev().map(|poll| (poll, false)));
        let Some((mut poll, again)) = open.pop() else { return };
        if again && !std::mem::take(&mut ended) {
            quietly(|| drop(poll));
            continue;
        }
        let mut has_ended = false;
        quietly(|| has_ended = poll());
        ended |= has_ended;
        if !has_ended && PUT_OFF.with(Cell::get).is_some() {
            open.push((poll, true));
        } else {
            quietly(|| drop(poll));
        }
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        self.leave();
    }
}

/// A flight of any type, kept from being freed, so that its address stays unique.
#[derive(Debug)]
pub(crate) struct Anchor(Waker);

impl Anchor {
    /// Returns the innermost flight whose work this thread makes or polls, if there is one.
    #[inline]
    pub(crate) fn current() -> Option<Self> {
        let polled = CURRENT.with(Cell::get)?;
        // SAFETY: its frame has not been left, so the flight is alive.
        Some(unsafe { Self::new(polled) })
    }

    /// Returns the address of that flight.
    #[inline]
    pub(crate) fn current_id() -> Option<usize> {
        CURRENT.with(Cell::get).map(|polled| polled.flight.addr())
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

    /// Returns the flight's address.
    pub(crate) fn id(&self) -> usize {
        self.0.data().addr()
    }
}
