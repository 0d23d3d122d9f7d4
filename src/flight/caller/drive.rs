//! What a caller does when he is polled: waits or, with the right to poll, polls the work once and gives the right up, ready to
//! be woken.

use super::berth::Caller;
use super::land::Polled;
use super::wait::Place;
use crate::flight::allocation::Flight;
use crate::flight::cargo::Cargo;
use crate::flight::ending::PollRight;
use crate::flight::failure::Landed;
use crate::flight::frame::{Frame, is_deep, put_off};
use crate::flight::home::Home;
use crate::flight::reference::{FlightRef, Lent, Seat};
use crate::flight::state::{
    ABORTED, CALLED_FOR, CALLER, DONE, JOINED, POLLING, SHARED, STEADY, Snapshot, TASK, task_on,
};
use crate::flight::waker;
use crate::sync::{Handle, drives_itself};
use crate::unwind::quietly;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

impl<K, T, H: Home<K, T>> Caller<K, T, H> {
    /// Polls the work if it is to be polled and nobody does; otherwise waits.
    #[inline]
    pub(crate) fn poll(self: Pin<&Self>, cx: &mut Context<'_>) -> Poll<Landed<T>>
    where
        T: Clone,
    {
        let Some(flight) = self.flight.get() else {
            // The futures that hold callers do not poll them any more once they have a result.
            return Poll::Pending;
        };
        // SAFETY: we are its caller.
        let now = unsafe { flight.as_ref() }.state.load();
        if now.has(DONE) {
            // SAFETY: it is done, and we are its caller.
            return Poll::Ready(unsafe { self.take(flight) });
        }
        self.poll_unfinished(flight, now, cx)
    }

    fn poll_unfinished(
        self: Pin<&Self>,
        flight: NonNull<Flight<K, T>>,
        mut now: Snapshot,
        cx: &mut Context<'_>,
    ) -> Poll<Landed<T>>
    where
        T: Clone,
    {
        // SAFETY: we are its caller.
        let lent = unsafe { Lent::new(flight) };
        let state = &lent.flight().state;
        let outwaited = &self.node.outwaited;
        let may_poll = |now: Snapshot| {
            let is_ours = H::TASK || !now.has(TASK) || (!now.has(STEADY) && outwaited.get());
            is_ours && !now.has(POLLING)
        };
        loop {
            if now.has(DONE) {
                // SAFETY: it is done, and we are its caller.
                return Poll::Ready(unsafe { self.take(flight) });
            }
            if may_poll(now) && (now.has(CALLED_FOR) || !now.has(SHARED)) {
                if is_deep() && !now.has(ABORTED) {
                    if self.poll_elsewhere(&lent, now, cx.waker()) {
                        return Poll::Pending;
                    }
                    now = state.load();
                    continue;
                }
                if lent.flight().try_poll_right(now) {
                    // SAFETY: `POLLING` is ours now; the flight is not done, so the slot holds the work. The frame ends
                    // before the flight can.
                    return unsafe {
                        let frame = Frame::enter(flight);
                        self.drive(flight, flight, frame, now, cx)
                    };
                }
                now = state.load();
                continue;
            }
            // A task of ours stands at the front, where it is found: only it is woken for the work.
            let place = match H::TASK {
                true => Place::Front,
                false => Place::Back,
            };
            self.register(lent.flight(), cx.waker(), place);
            // Whoever woke or finished before we were in the list did not see us; then we see his mark.
            now = state.load();
            let polls_now = may_poll(now) && now.has(CALLED_FOR);
            if !now.has(DONE) && !polls_now {
                // The work waits for a task that has not come. It has its chance until we are polled again.
                let task_is_late = !H::TASK && !now.has(STEADY | POLLING) && now.has(CALLED_FOR);
                outwaited.set(task_is_late);
                if task_is_late {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
    }

    /// Sees to it that the work is polled on another stack, since this one holds too many polls; false if it may have been
    /// already, so that it is to be looked at anew.
    #[cold]
    fn poll_elsewhere(&self, flight: &FlightRef<K, T>, mut now: Snapshot, waker: &Waker) -> bool {
        let state = &flight.flight().state;
        if !now.has(TASK)
            && let Some(runtime) = self.home.runtime().filter(drives_itself)
        {
            if !state.change(now, now.0.wrapping_add(CALLER) | task_on(&runtime) | JOINED) {
                return false;
            }
            let seat = Seat {
                flight: flight.0,
                late: false,
            };
            self.home.attend(flight, runtime, seat, false);
            now = state.load();
            if now.has(TASK | DONE) {
                return false;
            }
            // The runtime has ended, and dropped the task as it was spawned. So would it drop the next one.
        }
        if !now.has(SHARED) {
            // It will not be polled with our waker.
            state.set(JOINED);
        }
        self.register(flight.flight(), waker, self.place_to_poll(now));
        // A caller that finished before we were in the list did not see us, and what is put off would see that nothing is to be done.
        if state.load().has(DONE) {
            return false;
        }
        put_off(self.home.polls_later(flight.clone()));
        true
    }

    /// Polls the work once. The leader knows its type the first time, which spares him the indirection.
    ///
    /// # Safety
    /// The flight is ours, `whole` is the same; we hold `POLLING`, the slot holds the work; `frame` is the flight's; `now`
    /// is what the word said when we took `POLLING`.
    #[inline]
    pub(super) unsafe fn drive<C: Cargo<K, T> + ?Sized>(
        self: Pin<&Self>,
        whole: NonNull<Flight<K, T, C>>,
        flight: NonNull<Flight<K, T>>,
        frame: Frame,
        now: Snapshot,
        cx: &mut Context<'_>,
    ) -> Poll<Landed<T>>
    where
        T: Clone,
    {
        // SAFETY: by contract; the lent waker ends before the flight can.
        unsafe {
            let lent = Lent::new(flight);
            if now.has(ABORTED) {
                drop(frame);
                whole.as_ref().cargo.drop_work();
                return Poll::Ready(self.land(whole, flight, Err(now.failure(&self.home)), Polled::Not));
            }
            // Given up whatever unwinds while we park: a waker's `clone` or `drop`. The poll itself lets nothing out.
            let right = PollRight {
                home: &self.home,
                flight: &lent,
            };
            // What is polled in a task's stead finds the same runtime around it.
            let runtime = match now.has(TASK) && !H::TASK {
                true => self.home.runtime_of(&lent),
                false => None,
            };
            let entered = runtime.as_ref().map(Handle::enter);
            let polled = lent.flight().span.enter(|| {
                if now.has(SHARED) {
                    let waker = waker::lend(flight);
                    whole.as_ref().cargo.poll(&mut Context::from_waker(&waker))
                } else {
                    whole.as_ref().cargo.poll(cx)
                }
            });
            // It panics where the work has left another guard of a runtime on this thread.
            quietly(|| drop(entered));
            drop(frame);
            match polled {
                Poll::Ready(ended) => {
                    std::mem::forget(right);
                    Poll::Ready(self.land(whole, flight, ended, Polled::Now))
                }
                Poll::Pending => self.park(right, now, cx),
            }
        }
    }

    /// Gives `POLLING` up, ready to be woken. `now` is what the word said when it was taken.
    fn park(self: Pin<&Self>, right: PollRight<'_, K, T, H>, now: Snapshot, cx: &mut Context<'_>) -> Poll<Landed<T>>
    where
        T: Clone,
    {
        let flight = right.flight.flight();
        if now.has(SHARED) {
            self.register(flight, cx.waker(), self.place_to_poll(now));
        } else {
            // SAFETY: while the flight was not shared as we took `POLLING`, the leader's waker is the affair of who
            // has that right.
            unsafe {
                if !self.node.is_woken_by(cx.waker()) {
                    let waker = cx.waker().clone();
                    drop(self.node.set_waker(waker));
                }
            }
        }
        drop(right);
        if flight.state.load().has(ABORTED | DONE) {
            return self.poll(cx);
        }
        Poll::Pending
    }
}
