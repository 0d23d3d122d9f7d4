//! A caller: one place in a flight, and the node by which he waits. The protocol of the module's documentation, from
//! his side.
//!
//! A caller is made before it is known whether he will lead or follow, lives pinned in the future that the user holds,
//! and leaves when that is dropped. Here he leads, joins and is polled; what he does with the right to poll is in
//! `drive`, how a flight ends and how he leaves it in `land`.

mod drive;
mod land;

use self::drive::Place;
use self::land::Polled;
use super::cargo::{Hold, Proof};
use super::frame::{Anchor, Frame, is_deep, put_off};
use super::hash::{KeyHash, Packed};
use super::list::{List, Node, Waiting};
use super::state::{
    ABORTED, CALLED_FOR, CALLER, CANCEL_ON_ABANDON, DONE, JOINED, POLLING, PROVEN, REPOLL, SHARED, STEADY, Snapshot,
    State, TASK, task_on,
};
use super::{Drive, Failure, Flight, FlightRef, Home, Landed, Lent, OnAbandon, Panicked, PollRight, Seat};
use crate::sync::{AtomicU32, Mutex, bug, drives_itself};
use crate::telemetry::FlightSpan;
use std::cell::Cell;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

/// See the module's documentation.
pub(crate) struct Caller<K, T, H: Home<K, T>> {
    home: H,
    flight: Berth<K, T>,
    node: Node,
}

/// The flight whose caller this is; while it is there, the flight's word counts it.
///
/// A caller is `Send` because its parts are. It has no `impl` of its own for that, since such an `impl` would have to ask
/// for a [`Home`], and with it for `'static`; but the compiler forgets lifetimes where it looks whether an `async` block
/// is `Send`, and would refuse each block in which a key or result holds a reference or a trait object.
struct Berth<K, T>(Cell<Option<NonNull<Flight<K, T>>>>);

// SAFETY: the pointer is a counted place in a flight, which it keeps alive, and not bound to a thread. Through it another
// thread looks at the key and copies the result while others do (`Sync`), takes the result out, or drops both (`Send`). The
// work, whose type is not seen here, is `Send` and `Sync` as a `Cargo`. The cell itself is reached by one thread at a time: it
// keeps the berth from being `Sync`.
unsafe impl<K: Send + Sync, T: Send + Sync> Send for Berth<K, T> {}

impl<K, T> Deref for Berth<K, T> {
    type Target = Cell<Option<NonNull<Flight<K, T>>>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A flight that its leader has made and not yet given its work. He holds `POLLING`.
#[must_use = "the flight waits for its work"]
pub(crate) struct Takeoff<K, T, P, W> {
    flight: NonNull<Flight<K, T, Hold<P, W, T>>>,
    drive: Drive,
}

impl<K, T, H: Home<K, T>> Caller<K, T, H> {
    pub(crate) fn new(home: H) -> Self {
        Self {
            home,
            flight: Berth(Cell::new(None)),
            node: Node::new(),
        }
    }

    pub(crate) fn home(&self) -> &H {
        &self.home
    }

    /// Whether he is a caller of a flight at present.
    pub(crate) fn is_seated(&self) -> bool {
        self.flight.get().is_some()
    }

    /// The flight whose caller this is, kept from being freed, unless it has landed.
    pub(crate) fn under_way(&self) -> Option<Anchor> {
        let flight = self.flight.get()?;
        // SAFETY: we are its caller.
        let lent = unsafe { Lent::new(flight) };
        (!lent.flight().state.load().has(DONE)).then(|| lent.anchor())
    }

    /// Becomes a caller of the flight that the seat is in.
    pub(crate) fn sit(&self, seat: Seat<K, T>) {
        debug_assert!(!self.is_seated());
        // Of a flight that it was in before, at most.
        self.node.outwaited.set(false);
        self.flight.set(Some(seat.flight));
        if !H::TASK {
            // SAFETY: we are its caller.
            unsafe { Lent::new(seat.flight) }.flight().span.link_current();
        }
    }

