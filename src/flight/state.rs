//! The word that says where a flight stands and what may be done with it, and the number of callers that have joined.
//!
//! The word has eleven flags and, above them, a count of callers: those the flight began with, less those that left. Every
//! change of the word is one read-modify-write. Callers that join are counted in a number of their own, under the lock of the
//! map's shard, so that a join needs no read-modify-write at all.
//!
//! The number only grows. Read without the lock, it may miss callers that have joined; a compare-exchange of the word that
//! succeeds after that has missed none that left. The number is exact under the lock, and once the entry has left the map.
//! When a flight is done, the number is added to the word, and the word alone counts the callers that are still there. Then the
//! number counts on, and says which of them wake others.
//!
//! Above the number stands which runtime the flight keeps to, see `rounds.rs`, and at the top whether it does ([`MIXED`]). What is
//! there is lost where the number is added to the word.

use crate::sync::{AtomicU32, Handle, drives_itself, estimate, load};
use std::sync::atomic::Ordering;

/// The slot has a holder, which alone may poll the work, drop it, or put the result in.
pub(super) const POLLING: u32 = 1;
/// The flight's own waker was called after the last poll began.
pub(super) const WOKEN: u32 = 1 << 1;
/// A caller has joined. From the next poll on, the work is polled with the flight's own waker.
pub(super) const SHARED: u32 = 1 << 2;
/// The result is in the slot. After this, the word changes only as callers leave and are told.
pub(super) const DONE: u32 = 1 << 3;
/// The work is to be dropped unfinished.
pub(super) const ABORTED: u32 = 1 << 4;
/// As [`ABORTED`], because every caller left. A call that joins now has to be made again.
pub(super) const CANCELLED: u32 = 1 << 5;
/// One of the callers is the flight's task, which polls the work.
pub(super) const TASK: u32 = 1 << 6;
/// When the last caller leaves, the work is dropped instead of spawned.
pub(super) const CANCEL_ON_ABANDON: u32 = 1 << 7;
/// The first follower asks for a poll with the flight's own waker.
pub(super) const REPOLL: u32 = 1 << 8;
/// The flight carries a fingerprint.
pub(super) const PROVEN: u32 = 1 << 9;
/// The flight is done, and not all waiting callers have been woken: a caller that takes its result or leaves wakes another
/// one. The flag has the place of [`REPOLL`], which has no meaning once a flight is done. A `REPOLL` that stood as the flight
/// landed is taken for this flag: then one caller finds no other to wake, and clears it.
pub(super) const UNTOLD: u32 = REPOLL;
/// The work asks for a poll, or a caller does.
pub(super) const ASKED: u32 = WOKEN | REPOLL;
/// The work is to be polled, or dropped.
pub(super) const CALLED_FOR: u32 = ASKED | ABORTED;
/// From here on the work is not polled with the leader's waker any more.
pub(super) const JOINED: u32 = SHARED | REPOLL;
/// With [`TASK`]: the task's runtime drives itself, so only the task polls the work, and only the task is woken for it.
pub(super) const STEADY: u32 = 1 << 10;
/// Returns the marks of a flight with a task on this runtime. They are set in one step, or by the holder of [`POLLING`].
/// Otherwise a caller could poll the work in between, and come to stand before a task that alone is woken for the work.
pub(super) fn task_on(runtime: &Handle) -> u32 {
    match drives_itself(runtime) {
        true => TASK | STEADY,
        false => TASK,
    }
}

/// One caller.
pub(super) const CALLER: u32 = 1 << 11;
/// The number of joined callers, as far as it matters, without the runtime that stands above it.
const JOINERS: u32 = u32::MAX / CALLER;
/// Callers are polled in more places than on workers of the one runtime whose number stands below this, or that is 0.
const MIXED: u32 = 1 << 31;
/// The largest number that a runtime may have. A flight that is done may count into the place of the runtime, once at most. So
/// that does not reach `MIXED`.
pub(super) const RUNTIMES: u32 = MIXED / (JOINERS + 1) - 2;
/// The most callers that a flight can have. One place is kept for the flight's task.
pub(crate) const MAX_CALLERS: u32 = u32::MAX / CALLER - 1;

/// Returns the number of the runtime that stands above the number of callers, or 0 if they are not polled by it alone.
#[inline]
fn runtime_in(joined: u32) -> u32 {
    match joined & MIXED {
        0 => joined / (JOINERS + 1),
        _ => 0,
    }
}

/// What the word said at one moment.
#[derive(Clone, Copy)]
pub(super) struct Snapshot(pub(super) u32);

impl Snapshot {
    #[inline]
    pub(super) fn has(self, flags: u32) -> bool {
        self.0 & flags != 0
    }
}

/// The word, and the number of callers that have joined.
#[derive(Debug)]
pub(super) struct State {
    word: AtomicU32,
    joined: AtomicU32,
}

impl State {
    #[inline]
    pub(super) fn new(flags: u32, callers: u32, runtime: u32) -> Self {
        Self {
            word: AtomicU32::new(flags + callers * CALLER),
            joined: AtomicU32::new(match runtime {
                0 => MIXED,
                own => own * (JOINERS + 1),
            }),
        }
    }

    /// Returns roughly how many callers have joined, for uses where the number may be wrong.
    #[inline]
    pub(super) fn joined_or_so(&self) -> u32 {
        estimate(&self.joined) & JOINERS
    }

    #[inline]
    fn joined(&self) -> u32 {
        self.joined.load(Ordering::Relaxed)
    }

