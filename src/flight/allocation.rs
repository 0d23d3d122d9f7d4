//! The one allocation of a flight: its counters, the list of those who wait, the key, and what it carries.

use super::cargo::Cargo;
use super::hash::Packed;
use super::list::{List, Waiting};
use super::state::{ASKED, DONE, POLLING, STEADY, Snapshot, State, UNTOLD, WOKEN};
use crate::sync::{AtomicU32, Mutex};
use crate::telemetry::FlightSpan;
use crate::unwind::quietly;
use std::marker::PhantomData;
use std::ops::DerefMut;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// An execution of work, with all that its callers share. `C` is what it carries: the work, then the result.
pub(crate) struct Flight<K, T, C: ?Sized = dyn Cargo<K, T>> {
    pub(super) refs: AtomicU32,
    pub(super) state: State,
    /// The lock of those who wait.
    pub(super) lock: Mutex<()>,
    /// The hash under which the flight is listed. Kept, not computed anew: what the map finds must not depend on the
    /// user's `Hash`, which may panic, or differ from one time to the next.
    pub(super) hash: Packed,
    pub(super) waiting: Waiting,
    pub(super) key: K,
    pub(super) span: FlightSpan,
    pub(super) _result: PhantomData<fn() -> T>,
    pub(super) cargo: C,
}

impl<K, T, C: ?Sized> Flight<K, T, C> {
    pub(super) fn retain(&self) {
        // Relaxed: whoever makes a reference has one. As in `Arc`, wrapping round would free what is in use.
        if self.refs.fetch_add(1, Ordering::Relaxed) > u32::MAX / 2 {
            std::process::abort();
        }
    }

    /// Those who wait, under their lock.
    #[inline]
    pub(super) fn waiting(&self) -> impl DerefMut<Target = List> + '_ {
        // SAFETY: the list is taken here alone.
        unsafe { self.waiting.lock(&self.lock) }
    }

    /// The work asks to be polled.
    pub(super) fn wake(&self) {
        // Whoever set `WOKEN` before has woken somebody; whoever is polling looks at it when he is through.
        if !self.state.set(WOKEN).has(ASKED | POLLING | DONE) {
            self.wake_drivers();
        }
    }

    /// Wakes the driver and a standby. One of them, polled, finds `WOKEN` and polls the work.
    pub(super) fn wake_drivers(&self) {
        let (driver, standby) = {
            let mut waiting = self.waiting();
            let driver = waiting.pop_front();
            let standby = match &driver {
                // A steady task is always polled again.
                Some(_) if self.state.load().has(STEADY) => None,
                Some(driver) => waiting.pop_standby(driver),
                None => None,
            };
            (driver, standby)
        };
        for waker in [driver, standby].into_iter().flatten() {
            quietly(|| waker.wake());
        }
    }

    /// Wakes those who wait, `most` of them at most, in batches, so that no lock is held while wakers run; says whether
    /// there are more.
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
            let mut wakers = batch[..taken].iter_mut();
            while wakers.len() > 0 {
                // A waker that panics keeps none of the others from being woken.
                quietly(|| wakers.by_ref().filter_map(Option::take).for_each(Waker::wake));
            }
            left -= taken;
            if !more || left == 0 {
                return more;
            }
        }
    }

    /// Wakes another one of those who have not been told that the flight is done. No more: whoever is woken stands in a
    /// runtime's queue, before what others want to run.
    #[cold]
    pub(super) fn wake_next(&self) {
        if !self.wake_some(1) {
            self.state.clear(UNTOLD);
        }
    }

    pub(super) fn try_poll_right(&self, now: Snapshot) -> bool {
        self.state.change(now, (now.0 | POLLING) & !ASKED)
    }
}

impl<K, T> Flight<K, T> {
    /// Gives one reference up, and frees the flight with the last.
    ///
    /// # Safety
    /// The caller owns the reference. With the last one the slot is empty.
    pub(super) unsafe fn release(flight: NonNull<Self>) {
        // SAFETY: the reference keeps the flight alive until it is given up here.
        let refs = unsafe { &flight.as_ref().refs };
        // Acquire: whoever frees has to see all that was done under the other references. If one is left, it is ours,
        // and nobody can make another; no need to write.
        if refs.load(Ordering::Acquire) == 1 || refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: no reference is left; it was made by `Box::leak`.
            quietly(|| drop(unsafe { Box::from_raw(flight.as_ptr()) }));
        }
    }
}
