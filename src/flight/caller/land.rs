//! How a flight ends by a caller's poll, and how a caller leaves it, before that or after.

use super::berth::Caller;
use crate::flight::allocation::Flight;
use crate::flight::cargo::Cargo;
use crate::flight::ending::Leaver;
use crate::flight::event::Event;
use crate::flight::failure::{Ended, Failure, Landed};
use crate::flight::home::Home;
use crate::flight::list::Leaves;
use crate::flight::reference::{FlightRef, Lent, Seat};
use crate::flight::state::{
    ABORTED, ASKED, CALLER, CANCEL_ON_ABANDON, CANCELLED, DONE, JOINED, POLLING, SHARED, STEADY, Snapshot, TASK,
    UNTOLD, task_on,
};
use crate::unwind::quietly;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

impl<K, T, H: Home<K, T>> Caller<K, T, H> {
    /// Ends the flight with this result, and takes this caller's copy of it.
    ///
    /// # Safety
    /// This is a caller of `flight`, and `whole` is the same flight. `POLLING` is ours. The slot holds the value if `ended` is
    /// `Ok`, and is empty otherwise.
    #[inline]
    pub(super) unsafe fn land<C: Cargo<K, T> + ?Sized>(
        self: Pin<&Self>,
        whole: NonNull<Flight<K, T, C>>,
        flight: NonNull<Flight<K, T>>,
        ended: Ended,
        polled: Polled,
    ) -> Landed<T>
    where
        T: Clone,
    {
        // SAFETY: this is a caller of the flight.
        let lent = unsafe { Lent::new(flight) };
        if let Err(Failure::Panicked(panic)) = &ended {
            self.home.note(Event::Panicked(panic.clone()));
        }
        if lent.flight().state.load().has(SHARED) {
            let event = {
                let mut waiting = lent.flight().waiting();
                let event = match polled {
                    Polled::Now => self.become_driver(lent.flight(), &mut waiting),
                    Polled::Not => None,
                };
                // SAFETY: if the node is linked, then in this list.
                unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
                event
            };
            self.note(event);
        }
        let listed = lent.vacate(&self.home);
        let now = lent.flight().state.load();
        let refs = lent.flight().refs.load(Ordering::Acquire);
        if lent.flight().state.callers(now) == 1 && refs == 1 + u32::from(listed.is_some()) {
            // There is no other caller, and since the entry has gone, none can come: nothing needs to be published. Both
            // loads acquire, so what callers did that have left is over.
            self.flight.set(None);
            // SAFETY: the callers' reference and the one in `listed` are the only ones. The list that the node may be linked
            // in goes with the flight.
            return unsafe {
                std::mem::forget(listed);
                self.node.forget();
                let landed = match ended {
                    Ok(()) => lent.flight().cargo.take(),
                    Err(failure) => Err(failure),
                };
                quietly(|| drop(Box::from_raw(whole.as_ptr())));
                landed
            };
        }
        drop(listed);
        if H::TASK {
            // The flight's task has no use for the result, so it leaves in the same step. A lone caller then gets the result
            // uncloned. The task ignores what is returned here.
            self.flight.set(None);
            // SAFETY: by contract.
            unsafe { lent.publish(ended, Leaver::Publisher, &self.home) };
            return Err(Failure::Cancelled);
        }
        // SAFETY: by contract; after `publish` the flight is done.
        unsafe {
            lent.publish(ended, Leaver::Nobody, &self.home);
            self.take(flight)
        }
    }

    /// Takes this caller's copy of the result, and leaves.
    ///
    /// # Safety
    /// This is a caller of `flight`, which is done.
    #[inline]
    pub(super) unsafe fn take(&self, flight: NonNull<Flight<K, T>>) -> Landed<T>
    where
        T: Clone,
    {
        // SAFETY: this is a caller of the flight.
        let lent = unsafe { Lent::new(flight) };
        self.unlink(&lent);
        self.flight.set(None);
        let now = lent.flight().state.load();
        if now.has(UNTOLD) {
            lent.flight().wake_due();
        }
        if H::TASK {
            // SAFETY: this is a caller of the flight until here.
            unsafe { leave_done(flight) };
            return Err(Failure::Cancelled);
        }
        let cargo = &lent.flight().cargo;
        if lent.flight().state.callers(now) == 1 {
            // SAFETY: the others have left, and a flight that is done is not joined: result and common reference are ours.
            unsafe {
                let landed = cargo.take();
                Flight::release(flight);
                return landed;
            }
        }
        // SAFETY: the result stays while we have not left, and this is a caller of the flight until then.
        unsafe {
            let copy = cargo.copy();
            leave_done(flight);
            copy
        }
    }

