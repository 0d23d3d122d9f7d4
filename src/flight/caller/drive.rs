//! How a caller is polled: it waits or, if it gets the right to poll, polls the work once and gives up the right, ready to be
//! woken.

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
    /// Polls the work if that is called for and `POLLING` is free; waits otherwise.
    #[inline]
    pub(crate) fn poll(self: Pin<&Self>, cx: &mut Context<'_>) -> Poll<Landed<T>>
    where
        T: Clone,
    {
        let Some(flight) = self.flight.get() else {
            // The futures that hold callers do not poll them again once they have a result.
            return Poll::Pending;
        };
        // SAFETY: this is a caller of the flight.
        let now = unsafe { flight.as_ref() }.state.load();
        if now.has(DONE) {
            // SAFETY: the flight is done, and this is a caller of it.
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
        // SAFETY: this is a caller of the flight.
        let lent = unsafe { Lent::new(flight) };
        let state = &lent.flight().state;
        let outwaited = &self.node.outwaited;
        let may_poll = |now: Snapshot| {
            let is_ours = H::TASK || !now.has(TASK) || (!now.has(STEADY) && outwaited.get());
            is_ours && !now.has(POLLING)
        };
        loop {
            if now.has(DONE) {
                // SAFETY: the flight is done, and this is a caller of it.
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
                    // SAFETY: `POLLING` is ours now. The flight is not done, so the slot holds the work. `drive` leaves the
                    // frame before the flight can end.
                    return unsafe {
                        let mut frame = Frame::enter(flight);
                        self.drive(flight, flight, &mut frame, now, cx)
                    };
                }
                now = state.load();
                continue;
            }
            // The flight's task stands at the front, where it is found: a steady task alone is woken for the work.
            let place = match H::TASK {
                true => Place::Front,
                false => Place::Back,
            };
            self.register(&lent, cx.waker(), place);
            // A wake-up or an end that came before we were in the list did not see us. We see its mark now.
            now = state.load();
            let polls_now = may_poll(now) && now.has(CALLED_FOR);
            if !now.has(DONE) && !polls_now {
                // The work waits for a task that has not come. The task has its chance until we are polled again.
                let task_is_late = !H::TASK && !now.has(STEADY | POLLING) && now.has(CALLED_FOR);
                outwaited.set(task_is_late);
                if task_is_late {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
    }

    /// Has the work polled on another stack, since this one holds too many polls. Returns false if the work may have been
    /// polled meanwhile, so that the caller has to look anew.
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
            // The runtime has ended, and dropped the task as it was spawned. It would drop the next one as well.
        }
        if !now.has(SHARED) {
            // The work will not be polled with our waker.
            state.set(JOINED);
        }
        self.register(flight, waker, self.place_to_poll(now));
        // An end that came before we were in the list did not see us, and the poll that is put off would find nothing to do.
        if state.load().has(DONE) {
            return false;
        }
        put_off(self.home.polls_later(flight.clone()));
        true
    }

    /// Polls the work once, and leaves the frame. For its first poll the leader knows the work's type, which spares the indirection.
    ///
    /// # Safety
    /// This is a caller of `flight`; `whole` is the same flight, and `frame` is its frame. `POLLING` is ours, and the slot holds
    /// the work. `now` is the word as it was when `POLLING` was taken.
    ///
    /// In return, the frame is left before the flight can end, also if this unwinds.
    #[inline]
    pub(super) unsafe fn drive<C: Cargo<K, T> + ?Sized>(
        self: Pin<&Self>,
        whole: NonNull<Flight<K, T, C>>,
        flight: NonNull<Flight<K, T>>,
        frame: &mut Frame,
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
                frame.leave();
                whole.as_ref().cargo.drop_work();
                return Poll::Ready(self.land(whole, flight, Err(now.failure(&self.home)), Polled::Not));
            }
            // Given up even if a waker's `clone` or `drop` unwinds while we park. The poll itself lets no panic out.
            let right = PollRight {
                home: &self.home,
                flight: &lent,
            };
            // Work that is polled in a task's stead finds the task's runtime around it; other work the group's, where there is none.
            let runtime = match now.has(TASK) && !H::TASK {
                true => self.home.runtime_of(&lent),
                false => self.home.around(),
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
            // The drop panics if the work has left another guard of a runtime on this thread.
            quietly(|| drop(entered));
            frame.leave();
            match polled {
                // Two arms, so that the result is not stored and loaded again.
                Poll::Ready(Ok(())) => {
                    std::mem::forget(right);
                    Poll::Ready(self.land(whole, flight, Ok(()), Polled::Now))
                }
                Poll::Ready(Err(failure)) => {
                    std::mem::forget(right);
                    Poll::Ready(self.land(whole, flight, Err(failure), Polled::Now))
                }
                Poll::Pending => self.park(right, now, cx),
            }
        }
    }

    /// Gives up `POLLING`, ready to be woken. `now` is the word as it was when `POLLING` was taken.
    fn park(self: Pin<&Self>, right: PollRight<'_, K, T, H>, now: Snapshot, cx: &mut Context<'_>) -> Poll<Landed<T>>
    where
        T: Clone,
    {
        let flight = right.flight.flight();
        if now.has(SHARED) {
            self.register(right.flight, cx.waker(), self.place_to_poll(now));
        } else {
            self.note_where(right.flight);
            // SAFETY: the flight was not shared as `POLLING` was taken, so the leader's waker belongs to the holder of
            // `POLLING`, which is us.
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
