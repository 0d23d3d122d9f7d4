//! Polls of a flight's work that do not come from one of its callers. A drain of a group stands by for a task that may not be
//! polled. The outermost poll on a thread, as it ends, polls for a caller that was too deep to do so itself. Neither counts for
//! limits and policies, and neither gets the result.
//!
//! A [`Helper`] waits in the flight's list as a caller does, and polls the work under the same conditions: at once where
//! callers do, and at its second look where a task that is not steady has been called and has not come.

use super::ending::{Leaver, PollRight};
use super::event::Event;
use super::failure::Failure;
use super::frame::{Frame, is_deep, put_off};
use super::home::Home;
use super::list::{Leaves, Node};
use super::reference::FlightRef;
use super::state::{ABORTED, ASKED, CALLED_FOR, DONE, POLLING, STEADY, Snapshot, TASK, UNTOLD};
use super::waker;
use crate::sync::Handle;
use crate::unwind::quietly;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Waits for a flight and polls its work, without being a caller; see the module's documentation.
pub(crate) struct Helper<K, T> {
    flight: FlightRef<K, T>,
    node: Node,
}

// SAFETY: a shared reference to a helper gives access to nothing.
unsafe impl<K: Send + Sync, T: Send + Sync> Sync for Helper<K, T> {}

impl<K, T> FlightRef<K, T> {
    /// Returns whether the work is left to a task that may not be polled when it is woken.
    pub(crate) fn may_need_help(&self) -> bool {
        let now = self.flight().state.load();
        now.has(TASK) && !now.has(STEADY)
    }

    /// Polls the work once, or drops it, if that is called for and no holder of `POLLING` does so. Returns whether the flight
    /// has ended with that. Work that is not left to a task is polled inside the runtime `around`.
    pub(crate) fn poll_if_called_for(&self, home: &impl Home<K, T>, around: Option<&Handle>) -> bool {
        loop {
            let now = self.flight().state.load();
            if now.has(DONE | POLLING) || !now.has(CALLED_FOR) {
                return false;
            }
            if now.has(ABORTED) {
                self.end_if_idle(home);
                return true;
            }
            if now.has(STEADY) {
                // The work has been given a task meanwhile, which is certain to be polled.
                return false;
            }
            if self.flight().try_poll_right(now) {
                return self.poll_for_others(now, home, around, || ()).is_ready();
            }
        }
    }

    /// Polls the work once, inside the runtime of its task or, if it has none, `around`. `POLLING` is ours, and `now` is the
    /// word as it was when it was taken. If the work is pending, `park` is called before `POLLING` is given up.
    fn poll_for_others(
        &self,
        now: Snapshot,
        home: &impl Home<K, T>,
        around: Option<&Handle>,
        park: impl FnOnce(),
    ) -> Poll<()> {
        let flight = self.flight();
        let right = PollRight { home, flight: self };
        let runtime = match now.has(TASK) {
            true => home.runtime_of(self),
            false => home.around(),
        };
        let entered = runtime.as_ref().or(around).map(Handle::enter);
        // SAFETY: our reference keeps the flight alive.
        let mut frame = unsafe { Frame::enter(self.0) };
        // SAFETY: as above. `POLLING` is ours and the flight is not done, so the slot holds the work.
        let polled = unsafe {
            let waker = waker::lend(self.0);
            let poll = || flight.cargo.poll(&mut Context::from_waker(&waker));
            flight.span.enter(poll)
        };
        // The drop panics if the work has left another guard of a runtime on this thread.
        quietly(|| drop(entered));
        frame.leave();
        let Poll::Ready(ended) = polled else {
            park();
            drop(right);
            return Poll::Pending;
        };
        std::mem::forget(right);
        if let Err(Failure::Panicked(panic)) = &ended {
            home.note(Event::Panicked(panic.clone()));
        }
        drop(self.vacate(home));
        // SAFETY: `POLLING` is ours. The slot holds the value if `ended` is `Ok`, and is empty otherwise.
        unsafe { self.publish(ended, Leaver::Nobody, home) };
        Poll::Ready(())
    }
}

impl<K, T> Helper<K, T> {
    pub(crate) fn new(flight: FlightRef<K, T>) -> Self {
        Self {
            flight,
            node: Node::new(),
        }
    }

    /// Polls the work if no task and no caller comes to do so. Ready when the flight has landed.
    pub(crate) fn poll(self: Pin<&mut Self>, home: &impl Home<K, T>, cx: &mut Context<'_>) -> Poll<()> {
        // Shared from here on, since other threads may reach the node by way of the list.
        self.as_ref().poll_shared(home, cx)
    }

    fn poll_shared(self: Pin<&Self>, home: &impl Home<K, T>, cx: &mut Context<'_>) -> Poll<()> {
        // It is polled elsewhere, for all that is known here.
        self.flight.note_where(home, || 0);
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
                    // That may be put off, or another thread may be doing it. Either wakes us when it is done.
                    self.wait(cx.waker());
                    if !state.load().has(DONE) {
                        return Poll::Pending;
                    }
                } else if is_deep() {
                    self.wait(cx.waker());
                    if !state.load().has(DONE) {
                        put_off(home.polls_later(self.flight.clone()));
                        return Poll::Pending;
                    }
                } else if self.flight.flight().try_poll_right(now) {
                    return self.flight.poll_for_others(now, home, None, || self.wait(cx.waker()));
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

    /// Makes sure that the node is in the list, with this waker.
    fn wait(&self, own: &Waker) {
        let flight = self.flight.flight();
        let own = own.clone();
        let mut waiting = flight.waiting();
        // SAFETY: the lock is held. The node is pinned, is unlinked before it is freed, and is never in another list.
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
            // SAFETY: if the node is linked, then in this list.
            unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
        }
        let now = flight.state.load();
        if now.has(DONE) && now.has(UNTOLD) {
            // A waiting caller that learns that the flight is done wakes another one.
            flight.wake_next();
        }
        if now.has(ASKED) && !now.has(POLLING | DONE) {
            // This helper may have been the one that was woken for it.
            flight.wake_other_drivers();
        }
    }
}
