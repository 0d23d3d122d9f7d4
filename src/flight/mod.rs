//! One flight: an execution of work, shared by all who ask for its key meanwhile.
//!
//! A flight is one allocation: its counters, the list of those who wait, the key, and one place for the work and then
//! its result. This module knows of callers and wakers, not of the map that the flight is listed in; what it needs of
//! its owner it asks through [`Home`]. All `unsafe` of the crate is here, behind the safe [`Caller`] and [`FlightRef`].
//!
//! # States
//!
//! ```text
//!              lead                      pending                    woken, polled by any caller
//!   (absent) ───────▶ POLLING (leader) ───────────▶ idle ─────────────────────────────▶ POLLING (driver)
//!                        │                           │ ▲ pending                           │  │
//!                        │ ready, panic              │ └───────────────────────────────────┘  │ ready, panic
//!                        ▼                           │ abort, or all callers left (cancel)    ▼
//!                   work dropped ◀───────────────────┴──────────────────────────────▶ work dropped
//!                        │
//!                        ▼  result into the slot ─▶ entry leaves the map ─▶ DONE ─▶ callers woken, in rounds
//! ```
//!
//! * `POLLING` is the right to the slot. It is taken by compare-exchange and lost at the end of a poll, so it is held
//!   by whoever is *being polled*, never by a caller who merely waits: an idle driver holds nobody up.
//! * While the leader is alone, the work is polled with the leader's own waker: the flight costs what a plain future
//!   costs. The first follower sets `SHARED` and `REPOLL`. From then on the work gets the flight's own waker, which sets
//!   `WOKEN` and wakes the driver and a standby; whichever of them is polled first takes `POLLING`.
//! * A wake-up is never lost. `WOKEN` and `REPOLL` are cleared only by who takes `POLLING` (before the poll). Whoever gives `POLLING`
//!   up and finds one of them, and every caller who leaves and finds one, wakes the next two. A caller who has registered
//!   looks at the word once more: either the waker saw him in the list, or he sees the waker's mark.
//! * Who joins counts himself under the lock that guards the entry, in a number of his own, and so without a
//!   read-modify-write. Who leaves and seems to be the last makes sure under that lock ([`Home::while_nobody_joins`]).
//! * When the last caller leaves, his place passes to a task of ours (`TASK`), or the work is dropped (`CANCELLED`).
//! * A caller that would poll the work too deep inside other polls stays, and leaves it to a poll on another stack: by a task of
//!   ours where that is `STEADY`, and otherwise by the outermost poll on its thread, as that ends (`frame.rs`).
//!
//! # Work that is left to a task
//!
//! Abandoned work, and work that is spawned from the beginning, is polled by a task of ours. It stands at the front of the
//! list. Whether callers may rely on it depends on its runtime:
//!
//! ```text
//!                       WOKEN: task and standby woken         standby polled, the task has not come
//!   idle, with a task ────────────────────────────────▶ called ────────────────────────────────────▶ late
//!     ▲        ▲                                           │         (it wakes itself: one more chance)  │
//!     │        └──────────── task polled: POLLING ◀────────┴───────────────────────────────◀─────────────┤
//!     │                                                                                                  │
//!     └───────────────────── standby polled again: POLLING, inside the task's runtime ◀──────────────────┘
//! ```
//!
//! * A runtime with threads of its own polls what is woken. Its task is `STEADY`: it alone polls the work, and it alone is
//!   woken for it.
//! * Any other runtime runs its tasks only while a thread is inside its `block_on`, which may be never. So a standby is
//!   woken with the task, as with a driver. A caller who is polled and finds the work called for, and nobody polling it,
//!   wakes itself and notes that it has waited (`outwaited`, in its node; finding nothing to do clears it). If the
//!   call still stands as it is polled again, it takes `POLLING` like a driver. On a runtime that is driven the task is
//!   ahead of it in the queue, so its work stays with it. A step costs two wake-ups, and one more if the task is late.
//! * Nobody takes anything from the task but the right to poll: if it comes after all, it finds the right taken, or
//!   nothing to do, and goes to the front again.
//! * A drain of the group stands by as well ([`Helper`]), without being a caller.
//!
//! # Who frees
//!
//! `refs` counts the map's entry, each waker, whoever looks the flight up, and *all callers together* as one. The last
//! caller to leave after `DONE` takes or drops the result and gives their common reference up. So the slot is empty
//! when the memory goes, and a leader whom nobody joined frees the flight without one atomic change.

