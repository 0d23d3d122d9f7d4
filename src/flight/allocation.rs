//! The one allocation of a flight: its counters, the list of waiting callers, the key, and the cargo.

use super::cargo::Cargo;
use super::hash::Packed;
use super::list::{List, Waiting};
use super::nest::nest;
use super::state::{ASKED, DONE, POLLING, STEADY, Snapshot, State, WOKEN};
use crate::sync::{AtomicU32, Mutex};
use crate::telemetry::FlightSpan;
use crate::unwind::quietly;
use std::marker::PhantomData;
use std::ops::DerefMut;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// An execution of work, with all that its callers share. `C` is the cargo: the work, then the result.
pub(crate) struct Flight<K, T, C: ?Sized = dyn Cargo<K, T>> {
    pub(super) refs: AtomicU32,
    pub(super) state: State,
    /// The lock of `waiting`.
    pub(super) lock: Mutex<()>,
    /// The hash under which the flight is listed. It is kept and not computed anew, so that what the map finds does not
    /// depend on the user's `Hash`, which may panic or differ from one time to the next.
    pub(super) hash: Packed,
    pub(super) waiting: Waiting,
    pub(super) key: K,
    pub(super) span: FlightSpan,
    pub(super) _result: PhantomData<fn() -> T>,
    pub(super) cargo: C,
}

impl<K, T, C: ?Sized> Flight<K, T, C> {
    pub(super) fn retain(&self) {
        // Relaxed: a new reference is made from one that exists. As in `Arc`, wrapping round would free memory in use.
        if self.refs.fetch_add(1, Ordering::Relaxed) > u32::MAX / 2 {
            std::process::abort();
        }
    }

    /// Locks the list of waiting callers.
    #[inline]
    pub(super) fn waiting(&self) -> impl DerefMut<Target = List> + '_ {
        // SAFETY: this is the only place that locks the list.
        unsafe { self.waiting.lock(&self.lock) }
    }

    /// Notes that the work asks to be polled, and wakes callers to do so.
    pub(super) fn wake(&self) {
        // If `WOKEN` was set before, callers have been woken for it. A holder of `POLLING` looks at it when its poll is over.
        if !self.state.set(WOKEN).has(ASKED | POLLING | DONE) {
            self.wake_drivers();
        }
    }

    /// Wakes the driver and a standby. The first of them to be polled finds `WOKEN` and polls the work.
    pub(super) fn wake_drivers(&self) {
        for waker in self.pop_drivers() {
            quietly(|| waker.wake());
        }
    }

    /// As [`wake_drivers`](Self::wake_drivers), where a caller leaves or has polled the work, which may be within its own wake-up.
    #[cold]
    pub(super) fn wake_other_drivers(&self) {
        self.pop_drivers().for_each(wake_within);
    }

    fn pop_drivers(&self) -> impl Iterator<Item = Waker> + use<K, T, C> {
        let (driver, standby) = {
            let mut waiting = self.waiting();
            let driver = waiting.pop_front();
            let standby = match &driver {
                // A steady task is always polled again, so it needs no standby.
                Some(_) if self.state.load().has(STEADY) => None,
                Some(driver) => waiting.pop_standby(driver),
                None => None,
            };
            (driver, standby)
        };
        [driver, standby].into_iter().flatten()
    }

    /// Wakes up to `most` of the waiting callers; returns whether there are more. Takes them out in batches, so that no lock
    /// is held while wakers run.
    pub(super) fn wake_some(&self, most: usize) -> bool {
        const BATCH: usize = 32;
        let mut batch: [Option<Waker>; BATCH] = [const { None }; BATCH];
        let mut left = most;
        loop {
            let mut taken = 0;
            let more = {
                let mut waiting = self.waiting();
                while taken < BATCH.min(left) {
                    let Some(waker) = waiting.pop_front() else { break };
                    batch[taken] = Some(waker);
                    taken += 1;
                }
                !waiting.is_empty()
            };
            if taken > 0 {
                nest(&mut batch[..taken], wake_each, |wakers| {
                    let mut wakers: Vec<_> = wakers.iter_mut().map(Option::take).collect();
                    Box::new(move || wake_each(&mut wakers))
                });
            }
            left -= taken;
            if !more || left == 0 {
                return more;
            }
        }
    }

    pub(super) fn try_poll_right(&self, now: Snapshot) -> bool {
        self.state.change(now, (now.0 | POLLING) & !ASKED)
    }
}

/// Wakes a caller, which may be within the wake-up of another one, see `nest.rs`.
pub(super) fn wake_within(waker: Waker) {
    nest(
        waker,
        |waker| quietly(|| waker.wake()),
        |waker| Box::new(|| waker.wake()),
    );
}

fn wake_each(wakers: &mut [Option<Waker>]) {
    let mut wakers = wakers.iter_mut();
    while wakers.len() > 0 {
        // After a waker that panics, the loop goes on with the others.
        quietly(|| wakers.by_ref().filter_map(Option::take).for_each(Waker::wake));
    }
}

impl<K, T> Flight<K, T> {
    /// Gives up one reference, and frees the flight with the last.
    ///
    /// # Safety
    /// The reference belongs to the code that calls this. With the last reference, the slot is empty.
    pub(super) unsafe fn release(flight: NonNull<Self>) {
        // SAFETY: the reference keeps the flight alive until it is given up here.
        let refs = unsafe { &flight.as_ref().refs };
        // Acquire: freeing has to see all that was done under the other references. If one is left, it is ours. No other
        // one can be made then, so there is no need to write.
        if refs.load(Ordering::Acquire) == 1 || refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: no reference is left; it was made by `Box::leak`.
            quietly(|| drop(unsafe { Box::from_raw(flight.as_ptr()) }));
        }
    }
}
