//! The builder of a group.

use super::drainers::Drainers;
use super::handle::Group;
use super::hash::RandomState;
use super::inner::{Inner, Settings};
use super::map::Map;
use super::stats::Counters;
use crate::flight::{Drive, MAX_CALLERS, OnAbandon, Policy};
use crate::sync::{AtomicBool, AtomicUsize, Handle};
use std::fmt;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::num::NonZero;
use std::sync::Arc;

impl<K, T> Group<K, T> {
    /// Creates a group without limits, whose abandoned work is finished.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder for a group with limits or other policies.
    ///
    /// ```
    /// use oneflight::{Group, OnAbandon};
    ///
    /// let group: Group<u64, String> = Group::builder()
    ///     .max_flights(10_000)
    ///     .max_callers(1_000)
    ///     .on_abandon(OnAbandon::Cancel)
    ///     .build();
    /// # drop(group);
    /// ```
    pub fn builder() -> GroupBuilder<K, T> {
        GroupBuilder::new()
    }
}

impl<K, T> Default for Group<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Builds a [`Group`]; returned by [`Group::builder`].
#[must_use = "a builder makes no group before `build`"]
pub struct GroupBuilder<K, T, S = RandomState> {
    settings: Settings,
    hasher: S,
    shards: Option<usize>,
    _group: PhantomData<fn() -> (K, T)>,
}

impl<K, T> GroupBuilder<K, T> {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings {
                max_flights: None,
                max_callers: MAX_CALLERS,
                policy: Policy::default(),
                runtime: None,
            },
            hasher: RandomState::default(),
            shards: None,
            _group: PhantomData,
        }
    }
}

impl<K, T, S> GroupBuilder<K, T, S> {
    /// Limits the number of concurrent flights, forgotten ones included. Unlimited unless set.
    ///
    /// A call that would begin one more gets [`Overloaded`](super::Error::Overloaded) at once.
    pub fn max_flights(mut self, flights: usize) -> Self {
        self.settings.max_flights = Some(flights);
        self
    }

    /// Limits the number of concurrent callers of one flight, its leader included. 2,097,150 unless set, which is also the
    /// maximum.
    ///
    /// One caller more gets [`Overloaded`](super::Error::Overloaded) at once.
    pub fn max_callers(mut self, callers: u32) -> Self {
        self.settings.max_callers = callers.clamp(1, MAX_CALLERS);
        self
    }

    /// Sets what becomes of work that every caller has left. [`OnAbandon::Finish`] unless set. A call may override it.
    pub fn on_abandon(mut self, on_abandon: OnAbandon) -> Self {
        self.settings.policy.on_abandon = on_abandon;
        self
    }

    /// Sets which task polls the work. [`Drive::InPlace`] unless set. A call may override it.
    pub fn drive(mut self, drive: Drive) -> Self {
        self.settings.policy.drive = drive;
        self
    }

    /// Sets the runtime on which work is spawned, when its last caller is dropped or for [`Drive::Spawned`]. Unless set, that is
    /// the runtime in whose context the spawning happens.
    ///
    /// Set it if there may be no such runtime, or one that ends early or is not always driven. And set it if callers are polled on
    /// threads that are in no runtime, such as by an executor of another library: work that they poll then finds this runtime
    /// around it (`Handle::enter`), with its timers and sockets.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.settings.runtime = Some(runtime);
        self
    }

    /// Sets the hasher of keys; see [`RandomState`].
    pub fn hasher<H: BuildHasher>(self, hasher: H) -> GroupBuilder<K, T, H> {
        GroupBuilder {
            settings: self.settings,
            hasher,
            shards: self.shards,
            _group: PhantomData,
        }
    }

    /// Sets the number of separately locked parts of the map. Four for each processor unless set. The number is rounded up to a
    /// power of two, and is 65,536 at most.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Builds the group.
    #[must_use]
    pub fn build(self) -> Group<K, T, S> {
        let shards = self
            .shards
            .unwrap_or_else(|| 4 * std::thread::available_parallelism().map_or(1, NonZero::get));
        Group {
            inner: Arc::new(Inner {
                map: Map::new(shards),
                hasher: self.hasher,
                settings: self.settings,
                closed: AtomicBool::new(false),
                flights: AtomicUsize::new(0),
                counters: Counters::new(),
                drainers: Drainers::new(),
            }),
        }
    }
}

impl<K, T, S> fmt::Debug for GroupBuilder<K, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupBuilder")
            .field("settings", &self.settings)
            .field("shards", &self.shards)
            .finish_non_exhaustive()
    }
}