mod caller;
mod cargo;
mod frame;
mod hash;
mod helper;
mod list;
mod nest;
mod state;
mod waker;

pub(crate) use self::caller::{Caller, Takeoff};
pub(crate) use self::cargo::{Cargo, Proof};
pub(crate) use self::frame::Anchor;
pub(crate) use self::hash::KeyHash;
pub(crate) use self::helper::Helper;
pub(crate) use self::state::MAX_CALLERS;

use self::list::{List, Waiting};
use self::nest::nest;
use self::state::{ABORTED, ASKED, CANCELLED, DONE, POLLING, PROVEN, STEADY, Snapshot, State, TASK, UNTOLD, WOKEN};
use crate::identity::Fingerprint;
use crate::sync::{AtomicU32, Handle, Mutex, bug, round};
use crate::telemetry::FlightSpan;
use crate::unwind::quietly;
use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// How a flight ends: with the work's value, or why there is none.
pub(crate) type Landed<T> = Result<T, Failure>;

/// The same while the value, if there is one, is in the flight's slot.
type Ended = Result<(), Failure>;

/// Why a flight has no value.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    Panicked(Panicked),
    Aborted,
    /// Every caller had left; whoever joined after that has to try again.
    Cancelled,
}

/// The work of a flight panicked, and with what message.
///
/// Every caller of the flight gets it. What the work did before it panicked has happened.
#[derive(Clone, PartialEq, Eq)]
pub struct Panicked {
    message: Arc<str>,
}

impl Panicked {
    /// What the work said as it panicked: the panic's message, if it was text.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use oneflight::{FlightError, Group};
    ///
    /// let group: Group<&str, u32> = Group::new();
    /// match group.run("key", || async { panic!("out of paper") }).await {
    ///     Err(FlightError::Panicked(panic)) => assert_eq!(panic.message(), "out of paper"),
    ///     other => unreachable!("{other:?}"),
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn from_payload(payload: Box<dyn Any + Send>) -> Self {
        let message = if let Some(text) = payload.downcast_ref::<&'static str>() {
            Arc::from(*text)
        } else if let Some(text) = payload.downcast_ref::<String>() {
            Arc::from(text.as_str())
        } else {
            Arc::from("a panic whose payload is no text")
        };
        quietly(|| drop(payload));
        Self { message }
    }
}

impl fmt::Debug for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panicked").field(&self.message).finish()
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the work panicked: {}", self.message)
    }
}

impl std::error::Error for Panicked {}

/// What becomes of the work when every caller has left before it was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnAbandon {
    /// It is spawned onto the runtime and runs to its end: a mutation cut in half is the worst outcome. Where there is
    /// no runtime it is dropped, as with [`Cancel`](Self::Cancel).
    ///
    /// A multi-threaded runtime runs it whatever its callers do. A current-thread runtime runs it only while a thread is
    /// inside its `block_on`. Until then, callers who join the flight, and [`Group::drain`](crate::Group::drain), poll
    /// the work in its place. If there are none, the work rests until the runtime is driven, or is dropped with it.
    #[default]
    Finish,
    /// It is dropped where it stands, before its key is free again.
    Cancel,
}

/// Who polls the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Drive {
    /// A caller's own task: nothing is spawned and no task is switched to. If that caller is dropped or not polled,
    /// another one who is polled goes on.
    ///
    /// Where work calls for a key whose work calls for another one, and so on, each is polled inside the one before. Below
    /// the sixteenth, a chain of any length takes a bounded part of the stack: on a multi-threaded runtime the work is given
    /// a task of its own, as with [`Spawned`](Self::Spawned). Elsewhere it is polled by the same task once the outermost of the
    /// works has been polled. So there, work that is called for at such a depth does not go on while a thread blocks inside
    /// the outermost one's poll, even if it blocks on that very call.
    #[default]
    InPlace,
    /// A task of its own, so that it goes on whether its callers are polled or not.
    ///
    /// On a multi-threaded runtime that task alone polls the work. On a current-thread runtime, which may exist and not be
    /// driven, a caller who is polled stands in for a task that was woken and has not come by the caller's next poll. It
    /// polls the work inside the task's runtime (`Handle::enter`), so it finds the same reactor and timers around it; what
    /// they bring comes only when that runtime is driven. While the runtime is driven and its callers are tasks of it, the
    /// work stays on its own task. If the task and one standby are both not polled, the other callers wait.
    Spawned,
}

