//! Collapse within a process: the map of in-flight futures, and the futures handed to callers.
//!
//! A [`Group`] is a namespace of flights. It knows keys, policies and limits; how one flight is shared is the affair of
//! the flight module below it.

mod builder;
mod drain;
mod error;
mod hash;
mod join;
mod key;
mod map;
mod run;
mod stats;
mod try_run;
mod waits;

pub use self::builder::GroupBuilder;
pub use self::drain::Drain;
pub use self::error::{Error, Limit, TryError};
pub use self::hash::{Hasher, RandomState};
pub use self::join::{Join, Joining};
pub use self::run::{Call, Outcome, Role, Run, Unproven};
pub use self::stats::Stats;
pub use self::try_run::TryRun;

use self::drain::Drainers;
use self::join::JoinOnly;
use self::key::{ByRef, Owned};
use self::map::Map;
use self::run::LeadOrJoin;
use self::stats::Counters;
use crate::flight::{Caller, Drive, Event, FlightRef, Home, KeyHash, OnAbandon, Seat, Waking};
use crate::sync::{AtomicBool, AtomicUsize, Handle, bug, current_runtime, drives_itself, yield_now};
use crate::unwind::quietly;
use std::borrow::Borrow;
use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hash};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A namespace of flights: of all callers whose key is in flight, one runs the work and all get its result.
///
/// ```
/// use oneflight::Group;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), oneflight::FlightError> {
/// let orders: Group<String, u64> = Group::new();
///
/// // Two clicks on the same button: one order.
/// let place = || async {
///     tokio::task::yield_now().await; // … the database …
///     4711
/// };
/// let (first, second) = tokio::join!(
///     orders.run("cart-9".to_owned(), place),
///     orders.run("cart-9".to_owned(), place),
/// );
/// assert_eq!((first?.value, second?.value), (4711, 4711));
/// assert_eq!(orders.stats().led, 1);
/// # Ok(())
/// # }
/// ```
///
/// Clones are handles to the same group. A group collapses what is in flight *now*; it keeps no result. What must also
/// hold for the calls that come later, from elsewhere, or after a crash is the affair of `Idempotency` (feature `durable`).
///
/// # Where the work runs
///
/// The work is polled in place, by the task of a caller, so it sees that task's locals; after a hand-over, or deep inside
/// other work, it is polled by another task, so it should not rely on them. What the work made of a runtime (timers, sockets) stays bound to
/// that runtime: callers on several runtimes may share a group, but the work then needs the runtime that it began on.
///
/// # Stack
///
/// Flights may wait for each other in a chain of any length, with a runtime or without: what is polled, woken or ended on one
/// stack is at most sixteen deep ([`Drive::InPlace`] says who polls what is below that).
///
/// A result is kept in the flight, and cloned for all callers but one. Where it is handed out it is moved like the result of
/// any `async fn`; without optimization that takes up to twenty times its size on the stack. Results of 64 KiB pass through a
/// thread with two megabytes; what may be larger, or is dear to clone, belongs in an [`Arc`].
pub struct Group<K, T, S = RandomState> {
    inner: Arc<Inner<K, T, S>>,
}

struct Inner<K, T, S> {
    map: Map<K, T>,
    hasher: S,
    settings: Settings,
    closed: AtomicBool,
    /// Flights that have not landed; counted only where there is a limit.
    flights: AtomicUsize,
    counters: Counters,
    drainers: Drainers,
}

#[derive(Clone, Debug)]
struct Settings {
    max_flights: Option<usize>,
    max_callers: u32,
    on_abandon: OnAbandon,
    drive: Drive,
    runtime: Option<Handle>,
}

impl<K, T> Group<K, T> {
    /// A group without limits, whose abandoned work is finished.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Begins a group with limits or other policies.
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

impl<K, T, S> Group<K, T, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Runs `work`, or, if the key is in flight, shares the result of the work that runs.
    ///
    /// Nothing happens before the future is first polled; that poll joins or leads. Only the leader's closure is called.
    /// The future can be given a fingerprint, and policies of its own, before it is awaited: see [`Run`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), oneflight::FlightError> {
    /// use oneflight::{Group, Role};
    ///
    /// let group: Group<u32, String> = Group::new();
    /// let outcome = group.run(7, || async { "done".to_owned() }).await?;
    /// assert_eq!((outcome.value.as_str(), outcome.role), ("done", Role::Leader));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The future ends with an [`Error`] if the work panics or is aborted, or if the call is refused; each variant says
    /// when. Which of them can happen depends on the group's limits and on what else the program does; a plain
    /// group whose work does not panic and does not wait for itself has none.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the flight. If another caller is there, he goes on with the work from where it stands;
    /// it is never begun anew. If nobody is, [`OnAbandon`] says what happens.
    ///
    /// A call ends although the runtime that the work was left to is not driven: whoever is polled stands in, see
    /// [`Drive::Spawned`]. What was left to that runtime keeps a copy of the result until it is driven or dropped.
    ///
    /// # Panics
    ///
    /// The future panics if it is polled again after it was ready. A panic in the key's `Hash` or `Eq` passes through
    /// to this caller; nothing was begun then. So does a panic in the destructor of the key or the closure of a call that
    /// joins; he is a caller of the flight then, as any other.
    pub fn run<F, W>(&self, key: K, work: F) -> Run<impl Unproven<Value = T, Proven = impl Call<Value = T>>>
    where
        F: FnOnce() -> W,
        W: Future<Output = T> + Send + 'static,
    {
        Run::new(LeadOrJoin::new(self, Owned(key), work))
    }

