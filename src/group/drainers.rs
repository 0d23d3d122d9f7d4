//! The drains that wait until nothing is in flight.
//!
//! A flight that has left the map looks for drains after it has released its shard's lock. A drain registers first and then
//! takes the lock of each shard. So one of the two sees the other.

use crate::sync::{AtomicBool, Mutex};
use crate::unwind::quietly;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// The drains that wait for the group to be idle.
#[derive(Debug)]
pub(super) struct Drainers {
    any: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    next: u64,
    wakers: Vec<(u64, Waker)>,
}

impl Drainers {
    pub(super) fn new() -> Self {
        Self {
            any: AtomicBool::new(false),
            waiting: Mutex::new(Waiting {
                next: 0,
                wakers: Vec::new(),
            }),
        }
    }

    /// Returns whether a drain waits. Relaxed: the shards' locks order it, see above.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    pub(super) fn wake_all(&self) {
        let wakers = std::mem::take(&mut self.waiting.lock().wakers);
        for (_, waker) in wakers {
            quietly(|| waker.wake());
        }
    }

    pub(super) fn register(&self, place: &mut Option<u64>, waker: &Waker) {
        let waker = waker.clone();
        let mut waiting = self.waiting.lock();
        self.any.store(true, Ordering::Relaxed);
        let id = *place.get_or_insert_with(|| {
            waiting.next += 1;
            waiting.next
        });
        let old = match waiting.wakers.iter_mut().find(|(other, _)| *other == id) {
            Some((_, old)) => Some(std::mem::replace(old, waker)),
            None => {
                waiting.wakers.push((id, waker));
                None
            }
        };
        drop(waiting);
        drop(old);
    }

    pub(super) fn leave(&self, id: u64) {
        let mut waiting = self.waiting.lock();
        let place = waiting.wakers.iter().position(|(other, _)| *other == id);
        let waker = place.map(|place| waiting.wakers.swap_remove(place));
        if waiting.wakers.is_empty() {
            self.any.store(false, Ordering::Relaxed);
        }
        drop(waiting);
        drop(waker);
    }
}