/// What happens to a flight that its owner may want to count.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The driver had left, and another caller polled the work on.
    HandedOver,
    /// The driver was there but not polled, and another caller polled the work on.
    TakenOver,
    /// Every caller had left, and the work went on as a task.
    Abandoned,
    /// Every caller had left, and there was no runtime for the work to go on.
    Unspawnable,
    /// Every caller had left, and the work was dropped.
    Cancelled,
    /// The work was dropped because that was asked for.
    Aborted,
    /// The work panicked.
    Panicked(#[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "is only told"))] Panicked),
}

/// What a flight needs of the group it belongs to.
pub(crate) trait Home<K, T> {
    /// Whether callers of this kind are tasks of ours, which nobody is behind.
    const TASK: bool;

    /// Takes the flight's own entry out of the map, if it is still there. Compares identity, not keys.
    fn vacate(&self, flight: &FlightRef<K, T>) -> Option<FlightRef<K, T>>;

    /// Runs `act` while nobody can join the flight: under the lock that guards its entry, if it has one. Runs no user code.
    fn while_nobody_joins<R>(&self, flight: &FlightRef<K, T>, act: impl FnOnce() -> R) -> R;

    /// Something happened. Called with no lock held.
    fn note(&self, event: Event);

    /// Spawns a task that wakes the rest of a flight's callers, round by round, so that whoever lands a flight with many
    /// callers keeps his thread from nobody for long. Drops them, which wakes them all, where there is no runtime.
    fn wake_rest(&self, rest: Waking<K, T>);

    /// The runtime that a task would be spawned on now, if there is one.
    fn runtime(&self) -> Option<Handle>;

    /// Spawns a task that polls the flight to its end, as the caller that `seat` stands for. If the flight takes off with that, it
    /// has had no task before, and its leader still has `POLLING`.
    fn attend(&self, flight: &FlightRef<K, T>, runtime: Handle, seat: Seat<K, T>, takes_off: bool);

    /// The runtime of the flight's task, if that is not steady: who polls the work in its stead does so inside that.
    fn runtime_of(&self, flight: &FlightRef<K, T>) -> Option<Handle>;

    /// What ends the flight if it is idle then, and does not borrow this home.
    fn ends_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnOnce()>;

    /// What polls the flight's work if that is called for then, inside the runtime that is current now, and does not borrow
    /// this home. Says whether the flight has ended with that.
    fn polls_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnMut() -> bool>;
}

/// Who leaves as the result is published.
enum Leaver {
    Nobody,
    /// The caller who publishes, in the same step.
    Publisher,
}

/// One place among the callers of a flight, not yet taken by anybody.
#[must_use = "a place that nobody takes keeps the flight from ending"]
pub(crate) struct Seat<K, T> {
    flight: NonNull<Flight<K, T>>,
    /// The flight was being aborted or cancelled already: if it ends so, the call has to be made again.
    pub(crate) late: bool,
}

// SAFETY: a seat is a counted place in a flight that is `Send` and `Sync` itself.
unsafe impl<K: Send + Sync, T: Send + Sync> Send for Seat<K, T> {}

/// See the module's documentation.
pub(crate) struct Flight<K, T, C: ?Sized = dyn Cargo<K, T>> {
    refs: AtomicU32,
    state: State,
    /// The lock of those who wait.
    lock: Mutex<()>,
    /// The hash under which the flight is listed. Kept, not computed anew: what the map finds must not depend on the
    /// user's `Hash`, which may panic, or differ from one time to the next.
    hash: hash::Packed,
    waiting: Waiting,
    key: K,
    span: FlightSpan,
    _result: std::marker::PhantomData<fn() -> T>,
    cargo: C,
}

impl<K, T, C: ?Sized> Flight<K, T, C> {
    fn retain(&self) {
        // Relaxed: whoever makes a reference has one. As in `Arc`, wrapping round would free what is in use.
        if self.refs.fetch_add(1, Ordering::Relaxed) > u32::MAX / 2 {
            std::process::abort();
        }
    }