    #[inline]
    fn unlink(&self, flight: &FlightRef<K, T>) {
        if self.node.is_linked() {
            let mut waiting = flight.flight().waiting();
            // SAFETY: if the node is still linked, then in this list.
            unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
        }
    }

    /// Leaves the flight, as a dropped caller does. The last caller hands the work to a task, or drops it.
    pub(crate) fn leave(&self) {
        let Some(flight) = self.flight.take() else { return };
        // SAFETY: this is a caller of the flight until one of the steps below gives up the place, each of which is the last.
        let lent = unsafe { Lent::new(flight) };
        let state = &lent.flight().state;
        if H::TASK {
            // The task is dropped, as its runtime shuts down. Callers, if there are any, take the work back.
            state.set(JOINED);
            state.clear(TASK | STEADY);
        }
        {
            let mut waiting = lent.flight().waiting();
            // SAFETY: if the node is linked, then in this list.
            unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
        }
        loop {
            let now = state.load();
            if now.has(DONE) {
                if now.has(UNTOLD) {
                    lent.flight().wake_next();
                }
                // SAFETY: the flight is done, and this is a caller of it.
                return unsafe { leave_done(flight) };
            }
            if now.has(ASKED) && !now.has(POLLING) {
                // This caller may have been the one that was woken for it.
                lent.flight().wake_other_drivers();
            }
            // Read before we leave: after that the flight may be freed.
            let attending = state.attending(now);
            if goes_on_without_us(now, attending) {
                if state.change(now, now.0.wrapping_sub(CALLER)) {
                    if attending == 1 && !now.has(ABORTED) {
                        self.home.note(Event::Abandoned);
                    }
                    return;
                }
                continue;
            }
            // As far as can be seen from here, we are the last caller. That is certain only while the flight cannot be joined.
            let to_finish = !H::TASK && !now.has(CANCEL_ON_ABANDON);
            let runtime = match to_finish {
                true => self.home.runtime(),
                false => None,
            };
            let mark = match &runtime {
                Some(runtime) => task_on(runtime) | JOINED,
                None => ABORTED | CANCELLED,
            };
            let last = || {
                let now = state.load();
                !goes_on_without_us(now, state.attending(now)) && !now.has(DONE) && state.change(now, now.0 | mark)
            };
            if !self.home.while_nobody_joins(&lent, last) {
                continue;
            }
            if let Some(runtime) = runtime {
                self.home.attend(&lent, runtime, Seat { flight, late: false }, false);
                self.home.note(Event::Abandoned);
                return;
            }
            if to_finish {
                self.home.note(Event::Unspawnable);
            }
            lent.end_if_idle(&self.home);
        }
    }
}

impl<K, T, H: Home<K, T>> Drop for Caller<K, T, H> {
    #[inline]
    fn drop(&mut self) {
        if self.is_seated() {
            self.leave();
        }
    }
}

/// Returns whether a caller may just leave: there are others, or the flight's task, or the flight is being ended.
fn goes_on_without_us(now: Snapshot, attending: u32) -> bool {
    attending > 1 || now.has(ABORTED) || (now.has(TASK) && !now.has(CANCEL_ON_ABANDON))
}

/// Leaves a flight that has landed. The last caller drops the result.
///
/// # Safety
/// The flight is done, and one counted place among its callers is given up with this.
#[inline]
unsafe fn leave_done<K, T>(flight: NonNull<Flight<K, T>>) {
    // SAFETY: the place keeps the flight alive. If it was the last, result and common reference are left to us.
    unsafe {
        if flight.as_ref().state.leave() == 1 {
            let unclaimed = flight.as_ref().cargo.take();
            Flight::release(flight);
            quietly(|| drop(unclaimed));
        }
    }
}

/// Whether a flight lands by a poll of its work.
#[derive(Clone, Copy)]
pub(super) enum Polled {
    Now,
    Not,
}
