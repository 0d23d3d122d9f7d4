//! The group as the home of its flights.

use super::inner::Inner;
use crate::flight::{Caller, Event, FlightRef, Home, Seat, Waking};
use crate::sync::{Handle, current_runtime, drives_itself, yield_now};
use crate::unwind::quietly;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hash};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl<K, T, S> Inner<K, T, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    #[inline]
    fn vacate(&self, flight: &FlightRef<K, T>, by_task: bool) -> Option<FlightRef<K, T>> {
        let (removed, runtime) = {
            let mut shard = self.map.shard(flight.hash()).lock();
            let removed = shard.remove(flight.hash(), |other| other.is(flight));
            shard.forgotten -= usize::from(removed.is_none());
            let runtime = match shard.runtimes.is_empty() {
                true => None,
                false => shard.runtimes.remove(&flight.id()),
            };
            if by_task && flight.is_unattended() {
                // Under the lock: nobody joins meanwhile, and whoever sees that the flight has gone sees this.
                self.counters.count_finished_unattended();
            }
            (removed, runtime)
        };
        quietly(|| drop(runtime));
        if self.settings.max_flights.is_some() {
            self.flights.fetch_sub(1, Ordering::Relaxed);
        }
        if self.drainers.any() && self.in_flight() == 0 {
            self.drainers.wake_all();
        }
        removed
    }

    fn while_nobody_joins<R>(&self, flight: &FlightRef<K, T>, act: impl FnOnce() -> R) -> R {
        let _shard = self.map.shard(flight.hash()).lock();
        act()
    }

    fn runtime_of(&self, flight: &FlightRef<K, T>) -> Option<Handle> {
        self.map.shard(flight.hash()).lock().runtimes.get(&flight.id()).cloned()
    }

    fn wake_rest(&self, rest: Waking<K, T>) {
        if let Some(runtime) = self.runtime() {
            runtime.spawn(async move {
                while rest.wake_round() {
                    yield_now().await;
                }
            });
        }
    }

    fn ends_later(self: &Arc<Self>, flight: FlightRef<K, T>) -> Box<dyn FnOnce()> {
        let inner = Arc::clone(self);
        Box::new(move || flight.end_if_idle(&inner))
    }

    fn polls_later(self: &Arc<Self>, flight: FlightRef<K, T>) -> Box<dyn FnMut() -> bool> {
        let inner = Arc::clone(self);
        // By then, whoever polls the work above may have left the runtime that it polls that inside.
        let around = current_runtime();
        Box::new(move || flight.poll_if_called_for(&inner, around.as_ref()))
    }

    fn attend(self: &Arc<Self>, flight: &FlightRef<K, T>, runtime: Handle, seat: Seat<K, T>, takes_off: bool) {
        let steady = drives_itself(&runtime);
        if !(steady && takes_off) {
            let mut shard = self.map.shard(flight.hash()).lock();
            let before = match steady {
                // Of a task that went with its runtime.
                true => shard.runtimes.remove(&flight.id()),
                // What takes off cannot have landed, although it may be forgotten by now.
                false if takes_off || shard.lists(flight) => shard.runtimes.insert(flight.id(), runtime.clone()),
                false => None,
            };
            drop(shard);
            drop(before);
        }
        if !steady && self.drainers.any() {
            // Whoever drains stands by for the task.
            self.drainers.wake_all();
        }
        let caller = Caller::new(Arc::clone(self));
        caller.sit(seat);
        // The result is the callers'.
        runtime.spawn(async move {
            let caller = pin!(caller);
            poll_fn(move |cx| caller.as_ref().poll(cx).map(drop)).await;
        });
    }
}

/// The group as a caller's home: he borrows it.
pub(super) type Borrowed<'g, K, T, S> = &'g Arc<Inner<K, T, S>>;

impl<K, T, S> Home<K, T> for Borrowed<'_, K, T, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    const TASK: bool = false;

    fn vacate(&self, flight: &FlightRef<K, T>) -> Option<FlightRef<K, T>> {
        Inner::vacate(self, flight, Self::TASK)
    }

    fn while_nobody_joins<R>(&self, flight: &FlightRef<K, T>, act: impl FnOnce() -> R) -> R {
        Inner::while_nobody_joins(self, flight, act)
    }

    fn note(&self, event: Event) {
        self.told(&event);
    }

    fn wake_rest(&self, rest: Waking<K, T>) {
        Inner::wake_rest(self, rest);
    }

    fn runtime(&self) -> Option<Handle> {
        Inner::runtime(self)
    }

    fn attend(&self, flight: &FlightRef<K, T>, runtime: Handle, seat: Seat<K, T>, takes_off: bool) {
        Inner::attend(self, flight, runtime, seat, takes_off);
    }

    fn runtime_of(&self, flight: &FlightRef<K, T>) -> Option<Handle> {
        Inner::runtime_of(self, flight)
    }

    fn ends_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnOnce()> {
        Inner::ends_later(self, flight)
    }

    fn polls_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnMut() -> bool> {
        Inner::polls_later(self, flight)
    }
}

/// An attendant keeps the group alive, since his task may outlive every handle.
impl<K, T, S> Home<K, T> for Arc<Inner<K, T, S>>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    const TASK: bool = true;

    fn vacate(&self, flight: &FlightRef<K, T>) -> Option<FlightRef<K, T>> {
        Inner::vacate(self, flight, Self::TASK)
    }

    fn while_nobody_joins<R>(&self, flight: &FlightRef<K, T>, act: impl FnOnce() -> R) -> R {
        Inner::while_nobody_joins(self, flight, act)
    }

    fn note(&self, event: Event) {
        self.told(&event);
    }

    fn wake_rest(&self, rest: Waking<K, T>) {
        Inner::wake_rest(self, rest);
    }

    fn runtime(&self) -> Option<Handle> {
        Inner::runtime(self)
    }

    fn attend(&self, flight: &FlightRef<K, T>, runtime: Handle, seat: Seat<K, T>, takes_off: bool) {
        Inner::attend(self, flight, runtime, seat, takes_off);
    }

    fn runtime_of(&self, flight: &FlightRef<K, T>) -> Option<Handle> {
        Inner::runtime_of(self, flight)
    }

    fn ends_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnOnce()> {
        Inner::ends_later(self, flight)
    }

    fn polls_later(&self, flight: FlightRef<K, T>) -> Box<dyn FnMut() -> bool> {
        Inner::polls_later(self, flight)
    }
}
