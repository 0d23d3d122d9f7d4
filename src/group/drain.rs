//! Waiting until nothing is in flight.
//!
//! Abandoned and spawned work is polled by tasks. A task may not be polled, because its runtime may not be driven. For each
//! such task, a drain stands by with a [`Helper`].

use super::inner::Inner;
use crate::flight::Helper;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The future of [`Group::drain`](super::Group::drain).
#[must_use = "futures do nothing unless polled"]
pub struct Drain<'g, K, T, S> {
    group: &'g Arc<Inner<K, T, S>>,
    place: Option<u64>,
    /// Helpers, by the addresses of their flights.
    helpers: HashMap<usize, Pin<Box<Helper<K, T>>>>,
    /// [`help_out`](Self::help_out), taken where its bounds are known. The future itself has none: where the compiler checks
    /// whether an `async` block is `Send` it has erased the lifetimes, so a bound with `'static` would not hold.
    help: fn(&mut Self, &mut Context<'_>),
}

impl<'g, K, T, S> Drain<'g, K, T, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    pub(super) fn new(group: &'g Arc<Inner<K, T, S>>) -> Self {
        Self {
            group,
            place: None,
            helpers: HashMap::new(),
            help: Self::help_out,
        }
    }

    /// Stands by for tasks that may not be polled.
    fn help_out(&mut self, cx: &mut Context<'_>) {
        for shard in self.group.map.shards() {
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
        // The home of a task: no user is behind a helper either.
        let home = self.group;
        self.helpers
            .retain(|_, helper| helper.as_mut().poll(home, cx).is_pending());
    }
}

impl<K, T, S> Future for Drain<'_, K, T, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut place = self.place;
        self.group.drainers.register(&mut place, cx.waker());
        self.place = place;
        (self.help)(&mut self, cx);
        if self.group.in_flight() == 0 {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<K, T, S> Drop for Drain<'_, K, T, S> {
    fn drop(&mut self) {
        if let Some(id) = self.place {
            self.group.drainers.leave(id);
        }
    }
}

impl<K, T, S> fmt::Debug for Drain<'_, K, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}
