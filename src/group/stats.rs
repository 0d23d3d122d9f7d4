//! What a group counts.

use crate::flight::Event;
use crate::sync::AtomicU64;
use std::sync::atomic::Ordering;

/// What a group has counted since it was made; [`Group::stats`](super::Group::stats) reads it.
///
/// Each call counts once: `led + joined + refused` is the number of calls, once all of them are over. A call is a future of
/// [`run`](super::Group::run) or its siblings that was polled, unless its key panicked, or a future of
/// [`join`](super::Group::join) that did not end with `None`.
///
/// What becomes of a flight is counted before the end of the flight can be seen. So the figures are final when
/// [`drain`](super::Group::drain) and all calls are over. They are read one after the other, so while calls run they may not
/// belong to one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// The number of flights begun, that is, of executions.
    pub led: u64,
    /// The number of calls that joined a flight.
    ///
    /// A call may find a flight whose work is to be dropped already. It counts when it is known what becomes of it: here if it
    /// gets a result or a panic after all, or leaves before that; otherwise by what happens when it is made again.
    pub joined: u64,
    /// How often another caller went on with the work of a driver that had left.
    pub handed_over: u64,
    /// How often another caller went on with the work of a driver that was there, but not polled.
    pub taken_over: u64,
    /// How often every caller left before the flight had landed, and the work went on as a task.
    pub abandoned: u64,
    /// The number of flights that landed in a task, with no caller there as they left the map.
    pub finished_unattended: u64,
    /// The number of flights whose work was dropped because every caller had left, by policy or for want of a runtime.
    pub cancelled: u64,
    /// The number of flights that were aborted.
    pub aborted: u64,
    /// The number of flights whose work panicked.
    pub panicked: u64,
    /// The number of calls that were refused: closed, overloaded, in conflict, re-entrant or without a runtime.
    pub refused: u64,
}

/// The counters of what happens rarely. The others are kept in the shards.
#[derive(Debug)]
pub(super) struct Counters {
    /// Calls that joined a flight whose work was to be dropped already. Other joins are counted in the shards.
    joined_late: AtomicU64,
    handed_over: AtomicU64,
    taken_over: AtomicU64,
    abandoned: AtomicU64,
    finished_unattended: AtomicU64,
    cancelled: AtomicU64,
    aborted: AtomicU64,
    panicked: AtomicU64,
    refused: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            joined_late: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            taken_over: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            finished_unattended: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(super) fn count(&self, event: &Event) {
        let counter = match event {
            Event::HandedOver => &self.handed_over,
            Event::TakenOver => &self.taken_over,
            Event::Abandoned => &self.abandoned,
            Event::Cancelled => &self.cancelled,
            Event::Aborted => &self.aborted,
            Event::Panicked(_) => &self.panicked,
            Event::Unspawnable => return,
        };
        // Relaxed: a counter guards nothing.
        counter.fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    pub(super) fn count_joined_late(&self) {
        self.joined_late.fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    pub(super) fn count_finished_unattended(&self) {
        self.finished_unattended.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            led: 0,
            joined: read(&self.joined_late),
            handed_over: read(&self.handed_over),
            taken_over: read(&self.taken_over),
            abandoned: read(&self.abandoned),
            finished_unattended: read(&self.finished_unattended),
            cancelled: read(&self.cancelled),
            aborted: read(&self.aborted),
            panicked: read(&self.panicked),
            refused: read(&self.refused),
        }
    }
}