    /// Makes a flight and becomes its leader: the map's reference, and the flight to be given its work.
    pub(crate) fn lead<P, W>(
        self: Pin<&Self>,
        key: K,
        hash: KeyHash,
        proof: P,
        on_abandon: OnAbandon,
        drive: Drive,
    ) -> (FlightRef<K, T>, Takeoff<K, T, P, W>)
    where
        K: Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
        P: Proof,
        W: Future<Output = T> + Send + 'static,
    {
        let policy = match on_abandon {
            OnAbandon::Finish => 0,
            OnAbandon::Cancel => CANCEL_ON_ABANDON,
        };
        let proven = proof.fingerprint().map_or(0, |_| PROVEN);
        let flags = policy | proven | POLLING;
        let (state, waiting) = match drive {
            // SAFETY: the node is pinned, not linked elsewhere, and unlinked before it is freed (`leave`, `take`), or
            // freed together with the flight, which nobody else can reach then (`land`).
            Drive::InPlace => (State::new(flags, 1), unsafe { List::of_leader(&self.get_ref().node) }),
            Drive::Spawned => (State::new(flags | JOINED | TASK, 2), List::empty()),
        };
        let flight = NonNull::from(Box::leak(Box::new(Flight {
            // The map's, and the callers'.
            refs: AtomicU32::new(2),
            state,
            lock: Mutex::new(()),
            hash: Packed::new(hash),
            waiting: Waiting::new(waiting),
            key,
            span: FlightSpan::new(),
            _result: PhantomData,
            cargo: Hold::new(proof),
        })));
        self.flight.set(Some(flight));
        (FlightRef(flight), Takeoff { flight, drive })
    }

    /// Makes the work and begins to run it. A panic in `make` is a panic of the work.
    #[inline]
    pub(crate) fn take_off<P, W>(
        self: Pin<&Self>,
        takeoff: Takeoff<K, T, P, W>,
        make: impl FnOnce() -> W,
        cx: &mut Context<'_>,
    ) -> Poll<Landed<T>>
    where
        K: Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
        P: Proof,
        W: Future<Output = T> + Send + 'static,
    {
        let flight: NonNull<Flight<K, T>> = takeoff.flight;
        // SAFETY: we are its caller.
        let lent = unsafe { Lent::new(flight) };
        lent.flight().span.open();
        // SAFETY: as above; it ends before the flight can.
        let frame = unsafe { Frame::enter(takeoff.flight) };
        let made = catch_unwind(AssertUnwindSafe(|| lent.flight().span.enter(make)));
        match made {
            // SAFETY: the leader has had `POLLING` since he made the flight; the slot is still empty.
            Ok(work) => unsafe { takeoff.flight.as_ref().cargo.load(work) },
            Err(panic) => {
                drop(frame);
                let failure = Failure::Panicked(Panicked::from_payload(panic));
                if let Drive::Spawned = takeoff.drive {
                    self.dismiss_task(flight);
                }
                // SAFETY: as above.
                return Poll::Ready(unsafe { self.land(takeoff.flight, flight, Err(failure), Polled::Not) });
            }
        }
        let state = &lent.flight().state;
        match takeoff.drive {
            Drive::InPlace if frame.is_too_deep() => {
                drop(frame);
                state.set(JOINED);
                drop(PollRight {
                    home: &self.home,
                    flight: &lent,
                });
                self.poll(cx)
            }
            Drive::InPlace => {
                let mut now = state.load();
                if now.has(REPOLL) {
                    // Somebody has joined already: this will be the poll that he asks for.
                    now = state.clear(REPOLL);
                }
                // SAFETY: `POLLING` is ours, and the slot holds the work.
                unsafe { self.drive(takeoff.flight, flight, frame, now, cx) }
            }
            Drive::Spawned => {
                drop(frame);
                let right = PollRight {
                    home: &self.home,
                    flight: &lent,
                };
                match self.home.runtime() {
                    Some(runtime) => {
                        state.set(task_on(&runtime));
                        self.home.attend(&lent, runtime, Seat { flight, late: false }, true);
                    }
                    // There is none any more: then the callers drive.
                    None => self.dismiss_task(flight),
                }
                drop(right);
                self.poll(cx)
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
        if state.load().has(DONE) && !bug("put-off-when-done") {
            return false;
        }
        put_off(self.home.polls_later(flight.clone()));
        true
    }

    /// Takes the place of a task back that was never spawned.
    fn dismiss_task(&self, flight: NonNull<Flight<K, T>>) {
        // SAFETY: we are its caller.
        let lent = unsafe { Lent::new(flight) };
        lent.flight().state.clear(TASK);
        lent.flight().state.leave();
    }

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
            let place = if H::TASK && !bug("attendant-behind") {
                Place::Front
            } else {
                Place::Back
            };
            self.register(lent.flight(), cx.waker(), place);
            // Whoever woke or finished before we were in the list did not see us; then we see his mark.
            now = state.load();
            let polls_now = may_poll(now) && now.has(CALLED_FOR);
            if (!now.has(DONE) && !polls_now) || bug("no-second-look") {
                // The work waits for a task that has not come. It has its chance until we are polled again.
                let task_is_late = !H::TASK && !now.has(STEADY | POLLING) && now.has(CALLED_FOR);
                outwaited.set(task_is_late);
                if task_is_late && !bug("no-second-chance") {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
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
