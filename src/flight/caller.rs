//! A caller: one place in a flight, and the node by which he waits. The protocol of the module's documentation, from
//! his side.
//!
//! A caller is made before it is known whether he will lead or follow, lives pinned in the future that the user holds,
//! and leaves when that is dropped.

use super::cargo::{Hold, Proof, quietly};
use super::frame::Frame;
use super::list::{Driver, Leaves, List, Node};
use super::state::{
    ABORTED, CALLER, CANCEL_ON_ABANDON, CANCELLED, DONE, POLLING, REPOLL, SHARED, Snapshot, State, TASK, WOKEN,
};
use super::{Drive, Event, Failure, Flight, FlightRef, Home, Landed, Leaver, Lent, OnAbandon, Panicked, Seat, waker};
use crate::sync::{AtomicU32, Mutex, bug};
use crate::telemetry::FlightSpan;
use std::cell::Cell;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

/// See the module's documentation.
pub(crate) struct Caller<K, T, H: Home<K, T>> {
    home: H,
    /// The flight whose caller this is; while it is there, the flight's word counts him.
    flight: Cell<Option<NonNull<Flight<K, T>>>>,
    node: Node,
}

// SAFETY: the pointer stands for a place in a flight, which is `Send` and `Sync` where its key and its result are. The
// node is reached by other threads only through the flight's list, under its lock.
unsafe impl<K: Send + Sync, T: Send + Sync, H: Home<K, T> + Send> Send for Caller<K, T, H> {}

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
            flight: Cell::new(None),
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

    /// Becomes a caller of the flight that the seat is in.
    pub(crate) fn sit(&self, seat: Seat<K, T>) {
        debug_assert!(!self.is_seated());
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
        hash: u64,
        proof: P,
        on_abandon: OnAbandon,
        drive: Drive,
    ) -> (FlightRef<K, T>, Takeoff<K, T, P, W>)
    where
        K: Send + Sync + 'static,
        T: Send + Sync + 'static,
        P: Proof,
        W: Future<Output = T> + Send + 'static,
    {
        let policy = match on_abandon {
            OnAbandon::Finish => 0,
            OnAbandon::Cancel => CANCEL_ON_ABANDON,
        };
        let (state, waiting) = match drive {
            // SAFETY: the node is pinned, not linked elsewhere, and unlinked before it is freed (`leave`, `take`), or
            // freed together with the flight, which nobody else can reach then (`land`).
            Drive::InPlace => (State::new(policy | POLLING, 1), unsafe {
                List::of_leader(&self.get_ref().node)
            }),
            Drive::Spawned => (State::new(policy | POLLING | SHARED | REPOLL | TASK, 2), List::empty()),
        };
        let flight = NonNull::from(Box::leak(Box::new(Flight {
            // The map's, and the callers'.
            refs: AtomicU32::new(2),
            state,
            waiting: Mutex::new(waiting),
            hash,
            key,
            span: FlightSpan::new(),
            _result: PhantomData,
            cargo: Hold::new(proof),
        })));
        self.flight.set(Some(flight));
        (FlightRef(flight), Takeoff { flight, drive })
    }

    /// Makes the work and begins to run it. A panic in `make` is a panic of the work.
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
        quietly(|| lent.flight().span.open());
        let made = {
            // SAFETY: we are its caller, and the frame ends here.
            let _frame = unsafe { Frame::enter(flight) };
            catch_unwind(AssertUnwindSafe(|| lent.flight().span.enter(make)))
        };
        match made {
            // SAFETY: the leader has had `POLLING` since he made the flight; the slot is still empty.
            Ok(work) => unsafe { takeoff.flight.as_ref().cargo.load(work) },
            Err(panic) => {
                let failure = Failure::Panicked(Panicked::from_payload(panic));
                if let Drive::Spawned = takeoff.drive {
                    self.dismiss_task(flight);
                }
                // SAFETY: as above.
                return Poll::Ready(unsafe { self.land(flight, Err(failure), Polled::Not) });
            }
        }
        let state = &lent.flight().state;
        match takeoff.drive {
            Drive::InPlace => {
                let mut now = state.load();
                if now.has(REPOLL) {
                    // Somebody has joined already: this will be the poll that he asks for.
                    now = state.clear(REPOLL);
                }
                // SAFETY: `POLLING` is ours, and the slot holds the work.
                unsafe { self.drive(flight, now, cx) }
            }
            Drive::Spawned => {
                drop(PollRight {
                    caller: self.get_ref(),
                    flight: &lent,
                });
                let seat = Seat { flight, late: false };
                if self.home.attend(seat).is_err() {
                    // There is no runtime any more: then the callers drive.
                    self.dismiss_task(flight);
                }
                self.poll(cx)
            }
        }
    }

    /// Takes the place of a task back that was never spawned.
    fn dismiss_task(&self, flight: NonNull<Flight<K, T>>) {
        // SAFETY: we are its caller.
        let lent = unsafe { Lent::new(flight) };
        lent.flight().state.clear(TASK);
        lent.flight().state.leave();
    }

    /// Polls the work if it is to be polled and nobody does; otherwise waits.
    pub(crate) fn poll(self: Pin<&Self>, cx: &mut Context<'_>) -> Poll<Landed<T>>
    where
        T: Clone,
    {
        let Some(flight) = self.flight.get() else {
            // The futures that hold callers do not poll them any more once they have a result.
            return Poll::Pending;
        };
        // SAFETY: we are its caller.
        let lent = unsafe { Lent::new(flight) };
        let state = &lent.flight().state;
        let may_poll = |now: Snapshot| now.has(TASK) == H::TASK && !now.has(POLLING);
        let mut now = state.load();
        loop {
            if now.has(DONE) {
                // SAFETY: it is done, and we are its caller.
                return Poll::Ready(unsafe { self.take(flight) });
            }
            if may_poll(now) && (now.has(WOKEN | REPOLL | ABORTED) || !now.has(SHARED)) {
                if lent.flight().try_poll_right(now) {
                    // SAFETY: `POLLING` is ours now; the flight is not done, so the slot holds the work.
                    return unsafe { self.drive(flight, now, cx) };
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
            let polls_now = may_poll(now) && now.has(WOKEN | REPOLL | ABORTED);
            if (!now.has(DONE) && !polls_now) || bug("no-second-look") {
                return Poll::Pending;
            }
        }
    }

    /// Polls the work once.
    ///
    /// # Safety
    /// The flight is ours, we hold `POLLING`, the slot holds the work; `now` is what the word said when we took it.
    unsafe fn drive(
        self: Pin<&Self>,
        flight: NonNull<Flight<K, T>>,
        now: Snapshot,
        cx: &mut Context<'_>,
    ) -> Poll<Landed<T>>
    where
        T: Clone,
    {
        // SAFETY: by contract; the frame and the lent waker end before the flight can.
        unsafe {
            let lent = Lent::new(flight);
            let cargo = &flight.as_ref().cargo;
            if now.has(ABORTED) {
                cargo.drop_work();
                return Poll::Ready(self.land(flight, now.failure(&self.home), Polled::Not));
            }
            // Given up whatever unwinds from here: a subscriber of traces, a waker's `clone` or `drop`.
            let right = PollRight {
                caller: self.get_ref(),
                flight: &lent,
            };
            let polled = {
                let _frame = Frame::enter(flight);
                flight.as_ref().span.enter(|| {
                    if now.has(SHARED) {
                        let waker = waker::lend(flight);
                        cargo.poll(&mut Context::from_waker(&waker))
                    } else {
                        cargo.poll(cx)
                    }
                })
            };
            match polled {
                Poll::Ready(landed) => {
                    std::mem::forget(right);
                    Poll::Ready(self.land(flight, landed, Polled::Now))
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
            // A first follower who only brings the flight's waker in does not become the driver by that.
            let place = if now.has(WOKEN) || H::TASK {
                Place::Driver
            } else {
                Place::Helper
            };
            self.register(flight, cx.waker(), place);
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
        if flight.state.load().has(ABORTED | DONE) && !bug("deaf-to-abort") {
            return self.poll(cx);
        }
        Poll::Pending
    }

    /// Sees to it that the node is in the list, with this waker.
    fn register(&self, flight: &Flight<K, T>, waker: &Waker, place: Place) {
        // Whoever is not in the list is put there by nobody else, so this look needs no lock.
        if self.node.is_linked() {
            let mut waiting = flight.waiting.lock();
            // SAFETY: the lock is held.
            if self.node.is_linked() && unsafe { self.node.is_woken_by(waker) } {
                let event = self.place(&mut waiting, place);
                drop(waiting);
                self.note(event);
                return;
            }
        }
        let waker = waker.clone();
        let (event, old) = {
            let mut waiting = flight.waiting.lock();
            let event = self.place(&mut waiting, place);
            // SAFETY: the lock is held.
            (event, unsafe { self.node.set_waker(waker) })
        };
        drop(old);
        self.note(event);
    }

    /// Puts the node where it belongs; says whether the work has passed to another driver with that.
    fn place(&self, waiting: &mut List, place: Place) -> Option<Event> {
        let front = match place {
            Place::Back => false,
            Place::Front | Place::Driver => true,
            Place::Helper => !waiting.has_another_driver(&self.node),
        };
        // SAFETY: the node is pinned in the caller's future and unlinked before that is freed; it is linked in no other
        // list, since a caller has one flight at a time.
        unsafe {
            if front {
                waiting.unlink(&self.node, Leaves::ForNow);
                waiting.push_front(&self.node);
            } else if !self.node.is_linked() {
                waiting.push_back(&self.node);
            }
        }
        match place {
            Place::Driver | Place::Helper if front => self.become_driver(waiting),
            _ => None,
        }
    }

    fn become_driver(&self, waiting: &mut List) -> Option<Event> {
        match waiting.set_driver(&self.node) {
            _ if H::TASK => None,
            Driver::Same => None,
            Driver::Gone => Some(Event::HandedOver),
            Driver::Another => Some(Event::TakenOver),
        }
    }

    fn note(&self, event: Option<Event>) {
        if let Some(event) = event {
            self.home.note(event);
        }
    }

    /// Ends the flight with this result, and takes ours of it.
    ///
    /// # Safety
    /// The flight is ours, we hold `POLLING`, the slot is empty.
    unsafe fn land(self: Pin<&Self>, flight: NonNull<Flight<K, T>>, landed: Landed<T>, polled: Polled) -> Landed<T>
    where
        T: Clone,
    {
        // SAFETY: we are its caller.
        let lent = unsafe { Lent::new(flight) };
        if let Err(Failure::Panicked(panic)) = &landed {
            self.home.note(Event::Panicked(panic.clone()));
        }
        if lent.flight().state.load().has(SHARED) {
            let event = {
                let mut waiting = lent.flight().waiting.lock();
                let event = match polled {
                    Polled::Now => self.become_driver(&mut waiting),
                    Polled::Not => None,
                };
                // SAFETY: if it is linked, then here.
                unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
                event
            };
            self.note(event);
        }
        let listed = match &landed {
            Ok(_) if bug("publish-before-removal") => None,
            Err(_) if bug("panic-keeps-entry") => None,
            _ => lent.vacate(&self.home),
        };
        let now = lent.flight().state.load();
        let refs = lent.flight().refs.load(Ordering::Acquire);
        if now.callers() == 1 && refs == 1 + u32::from(listed.is_some()) {
            // Nobody else is here, and since the entry has gone, nobody can come: no need to publish anything. Both loads
            // acquire, so whatever those did who have left is over.
            if H::TASK && !now.has(ABORTED) {
                self.home.note(Event::FinishedUnattended);
            }
            self.flight.set(None);
            // SAFETY: ours and the one in `listed` are the only references; the list that the node may be linked in goes
            // with the flight.
            unsafe {
                std::mem::forget(listed);
                self.node.forget();
                quietly(|| drop(Box::from_raw(flight.as_ptr())));
            }
            return landed;
        }
        drop(listed);
        if H::TASK {
            // A task of ours has no use for the result, so it leaves in the same step: a lone caller then gets it uncloned.
            // What is returned here nobody looks at.
            self.flight.set(None);
            // SAFETY: by contract.
            let before = unsafe { lent.publish(landed, Leaver::Publisher) };
            if before.callers() == 1 && !before.has(ABORTED) {
                self.home.note(Event::FinishedUnattended);
            }
            return Err(Failure::Cancelled);
        }
        // SAFETY: by contract; then it is done.
        unsafe {
            lent.publish(landed, Leaver::Nobody);
            if bug("publish-before-removal") {
                drop(lent.vacate(&self.home));
            }
            self.take(flight)
        }
    }

    /// Takes our part of the result, and leaves.
    ///
    /// # Safety
    /// The flight is ours and done.
    unsafe fn take(&self, flight: NonNull<Flight<K, T>>) -> Landed<T>
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
        if lent.flight().state.load().callers() == 1 {
            // SAFETY: the others have left, and nobody joins what is done: result and common reference are ours.
            unsafe {
                let landed = cargo.take();
                Flight::release(flight);
                return landed;
            }
        }
        let mut copy = None;
        let copied = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the result stays while we have not left.
            unsafe { cargo.peek(&mut |landed| copy = Some(landed.clone())) };
        }));
        // SAFETY: we are its caller until here.
        unsafe { leave_done(flight) };
        match (copied, copy) {
            (Err(panic), _) => Err(Failure::Panicked(Panicked::from_payload(panic))),
            (Ok(()), Some(landed)) => landed,
            (Ok(()), None) => Err(Failure::Aborted),
        }
    }

    fn unlink(&self, flight: &FlightRef<K, T>) {
        if self.node.is_linked() {
            let mut waiting = flight.flight().waiting.lock();
            // SAFETY: if it is still linked, then here.
            unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
        }
    }

    /// Leaves before the flight has landed. The last one sees to the work.
    fn leave(&self) {
        let Some(flight) = self.flight.take() else { return };
        // SAFETY: we are its caller until one of the steps below takes that back, each of which is the last.
        let lent = unsafe { Lent::new(flight) };
        let state = &lent.flight().state;
        if H::TASK {
            // The runtime shuts down and drops its tasks. Callers, if there are any, take the work back.
            state.set(REPOLL | SHARED);
            state.clear(TASK);
        }
        {
            let mut waiting = lent.flight().waiting.lock();
            // SAFETY: if it is linked, then here.
            unsafe { waiting.unlink(&self.node, Leaves::ForGood) };
        }
        let mut spawn = !H::TASK;
        loop {
            let now = state.load();
            if bug("blind-leave") && now.callers() > 1 {
                state.leave();
                return;
            }
            if now.has(DONE) {
                // SAFETY: it is done, and we are its caller.
                return unsafe { leave_done(flight) };
            }
            if now.has(WOKEN | REPOLL) && !now.has(POLLING) && !bug("leave-without-wake") {
                // We may have been the one who was woken for it.
                lent.flight().wake_drivers();
            }
            let attending = now.attending();
            let to_finish = !now.has(CANCEL_ON_ABANDON);
            if attending > 1 || now.has(ABORTED) || (now.has(TASK) && to_finish) {
                if state.change(now, now.0 - CALLER) {
                    if attending == 1 && !now.has(ABORTED) {
                        self.home.note(Event::Abandoned);
                    }
                    return;
                }
            } else if to_finish && spawn {
                if state.change(now, now.0 | TASK | SHARED | REPOLL) {
                    let seat = Seat { flight, late: false };
                    if self.home.attend(seat).is_ok() {
                        self.home.note(Event::Abandoned);
                        return;
                    }
                    state.clear(TASK);
                    self.home.note(Event::Unspawnable);
                    spawn = false;
                }
            } else if bug("blind-cancel") {
                state.set(ABORTED | CANCELLED);
                lent.end_if_idle(&self.home);
            } else if state.change(now, now.0 | ABORTED | CANCELLED) {
                lent.end_if_idle(&self.home);
            }
        }
    }
}

impl<K, T, H: Home<K, T>> Drop for Caller<K, T, H> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Leaves a flight that has landed; the last one drops the result.
///
/// # Safety
/// A place among the flight's callers is given up with this, and the flight is done.
unsafe fn leave_done<K, T>(flight: NonNull<Flight<K, T>>) {
    // SAFETY: our place keeps the flight alive; if it was the last, result and common reference are left to us.
    unsafe {
        if flight.as_ref().state.leave().callers() == 1 && !bug("unclaimed-result-kept") {
            let unclaimed = flight.as_ref().cargo.take();
            Flight::release(flight);
            quietly(|| drop(unclaimed));
        }
    }
}

/// `POLLING`, which is given up even when a waker's `clone` panics.
struct PollRight<'a, K, T, H: Home<K, T>> {
    caller: &'a Caller<K, T, H>,
    flight: &'a FlightRef<K, T>,
}

impl<K, T, H: Home<K, T>> Drop for PollRight<'_, K, T, H> {
    fn drop(&mut self) {
        let before = self.flight.flight().state.clear(POLLING);
        if before.has(ABORTED) && !bug("deaf-to-abort") {
            self.flight.end_if_idle(&self.caller.home);
        } else if before.has(WOKEN | REPOLL) && !bug("deaf-to-wake") {
            self.flight.flight().wake_drivers();
        }
    }
}

/// Where in the list, and as what.
#[derive(Clone, Copy)]
enum Place {
    /// Behind the others, to wait.
    Back,
    /// Before the others, to be woken for the work: a task of ours that has not polled it this time.
    Front,
    /// Before the others, as the one who polled the work because it was woken.
    Driver,
    /// Polled the work only to bring the flight's waker in: waits, unless the driver has gone.
    Helper,
}

/// Whether a flight lands by a poll of its work.
#[derive(Clone, Copy)]
enum Polled {
    Now,
    Not,
}
