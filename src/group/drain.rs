//! Waiting until nothing is in flight.
//!
//! A flight that has left the map looks whether anybody drains only after it has let go of its shard's lock; who
//! drains says so first and then takes the lock of each shard. So one of the two sees the other.
//!
//! Abandoned and spawned work is polled by tasks. Where such a task may not be polled, because its runtime may not be
//! driven, a drain stands by for it, with a [`Helper`] for each.

use super::{Group, Inner};
use crate::flight::Helper;
use crate::sync::{AtomicBool, Mutex, bug};
use crate::unwind::quietly;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

/// Those who wait for the group to be idle.
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

    /// Whether anybody waits. Relaxed: the shards' locks order it, see above.
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

    fn register(&self, place: &mut Option<u64>, waker: &Waker) {
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

    fn leave(&self, id: u64) {
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

/// The future of [`Group::drain`].
#[must_use = "futures do nothing unless polled"]
pub struct Drain<'g, K, T, S> {
    group: &'g Group<K, T, S>,
    place: Option<u64>,
    /// By the addresses of their flights.
    helpers: HashMap<usize, Pin<Box<Helper<K, T>>>>,
    /// [`help_out`](Self::help_out), from where its bounds are known: the future itself has none, because the compiler forgets
    /// lifetimes, and with them what holds for `'static` alone, where it looks whether an `async` block is `Send`.
    help: fn(&mut Self, &mut Context<'_>),
}

impl<K, T, S> Drain<'_, K, T, S> {
    fn inner(&self) -> &Inner<K, T, S> {
        &self.group.inner
    }
}

impl<'g, K, T, S> Drain<'g, K, T, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    pub(super) fn new(group: &'g Group<K, T, S>) -> Self {
        Self {
            group,
            place: None,
            helpers: HashMap::new(),
            help: Self::help_out,
        }
    }

    /// Stands by for tasks that may not be polled.
    fn help_out(&mut self, cx: &mut Context<'_>) {
        for shard in self.group.inner.map.shards() {
            let left: Vec<_> = {
                let shard = shard.lock();
                let left = shard.flights().filter(|flight| flight.may_need_help());
                left.cloned().collect()
            };
            for flight in left {
                self.helpers
                    .entry(flight.id())
                    .or_insert_with(|| Box::pin(Helper::new(flight)));
            }
        }
        // As a task of ours, nobody is behind a helper.
        let home = &self.group.inner;
        self.helpers
            .retain(|_, helper| helper.as_mut().poll(home, cx).is_pending());
    }
}

impl<K, T, S> Future for Drain<'_, K, T, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if bug("look-before-registering") && self.inner().in_flight() == 0 {
            return Poll::Ready(());
        }
        let mut place = self.place;
        self.inner().drainers.register(&mut place, cx.waker());
        self.place = place;
        (self.help)(&mut self, cx);
        if self.inner().in_flight() == 0 && !bug("look-before-registering") {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<K, T, S> Drop for Drain<'_, K, T, S> {
    fn drop(&mut self) {
        if let Some(id) = self.place {
            self.inner().drainers.leave(id);
        }
    }
}

impl<K, T, S> fmt::Debug for Drain<'_, K, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}
