//! The word that says where a flight stands, and who may do what.
//!
//! Nine flags and, above them, the number of callers. Every change is one read-modify-write, so a reader of the
//! word sees flags and callers that belong together.

use crate::sync::{AtomicU32, bug, load};
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
/// One of the callers is a task of ours, which alone polls the work.
pub(super) const TASK: u32 = 1 << 6;
/// When the last caller leaves, the work is dropped instead of spawned.
pub(super) const CANCEL_ON_ABANDON: u32 = 1 << 7;
/// The first follower asks for a poll with the flight's own waker.
pub(super) const REPOLL: u32 = 1 << 8;
/// One caller.
pub(super) const CALLER: u32 = 1 << 9;
/// The most callers that a flight can have. One place is kept for a task of ours.
pub(crate) const MAX_CALLERS: u32 = u32::MAX / CALLER - 1;

/// What the word said at one moment.
#[derive(Clone, Copy)]
pub(super) struct Snapshot(pub(super) u32);

impl Snapshot {
    pub(super) fn has(self, flags: u32) -> bool {
        self.0 & flags != 0
    }

    pub(super) fn callers(self) -> u32 {
        self.0 / CALLER
    }

    /// Callers that are not a task of ours.
    pub(super) fn attending(self) -> u32 {
        self.callers().saturating_sub(u32::from(self.has(TASK)))
    }
}

/// The word itself.
#[derive(Debug)]
pub(super) struct State(AtomicU32);

impl State {
    pub(super) fn new(flags: u32, callers: u32) -> Self {
        Self(AtomicU32::new(flags + callers * CALLER))
    }

    /// Acquire: whoever sees `DONE`, or that the others have left, sees what they wrote.
    #[inline]
    pub(super) fn load(&self) -> Snapshot {
        let order = if bug("relaxed-load") {
            Ordering::Relaxed
        } else {
            Ordering::Acquire
        };
        Snapshot(load(&self.0, order))
    }

    /// Changes `from` to `to`; false if the word is another by now.
    ///
    /// `AcqRel`: taking `POLLING` has to see what the last one who had it wrote to the slot and, while there were no
    /// followers, to the leader's node; giving it or a place up has to publish the same.
    #[inline]
    pub(super) fn change(&self, from: Snapshot, to: u32) -> bool {
        self.0
            .compare_exchange(from.0, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Sets `flags`; says what stood before.
    #[inline]
    pub(super) fn set(&self, flags: u32) -> Snapshot {
        Snapshot(self.0.fetch_or(flags, Ordering::AcqRel))
    }

    /// Clears `flags`; says what stood before.
    #[inline]
    pub(super) fn clear(&self, flags: u32) -> Snapshot {
        Snapshot(self.0.fetch_and(!flags, Ordering::AcqRel))
    }

    /// One caller more, and with the first follower the request to poll anew; says what stood before, or nothing if
    /// the flight is done: nobody joins it then, whatever the map says.
    #[inline]
    pub(super) fn join(&self) -> Option<Snapshot> {
        let mut now = self.load();
        loop {
            if now.has(DONE) {
                return None;
            }
            let first = if now.has(SHARED) { 0 } else { SHARED | REPOLL };
            if self.change(now, (now.0 | first) + CALLER) {
                return Some(now);
            }
            now = self.load();
        }
    }

    /// One caller fewer; says what stood before.
    #[inline]
    pub(super) fn leave(&self) -> Snapshot {
        let order = if bug("relaxed-leave") {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        };
        Snapshot(self.0.fetch_sub(CALLER, order))
    }

    /// From `POLLING` to `DONE` in one step; says what stood before, and how many callers are left.
    #[inline]
    pub(super) fn finish(&self) -> (Snapshot, u32) {
        let before = Snapshot(self.0.fetch_add(DONE - POLLING, Ordering::AcqRel));
        (before, before.callers())
    }

    /// As [`finish`](Self::finish), and one caller fewer.
    #[inline]
    pub(super) fn finish_and_leave(&self) -> (Snapshot, u32) {
        let before = Snapshot(self.0.fetch_sub(CALLER - (DONE - POLLING), Ordering::AcqRel));
        (before, before.callers() - 1)
    }
}
