//! What the handles of a group share: the map, the policies and limits, and what is counted.

use super::drainers::Drainers;
use super::error::{Error, Limit};
use super::map::Map;
use super::stats::Counters;
use super::waits::Wait;
use crate::flight::{Anchor, Event, FlightRef, Policy, Seat};
use crate::identity::Fingerprint;
use crate::sync::{AtomicBool, AtomicUsize, Handle, current_runtime};
use std::sync::atomic::Ordering;

/// What is behind the handles of a group.
pub(super) struct Inner<K, T, S> {
    pub(super) map: Map<K, T>,
    pub(super) hasher: S,
    pub(super) settings: Settings,
    pub(super) closed: AtomicBool,
    /// The number of flights that have not landed. It is counted only if there is a limit.
    pub(super) flights: AtomicUsize,
    pub(super) counters: Counters,
    pub(super) drainers: Drainers,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) max_flights: Option<usize>,
    pub(super) max_callers: u32,
    pub(super) policy: Policy,
    pub(super) runtime: Option<Handle>,
}

impl<K, T, S> Inner<K, T, S> {
    pub(super) fn in_flight(&self) -> usize {
        // All locks at once, taken in one order, so that the number belongs to one moment.
        let shards: Vec<_> = self.map.shards().map(|shard| shard.lock()).collect();
        shards.iter().map(|shard| shard.len() + shard.forgotten).sum()
    }

    pub(super) fn told(&self, event: &Event) {
        self.counters.count(event);
        event.tell();
    }

    pub(super) fn runtime(&self) -> Option<Handle> {
        self.settings.runtime.clone().or_else(current_runtime)
    }

    pub(super) fn refuse(&self, error: Error) -> Error {
        self.counters.count_refused();
        error
    }

    /// Takes a place in `flight`, if the call may have one. To be called under the lock of the flight's shard; runs no user
    /// code.
    #[inline]
    pub(super) fn join(
        &self,
        flight: &FlightRef<K, T>,
        fingerprint: Option<&Fingerprint>,
        parent: &mut Option<Anchor>,
        wait: &mut Option<Box<Wait>>,
    ) -> Result<Seat<K, T>, Error> {
        if flight.fingerprint() != fingerprint {
            return Err(Error::Conflict);
        }
        if flight.attending() >= self.settings.max_callers {
            return Err(Error::Overloaded(Limit::Callers(self.settings.max_callers)));
        }
        if parent.is_some() {
            wait_for(flight, parent, wait)?;
        }
        // A flight has left the map before it is done, so there is a seat.
        flight.join().ok_or(Error::Aborted)
    }

    /// Checks whether a flight may begin, and counts it. To be called under the lock of its shard.
    pub(super) fn admit(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        let Some(limit) = self.settings.max_flights else {
            return Ok(());
        };
        let one_more = |flights| (flights < limit).then_some(flights + 1);
        match self
            .flights
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Overloaded(Limit::Flights(limit))),
        }
    }
}

/// Records that the flight whose work makes this call waits for `flight`.
#[cold]
fn wait_for<K, T>(
    flight: &FlightRef<K, T>,
    parent: &mut Option<Anchor>,
    wait: &mut Option<Box<Wait>>,
) -> Result<(), Error> {
    if let Some(parent) = parent.take() {
        let entered = Wait::enter(parent, flight.anchor());
        *wait = Some(entered.map_err(|_circle| Error::Reentrant)?);
    }
    Ok(())
}