    /// [`run`](Self::run) with a borrowed key, which is made an owned one only to lead.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), oneflight::FlightError> {
    /// use oneflight::Group;
    ///
    /// let group: Group<String, usize> = Group::new();
    /// assert_eq!(group.run_by_ref("a key", || async { 1 }).await?.value, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run); a panic of `to_owned` passes through as well.
    pub fn run_by_ref<'g, Q, F, W>(
        &'g self,
        key: &'g Q,
        work: F,
    ) -> Run<impl Unproven<Value = T, Proven = impl Call<Value = T>>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
        F: FnOnce() -> W,
        W: Future<Output = T> + Send + 'static,
    {
        Run::new(LeadOrJoin::new(self, ByRef(key), work))
    }

    /// Shares the result of the work that runs for this key, if any does; begins none.
    ///
    /// The future looks when it is first polled, and is `None` if the key is not in flight then.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use oneflight::Group;
    ///
    /// let group: Group<String, usize> = Group::new();
    /// assert!(group.join("a key").await.is_none());
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run): whoever joins is a caller like any other.
    pub fn join<'g, Q>(&'g self, key: &'g Q) -> Join<impl Joining<Value = T>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        Join::new(JoinOnly::new(self, key))
    }

    /// Takes the key's flight out of the map: later calls begin another one. The flight itself, and its callers, are
    /// not touched. Says whether there was one.
    pub fn forget<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let inner = &*self.inner;
        let hash = KeyHash::of(inner.hasher.hash_one(key));
        let forgotten = {
            let mut shard = inner.map.shard(hash).lock();
            let removed = shard.remove(hash, |flight| flight.key().borrow() == key);
            shard.forgotten += usize::from(removed.is_some());
            removed
        };
        forgotten.is_some()
    }

    /// Ends the key's flight without a result: its work is dropped and its callers get [`Error::Aborted`]. Says whether
    /// there was a flight to end.
    ///
    /// Work that is being polled at this moment is dropped when that poll ends; if the poll finishes the work, the
    /// flight has its result after all.
    pub fn abort<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = KeyHash::of(self.inner.hasher.hash_one(key));
        let found = {
            let shard = self.inner.map.shard(hash).lock();
            shard.find(hash, |own| own.borrow() == key).cloned()
        };
        found.is_some_and(|flight| flight.abort(&&self.inner))
    }

    /// How many flights there are at this moment, forgotten ones that have not landed yet included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    /// What the group has counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.inner.counters.read();
        for shard in self.inner.map.shards() {
            let shard = shard.lock();
            stats.led += shard.led;
            stats.joined += shard.joined;
        }
        stats
    }

    /// Begins no new flights from now on: such calls get [`Error::Closed`]. What is in flight goes on and can be joined.
    ///
    /// A call that another thread makes at this very moment may still begin one; [`drain`](Self::drain) waits for that,
    /// and when it is over, none begins any more.
    pub fn close(&self) {
        // Relaxed: whoever leads looks at it under his shard's lock, which every look at what is in flight takes as well.
        self.inner.closed.store(true, Ordering::Relaxed);
    }

    /// Whether the group is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Relaxed)
    }

    /// Waits until nothing is in flight: the work of every flight has ended and was dropped.
    ///
    /// On a group that is not [closed](Self::close) new flights may begin, and it ends at a moment at which there is none.
    ///
    /// Work that was spawned or abandoned onto a current-thread runtime which nobody drives is polled here, inside that
    /// runtime. It stands in for nobody else: a flight whose callers are alive and not polled is only waited for, and so is
    /// one that was [forgotten](Self::forget) before it was abandoned.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use oneflight::Group;
    ///
    /// let group: Group<u32, ()> = Group::new();
    /// // … serve … then, to shut down:
    /// group.close();
    /// group.drain().await;
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// It only waits and can be dropped at any time. Called from inside the group's own work, it waits for itself.
    pub fn drain(&self) -> Drain<'_, K, T, S> {
        Drain::new(self)
    }
}

impl<K, T, S> Inner<K, T, S> {
    fn in_flight(&self) -> usize {
        // All locks at once, in one order: the figure belongs to one moment.
        let shards: Vec<_> = self.map.shards().map(|shard| shard.lock()).collect();
        shards.iter().map(|shard| shard.len() + shard.forgotten).sum()
    }

    fn told(&self, event: &Event) {
        self.counters.count(event);
        event.tell();
    }

    fn runtime(&self) -> Option<Handle> {
        self.settings.runtime.clone().or_else(current_runtime)
    }

    fn refuse(&self, error: Error) -> Error {
        self.counters.count_refused();
        error
    }
}

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
            let removed = shard.remove(flight.hash(), |other| other.is(flight) || bug("remove-any"));
            shard.forgotten -= usize::from(removed.is_none() && !bug("panic-keeps-entry"));
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
        if !steady && self.drainers.any() && !bug("drain-asleep") {
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
type Borrowed<'g, K, T, S> = &'g Arc<Inner<K, T, S>>;

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

impl<K, T, S> Clone for Group<K, T, S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<K, T, S> fmt::Debug for Group<K, T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("in_flight", &self.inner.in_flight())
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}
