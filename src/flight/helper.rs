//! Who stands by a flight without being one of its callers, for a task of ours that may not be polled: whoever drains
//! a group. No limit and no policy counts a helper, and it gets no part of the result.
//!
//! It waits in the flight's list as a caller does, and polls the work under the same conditions: at once where callers do,
//! at its second look where a task that is not steady has been called and has not come.

use super::list::{Leaves, Node};
use super::state::{ABORTED, ASKED, DONE, POLLING, STEADY, Snapshot, TASK};
use super::{Event, Failure, FlightRef, Home, Leaver, PollRight, waker};
use crate::flight::frame::Frame;
use crate::sync::{Handle, bug};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// See the module's documentation.
pub(crate) struct Helper<K, T> {
    flight: FlightRef<K, T>,
    node: Node,
}

// SAFETY: the reference is `Send` where key and result are. The node is reached by other threads only through the
// flight's list, under its lock.
unsafe impl<K: Send + Sync, T: Send + Sync> Send for Helper<K, T> {}
// SAFETY: nothing can be done with a helper that is only borrowed.
unsafe impl<K: Send + Sync, T: Send + Sync> Sync for Helper<K, T> {}

impl<K, T> FlightRef<K, T> {
    /// Whether the work is left to a task of ours that may not be polled when it is called.
    pub(crate) fn may_need_help(&self) -> bool {
        let now = self.flight().state.load();
        now.has(TASK) && !now.has(STEADY)
    }
}

impl<K, T> Helper<K, T> {
    pub(crate) fn new(flight: FlightRef<K, T>) -> Self {
        Self {
            flight,
            node: Node::new(),
        }
    }

    /// Polls the work if nobody else comes to do so; ready when the flight has landed.
    pub(crate) fn poll(self: Pin<&mut Self>, home: &impl Home<K, T>, cx: &mut Context<'_>) -> Poll<()> {
        // Shared from here on, since the list may lead others to the node.
        self.as_ref().poll_shared(home, cx)
    }

    fn poll_shared(self: Pin<&Self>, home: &impl Home<K, T>, cx: &mut Context<'_>) -> Poll<()> {
        let (state, outwaited) = (&self.flight.flight().state, &self.node.outwaited);
        let asks = |now: Snapshot| now.has(ASKED) && !now.has(POLLING | STEADY);
        let mut now = state.load();
        loop {
            if now.has(DONE) {
                return Poll::Ready(());
            }
            if asks(now) && (outwaited.get() || !now.has(TASK)) {
                if now.has(ABORTED) {
                    self.flight.end_if_idle(home);
                } else if self.flight.flight().try_poll_right(now) {
                    return self.drive(now, home, cx.waker());
                }
                now = state.load();
                continue;
            }
            self.wait(cx.waker());
            now = state.load();
            if !now.has(DONE) {
                let task_is_late = asks(now);
                outwaited.set(task_is_late);
                if task_is_late {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
    }

    /// Polls the work once. We hold `POLLING`; `now` is what the word said when it was taken.
    fn drive(self: Pin<&Self>, now: Snapshot, home: &impl Home<K, T>, own: &Waker) -> Poll<()> {
        let flight = self.flight.flight();
        let right = PollRight {
            home,
            flight: &self.flight,
        };
        let runtime = match now.has(TASK) {
            true => home.runtime_of(&self.flight),
            false => None,
        };
        let entered = runtime.as_ref().map(Handle::enter);
        // SAFETY: our reference keeps the flight alive; `POLLING` is ours and the flight is not done, so the slot holds the
        // work.
        let polled = unsafe {
            let _frame = Frame::enter(self.flight.0);
            let waker = waker::lend(self.flight.0);
            flight
                .span
                .enter(|| flight.cargo.poll(&mut Context::from_waker(&waker)))
        };
        drop(entered);
        let Poll::Ready(landed) = polled else {
            self.wait(own);
            drop(right);
            return Poll::Pending;
        };
        std::mem::forget(right);
        if let Err(Failure::Panicked(panic)) = &landed {
            home.note(Event::Panicked(panic.clone()));
        }
        drop(self.flight.vacate(home));
        // SAFETY: `POLLING` is ours, and the slot is empty.
        let (before, left) = unsafe { self.flight.publish(landed, Leaver::Nobody, home) };
        if left == u32::from(before.has(TASK)) && !before.has(ABORTED) {
            home.note(Event::FinishedUnattended);
        }
        Poll::Ready(())
    }

    /// Sees to it that the node is in the list, with this waker.
    fn wait(&self, own: &Waker) {
        let flight = self.flight.flight();
        let own = own.clone();
        let mut waiting = flight.waiting();
        // SAFETY: the lock is held; the node is pinned and unlinked before it is freed, and never in another list.
        let before = unsafe {
            if !self.node.is_linked() {
                waiting.push_back(&self.node);
            }
            self.node.set_waker(own)
        };
        drop(waiting);
        drop(before);
    }
}

impl<K, T> Drop for Helper<K, T> {
    fn drop(&mut self) {
        let flight = self.flight.flight();
        {
            let mut waiting = flight.waiting();
            // SAFETY: if it is linked, then here.
            unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
        }
        let now = flight.state.load();
        if now.has(ASKED) && !now.has(POLLING | DONE) && !bug("helper-leaves-without-wake") {
            // We may have been the one who was woken for it.
            flight.wake_drivers();
        }
    }
}