    /// Returns the number of the runtime on whose workers all callers are polled, or 0 if there is none.
    #[inline]
    pub(super) fn runtime(&self) -> u32 {
        runtime_in(self.joined())
    }

    /// Returns whether all callers are polled on one runtime's workers, as far as it is known.
    #[inline]
    pub(super) fn keeps_to_a_runtime(&self) -> bool {
        self.joined() & MIXED == 0
    }

    /// Notes that callers are polled in more places than on one runtime's workers. To be called under the lock that guards the
    /// flight's entry, or once the entry has left the map.
    #[cold]
    pub(super) fn mix(&self) {
        self.joined.fetch_or(MIXED, Ordering::AcqRel);
    }

    /// Acquire: a reader that sees `DONE`, or that other callers have left, sees what was written before that.
    #[inline]
    pub(super) fn load(&self) -> Snapshot {
        Snapshot(load(&self.word, Ordering::Acquire))
    }

    /// Returns the number of callers, less those that had left when the word was read; see above for when it is exact.
    #[inline]
    pub(super) fn callers(&self, now: Snapshot) -> u32 {
        let joined = if now.has(DONE) { 0 } else { self.joined() };
        // Both may wrap round; the number of callers at any time does not.
        now.0.wrapping_add(joined.wrapping_mul(CALLER)) / CALLER
    }

    /// Returns the number of callers, the flight's task not counted.
    #[inline]
    pub(super) fn attending(&self, now: Snapshot) -> u32 {
        self.callers(now).saturating_sub(u32::from(now.has(TASK)))
    }

    /// Changes `from` to `to`; returns false if the word is no longer `from`.
    ///
    /// `AcqRel`: taking `POLLING` has to see what its last holder wrote to the slot and, while there were no followers, to
    /// the leader's node. Giving up `POLLING` or a place has to publish the same.
    #[inline]
    pub(super) fn change(&self, from: Snapshot, to: u32) -> bool {
        self.word
            .compare_exchange(from.0, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Sets `flags`; returns the word as it was before.
    #[inline]
    pub(super) fn set(&self, flags: u32) -> Snapshot {
        Snapshot(self.word.fetch_or(flags, Ordering::AcqRel))
    }

    /// Clears `flags`; returns the word as it was before.
    #[inline]
    pub(super) fn clear(&self, flags: u32) -> Snapshot {
        Snapshot(self.word.fetch_and(!flags, Ordering::AcqRel))
    }

    /// Gives up `POLLING`, which the code that calls this holds; returns the word as it was before. It is a subtraction, which is one
    /// instruction: to clear a bit of a word and have the word is a loop around a compare-exchange.
    #[inline]
    pub(super) fn give_up_polling(&self) -> Snapshot {
        Snapshot(self.word.fetch_sub(POLLING, Ordering::AcqRel))
    }

    /// Counts one caller more, which is polled on a worker of `own_runtime` (0 if on none), and sets the request to poll anew if
    /// it is the first follower. Returns the word as it was before, or `None` if the flight is done: then it cannot be joined,
    /// whatever the map says.
    ///
    /// To be called under the lock that guards the flight's entry. So no other caller writes the number, and a last caller
    /// that leaves and cancels is seen here, or sees this caller.
    #[inline]
    pub(super) fn join(&self, own_runtime: impl FnOnce() -> u32) -> Option<Snapshot> {
        let now = self.load();
        if now.has(DONE) {
            return None;
        }
        let joined = self.joined();
        let runtime = match joined & MIXED != 0 || runtime_in(joined) == own_runtime() {
            true => joined & !JOINERS,
            false => MIXED,
        };
        let joiners = joined.wrapping_add(1) & JOINERS;
        self.joined.store(runtime | joiners, Ordering::Relaxed);
        if now.has(SHARED) {
            return Some(now);
        }
        Some(self.set(JOINED))
    }

    /// Counts one caller fewer. If the flight is done, returns how many there were; after that the flight may be freed.
    #[inline]
    pub(super) fn leave(&self) -> u32 {
        self.word.fetch_sub(CALLER, Ordering::AcqRel) / CALLER
    }

    /// Returns how many others a caller wakes as it takes its result from a flight, and not all have been told: one or, if the
    /// flight keeps to one runtime, none, and every so many callers as many at once. `together` is a power of two, so that it
    /// does not matter where the count begins.
    pub(super) fn due(&self, together: u32) -> u32 {
        if self.runtime() == 0 {
            return 1;
        }
        // AcqRel, and it tells of the runtime once more: a caller elsewhere that is not seen here sees that the flight is done.
        match self.joined.fetch_add(1, Ordering::AcqRel) {
            before if before & MIXED != 0 => 1,
            before if before.wrapping_add(1).is_multiple_of(together) => together,
            _ => 0,
        }
    }

    /// Goes from `POLLING` to `DONE` in one step; returns how many callers are left. The entry has left the map, so the
    /// number of joined callers is final.
    #[inline]
    pub(super) fn finish(&self) -> u32 {
        self.finish_with(0)
    }

    /// As [`finish`](Self::finish), and counts one caller fewer in the same step.
    #[inline]
    pub(super) fn finish_and_leave(&self) -> u32 {
        self.finish_with(1)
    }

    #[inline]
    fn finish_with(&self, leavers: u32) -> u32 {
        let joined = self.joined();
        let change = joined
            .wrapping_sub(leavers)
            .wrapping_mul(CALLER)
            .wrapping_add(DONE - POLLING);
        self.word.fetch_add(change, Ordering::AcqRel).wrapping_add(change) / CALLER
    }
}
