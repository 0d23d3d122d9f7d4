//! The word that says where a flight stands, and who may do what; and how many have joined.
//!
//! Eleven flags and, above them, the callers: those it began with, less those who left. Every change of the word is one
//! read-modify-write. Who joins counts himself in a number of its own, under the lock of the map's shard, so that a join
//! needs no read-modify-write at all. It only grows, so whoever reads it without the lock may miss callers, and whoever
//! then changes the word by compare-exchange has missed none who left. It is exact under the lock, and once the entry has
//! left the map; when a flight is done it is added to the word, and the word alone counts who is still there.

use crate::sync::{AtomicU32, Handle, drives_itself, estimate, load};
use std::sync::atomic::Ordering;

/// Somebody has the slot to himself: to poll the work, to drop it, or to put the result in.
pub(super) const POLLING: u32 = 1;
/// The flight's own waker was called after the last poll began.
pub(super) const WOKEN: u32 = 1 << 1;
/// Somebody joined: from the next poll on the work is polled with the flight's own waker.
pub(super) const SHARED: u32 = 1 << 2;
/// The result is in the slot. The last change but for callers who leave.
pub(super) const DONE: u32 = 1 << 3;
/// The work is to be dropped unfinished.
pub(super) const ABORTED: u32 = 1 << 4;
/// As [`ABORTED`], because every caller left: who joins now has to try again.
pub(super) const CANCELLED: u32 = 1 << 5;
/// One of the callers is a task of ours, which polls the work.
pub(super) const TASK: u32 = 1 << 6;
/// When the last caller leaves, the work is dropped instead of spawned.
pub(super) const CANCEL_ON_ABANDON: u32 = 1 << 7;
/// The first follower asks for a poll with the flight's own waker.
pub(super) const REPOLL: u32 = 1 << 8;
/// The flight carries a fingerprint.
pub(super) const PROVEN: u32 = 1 << 9;
/// The flight is done, and not all who wait have been woken: a caller that takes its result or leaves wakes another one. It has
/// the place of [`REPOLL`], which means nothing any more once a flight is done. A request that stood as the flight landed
/// is taken for this: then one caller finds that there is nobody to wake, and clears it.
pub(super) const UNTOLD: u32 = REPOLL;
/// The work asks for a poll, or a caller does.
pub(super) const ASKED: u32 = WOKEN | REPOLL;
/// The work is to be polled, or dropped.
pub(super) const CALLED_FOR: u32 = ASKED | ABORTED;
/// From here on the work is not polled with the leader's waker any more.
pub(super) const JOINED: u32 = SHARED | REPOLL;
/// With [`TASK`]: the task's runtime drives itself, so the task alone polls the work, and is woken for it alone.
pub(super) const STEADY: u32 = 1 << 10;
/// The marks of a flight with a task on this runtime. They are set in one step, or in the hands of who has [`POLLING`]: no
/// caller is to poll the work, and so come to stand before a task that alone is woken for it.
pub(super) fn task_on(runtime: &Handle) -> u32 {
    match drives_itself(runtime) {
        true => TASK | STEADY,
        false => TASK,
    }
}

/// One caller.
pub(super) const CALLER: u32 = 1 << 11;
/// The most callers that a flight can have. One place is kept for a task of ours.
pub(crate) const MAX_CALLERS: u32 = u32::MAX / CALLER - 1;

/// What the word said at one moment.
#[derive(Clone, Copy)]
pub(super) struct Snapshot(pub(super) u32);

impl Snapshot {
    #[inline]
    pub(super) fn has(self, flags: u32) -> bool {
        self.0 & flags != 0
    }
}

/// The word itself, and the number.
#[derive(Debug)]
pub(super) struct State {
    word: AtomicU32,
    joined: AtomicU32,
}

impl State {
    #[inline]
    pub(super) fn new(flags: u32, callers: u32) -> Self {
        Self {
            word: AtomicU32::new(flags + callers * CALLER),
            joined: AtomicU32::new(0),
        }
    }

    /// How many have joined, roughly: for what may be wrong.
    #[inline]
    pub(super) fn joined_or_so(&self) -> u32 {
        estimate(&self.joined)
    }

    #[inline]
    fn joined(&self) -> u32 {
        self.joined.load(Ordering::Relaxed)
    }

    /// Acquire: whoever sees `DONE`, or that the others have left, sees what they wrote.
    #[inline]
    pub(super) fn load(&self) -> Snapshot {
        Snapshot(load(&self.word, Ordering::Acquire))
    }

    /// How many callers there are besides those who left before the word said this; see above for when that is exact.
    #[inline]
    pub(super) fn callers(&self, now: Snapshot) -> u32 {
        let joined = if now.has(DONE) { 0 } else { self.joined() };
        // Both wrap round, the callers at any time don't.
        now.0.wrapping_add(joined.wrapping_mul(CALLER)) / CALLER
    }

    /// Callers that are not a task of ours.
    #[inline]
    pub(super) fn attending(&self, now: Snapshot) -> u32 {
        self.callers(now).saturating_sub(u32::from(now.has(TASK)))
    }

    /// Changes `from` to `to`; false if the word is another by now.
    ///
    /// `AcqRel`: taking `POLLING` has to see what the last one who had it wrote to the slot and, while there were no
    /// followers, to the leader's node; giving it or a place up has to publish the same.
    #[inline]
    pub(super) fn change(&self, from: Snapshot, to: u32) -> bool {
        self.word
            .compare_exchange(from.0, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Sets `flags`; says what stood before.
    #[inline]
    pub(super) fn set(&self, flags: u32) -> Snapshot {
        Snapshot(self.word.fetch_or(flags, Ordering::AcqRel))
    }

    /// Clears `flags`; says what stood before.
    #[inline]
    pub(super) fn clear(&self, flags: u32) -> Snapshot {
        Snapshot(self.word.fetch_and(!flags, Ordering::AcqRel))
    }

    /// One caller more, and with the first follower the request to poll anew; says what stood before, or nothing if
    /// the flight is done: nobody joins it then, whatever the map says. Under the lock that guards the flight's entry,
    /// so that no other caller writes the number, and a last one who leaves and cancels is seen, or sees us.
    #[inline]
    pub(super) fn join(&self) -> Option<Snapshot> {
        let now = self.load();
        if now.has(DONE) {
            return None;
        }
        self.joined.store(self.joined().wrapping_add(1), Ordering::Relaxed);
        if now.has(SHARED) {
            return Some(now);
        }
        Some(self.set(JOINED))
    }

    /// One caller fewer. Says how many there were, if the flight is done; after that it may be gone.
    #[inline]
    pub(super) fn leave(&self) -> u32 {
        self.word.fetch_sub(CALLER, Ordering::AcqRel) / CALLER
    }

    /// From `POLLING` to `DONE` in one step; says how many callers are left. The entry has left the map, so the number is
    /// final.
    #[inline]
    pub(super) fn finish(&self) -> u32 {
        self.finish_with(0)
    }

    /// As [`finish`](Self::finish), and one caller fewer.
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
