//! The group as the home of its flights.

use super::inner::Inner;
use crate::flight::{Caller, Event, FlightRef, Home, Seat, Waking};
use crate::sync::{Handle, current_runtime, drives_itself, spawn_for_any_worker, yield_now};
use crate::unwind::quietly;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hash};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How a caller holds its group.
pub(super) trait Held {
    type Group;
    /// Whether such callers are tasks of the group.
    const TASK: bool;

    fn group(&self) -> &Arc<Self::Group>;
}

/// A user's call borrows its group.
pub(super) type Borrowed<'g, K, T, S> = &'g Arc<Inner<K, T, S>>;

impl<G> Held for &Arc<G> {
    type Group = G;
    const TASK: bool = false;

    fn group(&self) -> &Arc<G> {
        self
    }
}

/// A task keeps its group alive, since it may outlive every handle.
impl<G> Held for Arc<G> {
    type Group = G;
    const TASK: bool = true;

    fn group(&self) -> &Arc<G> {
        self
    }
}

impl<K, T, S, H> Home<K, T> for H
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
    H: Held<Group = Inner<K, T, S>>,
{
    const TASK: bool = H::TASK;

    #[inline]
    fn vacate(&self, flight: &FlightRef<K, T>) -> Option<FlightRef<K, T>> {
        let group = self.group();
        let (removed, runtime) = {
            let mut shard = group.map.shard(flight.hash()).lock();
            let removed = shard.remove(flight.hash(), |other| other.is(flight));
            shard.forgotten -= usize::from(removed.is_none());
            let runtime = match shard.runtimes.is_empty() {
                true => None,
                false => shard.runtimes.remove(&flight.id()),
            };
            if H::TASK && flight.is_unattended() {
                // Under the lock: the flight is not joined meanwhile, and a thread that sees that it has gone sees this count.
                group.counters.count_finished_unattended();
            }
            (removed, runtime)
        };
        quietly(|| drop(runtime));
        if group.settings.max_flights.is_some() {
            group.flights.fetch_sub(1, Ordering::Relaxed);
        }
        if group.drainers.any() && group.in_flight() == 0 {
            group.drainers.wake_all();
        }
        removed
    }

    fn while_nobody_joins<R>(&self, flight: &FlightRef<K, T>, act: impl FnOnce() -> R) -> R {
        let _shard = self.group().map.shard(flight.hash()).lock();
        act()
    }

    fn note(&self, event: Event) {
        self.group().told(&event);
    }

    fn wake_rest(&self, mut rest: Waking<K, T>, runtime: &Handle) {
        let task = async move {
            while rest.wake_due() {
                yield_now().await;
            }
        };
        spawn_for_any_worker(runtime, task);
    }

    fn runtime(&self) -> Option<Handle> {
        Inner::runtime(self.group())
    }

    fn attend(&self, flight: &FlightRef<K, T>, runtime: Handle, seat: Seat<K, T>, takes_off: bool) {
        let group = self.group();
        let steady = drives_itself(&runtime);
        if !(steady && takes_off) {
            let mut shard = group.map.shard(flight.hash()).lock();
            let before = match steady {
                // The runtime of an earlier task, which went with it.
                true => shard.runtimes.remove(&flight.id()),
                // A flight that takes off cannot have landed, although it may be forgotten by now.
                false if takes_off || shard.lists(flight) => shard.runtimes.insert(flight.id(), runtime.clone()),
                false => None,
            };
            drop(shard);
            drop(before);
        }
        if !steady && group.drainers.any() {
            // Drains stand by for the task.
            group.drainers.wake_all();
        }
        let caller = Caller::new(Arc::clone(group));
        caller.sit(seat);
        // The result belongs to the callers.
        runtime.spawn(async move {
            let caller = pin!(caller);
            poll_fn(move |cx| caller.as_ref().poll(cx).map(drop)).await;
        });
    }

    fn runtime_of(&self, flight: &FlightRef<K, T>) -> Option<Handle> {
        let shard = self.group().map.shard(flight.hash()).lock();
        shard.runtimes.get(&flight.id()).cloned()
    }

    #[inline]
    fn around(&self) -> Option<Handle> {
        let own = self.group().settings.runtime.as_ref()?;
        current_runtime().is_none().then(|| own.clone())
    }

    fn ends_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnOnce()> {
        let group = Arc::clone(self.group());
        Box::new(move || flight.end_if_idle(&group))
    }

    fn polls_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnMut() -> bool> {
        let group = Arc::clone(self.group());
        // By then, the poll of the outer work may have left the runtime that is current now.
        let around = current_runtime();
        Box::new(move || flight.poll_if_called_for(&group, around.as_ref()))
    }
}
