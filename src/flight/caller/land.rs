//! How a flight ends, and how a caller leaves it, before that or after.

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
    /// Ends the flight with this result, and takes ours of it.
    ///
    /// # Safety
    /// The flight is ours, `whole` is the same; we hold `POLLING`, the slot holds the value or is empty, as `ended` says.
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
        // SAFETY: we are its caller.
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
                // SAFETY: if it is linked, then here.
                unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
                event
            };
            self.note(event);
        }
        let listed = lent.vacate(&self.home);
        let now = lent.flight().state.load();
        let refs = lent.flight().refs.load(Ordering::Acquire);
        if lent.flight().state.callers(now) == 1 && refs == 1 + u32::from(listed.is_some()) {
            // Nobody else is here, and since the entry has gone, nobody can come: no need to publish anything. Both loads
            // acquire, so whatever those did who have left is over.
            self.flight.set(None);
            // SAFETY: ours and the one in `listed` are the only references; the list that the node may be linked in goes
            // with the flight.
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
            // A task of ours has no use for the result, so it leaves in the same step: a lone caller then gets it uncloned.
            // What is returned here nobody looks at.
            self.flight.set(None);
            // SAFETY: by contract.
            unsafe { lent.publish(ended, Leaver::Publisher, &self.home) };
            return Err(Failure::Cancelled);
        }
        // SAFETY: by contract; then it is done.
        unsafe {
            lent.publish(ended, Leaver::Nobody, &self.home);
            self.take(flight)
        }
    }

    /// Takes our part of the result, and leaves.
    ///
    /// # Safety
    /// The flight is ours and done.
    #[inline]
    pub(super) unsafe fn take(&self, flight: NonNull<Flight<K, T>>) -> Landed<T>
    where
        T: Clone,
    {
        // SAFETY: we are its caller.
        let lent = unsafe { Lent::new(flight) };
        self.unlink(&lent);
        self.flight.set(None);
        if H::TASK {
            // SAFETY: we are its caller until here.
            unsafe { leave_done(flight) };
            return Err(Failure::Cancelled);
        }
        let cargo = &lent.flight().cargo;
        let now = lent.flight().state.load();
        if now.has(UNTOLD) {
            lent.flight().wake_next();
        }
        if lent.flight().state.callers(now) == 1 {
            // SAFETY: the others have left, and nobody joins what is done: result and common reference are ours.
            unsafe {
                let landed = cargo.take();
                Flight::release(flight);
                return landed;
            }
        }
        // SAFETY: the result stays while we have not left, and we are the flight's caller until then.
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
            // SAFETY: if it is still linked, then here.
            unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
        }
    }

    /// Leaves the flight, as who is dropped does. The last one sees to the work.
    pub(crate) fn leave(&self) {
        let Some(flight) = self.flight.take() else { return };
        // SAFETY: we are its caller until one of the steps below takes that back, each of which is the last.
        let lent = unsafe { Lent::new(flight) };
        let state = &lent.flight().state;
        if H::TASK {
            // The runtime shuts down and drops its tasks. Callers, if there are any, take the work back.
            state.set(JOINED);
            state.clear(TASK | STEADY);
        }
        {
            let mut waiting = lent.flight().waiting();
            // SAFETY: if it is linked, then here.
            unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
        }
        loop {
            let now = state.load();
            if now.has(DONE) {
                if now.has(UNTOLD) {
                    lent.flight().wake_next();
                }
                // SAFETY: it is done, and we are its caller.
                return unsafe { leave_done(flight) };
            }
            if now.has(ASKED) && !now.has(POLLING) {
                // We may have been the one who was woken for it.
                lent.flight().wake_drivers();
            }
            // Looked at before we leave: after that the flight may be gone.
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
            // As far as can be seen from here, we are the last. It is certain only while nobody can join.
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

/// Whether a caller may leave and think no more of it: others are there, or a task of ours, or somebody ends it.
fn goes_on_without_us(now: Snapshot, attending: u32) -> bool {
    attending > 1 || now.has(ABORTED) || (now.has(TASK) && !now.has(CANCEL_ON_ABANDON))
}

/// Leaves a flight that has landed; the last one drops the result.
///
/// # Safety
/// A place among the flight's callers is given up with this, and the flight is done.
#[inline]
unsafe fn leave_done<K, T>(flight: NonNull<Flight<K, T>>) {
    // SAFETY: our place keeps the flight alive; if it was the last, result and common reference are left to us.
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