    /// Those who wait, under their lock.
    #[inline]
    fn waiting(&self) -> impl DerefMut<Target = List> + '_ {
        // SAFETY: the list is taken here alone.
        unsafe { self.waiting.lock(&self.lock) }
    }

    /// The work asks to be polled.
    fn wake(&self) {
        if bug("wake-before-mark") {
            self.wake_drivers();
        }
        // Whoever set `WOKEN` before has woken somebody; whoever is polling looks at it when he is through.
        if !self.state.set(WOKEN).has(ASKED | POLLING | DONE) && !bug("wake-before-mark") {
            self.wake_drivers();
        }
    }

    /// Wakes the driver and a standby. One of them, polled, finds `WOKEN` and polls the work.
    fn wake_drivers(&self) {
        let (driver, standby) = {
            let mut waiting = self.waiting();
            let driver = waiting.pop_front();
            let standby = match &driver {
                // A steady task is always polled again.
                Some(_) if self.state.load().has(STEADY) || bug("no-standby") => None,
                Some(_) if bug("task-without-standby") && self.state.load().has(TASK) => None,
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
    fn wake_some(&self, most: usize) -> bool {
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
    fn wake_next(&self) {
        if !self.wake_some(1) {
            self.state.clear(UNTOLD);
        }
    }

    fn try_poll_right(&self, now: Snapshot) -> bool {
        self.state.change(now, (now.0 | POLLING) & !ASKED) || bug("two-at-once")
    }
}

impl<K, T> Flight<K, T> {
    /// Gives one reference up, and frees the flight with the last.
    ///
    /// # Safety
    /// The caller owns the reference. With the last one the slot is empty.
    unsafe fn release(flight: NonNull<Self>) {
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

/// A counted reference to a flight, as the map holds it.
pub(crate) struct FlightRef<K, T>(NonNull<Flight<K, T>>);

// SAFETY: counted atomically; a flight is `Send` and `Sync` where its key and its result are.
unsafe impl<K: Send + Sync, T: Send + Sync> Send for FlightRef<K, T> {}
// SAFETY: as above.
unsafe impl<K: Send + Sync, T: Send + Sync> Sync for FlightRef<K, T> {}

impl<K, T> FlightRef<K, T> {
    pub(crate) fn key(&self) -> &K {
        &self.flight().key
    }

    pub(crate) fn hash(&self) -> KeyHash {
        self.flight().hash.get()
    }

    #[inline]
    pub(crate) fn fingerprint(&self) -> Option<&Fingerprint> {
        // Most flights have none, and are spared the call.
        if self.flight().state.load().has(PROVEN) {
            self.flight().cargo.fingerprint()
        } else {
            None
        }
    }

    /// Keeps the flight's address from being used again.
    pub(crate) fn anchor(&self) -> Anchor {
        // SAFETY: this reference is counted.
        unsafe { Anchor::of(self.0) }
    }

    /// How many callers there are, tasks of ours not counted.
    #[inline]
    pub(crate) fn attending(&self) -> u32 {
        let state = &self.flight().state;
        state.attending(state.load())
    }

    /// The flight's address, which is its own while it is referred to.
    pub(crate) fn id(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Whether the work has come to its end and nobody is there for its result. Exact under the lock that guards the
    /// flight's entry.
    pub(crate) fn is_unattended(&self) -> bool {
        let state = &self.flight().state;
        let now = state.load();
        !now.has(ABORTED) && state.attending(now) == 0
    }

    /// Whether the two are the same flight.
    pub(crate) fn is(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.0.as_ptr(), other.0.as_ptr())
    }

    /// One caller more, unless the flight is done. Only under the lock that guards the flight's entry, and while the
    /// entry is there: then a limit that was checked there holds.
    #[inline]
    pub(crate) fn join(&self) -> Option<Seat<K, T>> {
        let before = self.flight().state.join()?;
        Some(Seat {
            flight: self.0,
            late: before.has(ABORTED),
        })
    }

    /// Ends the flight without a result, now or as soon as the poll that is under way is over; false if it has landed.
    pub(crate) fn abort(&self, home: &impl Home<K, T>) -> bool {
        if self.flight().state.set(ABORTED).has(DONE) {
            return false;
        }
        self.end_if_idle(home);
        true
    }

    /// Ends a flight that is to be aborted or cancelled, unless somebody polls it, who will find out himself. Deep inside the
    /// end of others, it is put off until these have ended.
    pub(crate) fn end_if_idle(&self, home: &impl Home<K, T>) {
        nest(|| self.end(home), || home.ends_later(self.clone()));
    }

    fn end(&self, home: &impl Home<K, T>) {
        loop {
            let now = self.flight().state.load();
            if now.has(POLLING | DONE) {
                return;
            }
            if self.flight().try_poll_right(now) {
                // SAFETY: the right to poll was just taken; the flight is not done, so the slot holds the work.
                unsafe {
                    self.flight().cargo.drop_work();
                    // Counted before anybody can see that the flight has ended.
                    let failure = now.failure(home);
                    drop(self.vacate(home));
                    self.publish(Err(failure), Leaver::Nobody, home);
                }
                return;
            }
        }
    }

    /// Takes the entry out of the map: the map's reference, if the flight was still listed.
    #[inline]
    fn vacate(&self, home: &impl Home<K, T>) -> Option<FlightRef<K, T>> {
        home.vacate(self).filter(|listed| listed.is(self))
    }

    /// Shows the result to everyone, and wakes everyone: a round of them here, the rest in a task if there is a
    /// runtime. The entry has left the map.
    ///
    /// # Safety
    /// The caller holds `POLLING`; the slot holds the value or is empty, as `ended` says.
    unsafe fn publish(&self, ended: Ended, leaver: Leaver, home: &impl Home<K, T>) {
        // Keeps the flight until everyone is woken: those who leave may be the last.
        let kept = matches!(leaver, Leaver::Publisher).then(|| self.clone());
        let flight = self.flight();
        if let Err(failure) = ended {
            // SAFETY: by contract.
            unsafe { flight.cargo.fail(failure) };
        }
        let left = match leaver {
            Leaver::Nobody => flight.state.finish(),
            Leaver::Publisher => flight.state.finish_and_leave(),
        };
        if flight.wake_some(round()) && !bug("one-round-only") {
            // A task wakes the rest; and so does whoever is awake, for a task may have long to wait for its turn.
            flight.state.set(UNTOLD);
            home.wake_rest(Waking(self.clone()));
        }
        if left == 0 {
            // All have left, and left the rest to us.
            // SAFETY: nobody joins a flight that is done, so nobody is there to look at the result; the callers' common
            // reference is left over.
            unsafe {
                let unclaimed = flight.cargo.take();
                quietly(|| drop(unclaimed));
                Flight::release(self.0);
            }
        }
        drop(kept);
    }

    fn flight(&self) -> &Flight<K, T> {
        // SAFETY: this reference is counted.
        unsafe { self.0.as_ref() }
    }
}

/// `POLLING`, which is given up even when a waker's `clone` panics.
struct PollRight<'a, K, T, H: Home<K, T>> {
    home: &'a H,
    flight: &'a FlightRef<K, T>,
}

impl<K, T, H: Home<K, T>> Drop for PollRight<'_, K, T, H> {
    fn drop(&mut self) {
        let before = self.flight.flight().state.clear(POLLING);
        if before.has(ABORTED) && !bug("deaf-to-abort") {
            self.flight.end_if_idle(self.home);
        } else if before.has(ASKED) && !bug("deaf-to-wake") {
            self.flight.flight().wake_drivers();
        }
    }
}

impl Snapshot {
    /// Why a flight that was to be aborted or cancelled has no value; counted.
    fn failure<K, T>(self, home: &impl Home<K, T>) -> Failure {
        if self.has(CANCELLED) {
            home.note(Event::Cancelled);
            Failure::Cancelled
        } else {
            home.note(Event::Aborted);
            Failure::Aborted
        }
    }
}

impl<K, T> Clone for FlightRef<K, T> {
    fn clone(&self) -> Self {
        self.flight().retain();
        Self(self.0)
    }
}

impl<K, T> Drop for FlightRef<K, T> {
    fn drop(&mut self) {
        // SAFETY: this reference is ours; when it is the last, the callers' has gone, and the result with it.
        unsafe { Flight::release(self.0) };
    }
}

/// Those of a landed flight's callers who are still to be woken. Dropped, it wakes them all.
pub(crate) struct Waking<K, T>(FlightRef<K, T>);

impl<K, T> Waking<K, T> {
    /// Wakes a round of them; says whether there are more.
    pub(crate) fn wake_round(&self) -> bool {
        self.0.flight().wake_some(round())
    }
}

impl<K, T> Drop for Waking<K, T> {
    fn drop(&mut self) {
        self.0.flight().wake_some(usize::MAX);
    }
}

/// A reference that is only lent: it is not given up when it goes out of sight.
struct Lent<K, T>(std::mem::ManuallyDrop<FlightRef<K, T>>);

impl<K, T> Lent<K, T> {
    /// # Safety
    /// The flight outlives what is returned.
    unsafe fn new(flight: NonNull<Flight<K, T>>) -> Self {
        Self(std::mem::ManuallyDrop::new(FlightRef(flight)))
    }
}

impl<K, T> Deref for Lent<K, T> {
    type Target = FlightRef<K, T>;

    fn deref(&self) -> &FlightRef<K, T> {
        &self.0
    }
}
