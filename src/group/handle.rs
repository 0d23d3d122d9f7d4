//! The handle of a group: its calls, and what else can be done with its flights.

use super::drain::Drain;
use super::hash::RandomState;
use super::inner::Inner;
use super::join::{Join, JoinOnly, Joining};
use super::key::{ByRef, Owned};
use super::run::{Call, LeadOrJoin, Run, Unproven};
use super::stats::Stats;
use crate::flight::KeyHash;
use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
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
/// Clones are handles to the same group. A group collapses what is in flight *now* and keeps no result. For calls that come
/// later, from another process, or after a crash, there is `Idempotency` (feature `durable`).
///
/// # Where the work runs
///
/// The work is polled in place, by the task of a caller, so it sees that task's locals. It should not rely on them: after a
/// hand-over, or deep inside other work, it is polled by another task. What the work creates in a runtime (timers, sockets)
/// stays bound to that runtime. Callers on several runtimes may share a group, but the work then needs the runtime that it
/// began on.
///
/// A caller on a thread that is in no runtime polls the work as well, and work that makes a timer or a socket there panics. Where
/// there are such callers, give the group a runtime ([`GroupBuilder::runtime`](crate::GroupBuilder::runtime)), which is then
/// around the work, or the work a task ([`Drive::Spawned`](crate::Drive::Spawned)).
///
/// # Stack
///
/// Flights may wait for each other in a chain of any length, with a runtime or without. What is polled, woken or ended on one
/// stack is at most sixteen deep ([`Drive::InPlace`](crate::Drive::InPlace) says how work below that is polled).
///
/// A result is kept in the flight, and cloned for all callers but one. As it is handed out, it is moved like the result of any
/// `async fn`. Without optimization that takes up to twenty times its size on the stack. Results of 64 KiB pass through a
/// thread with two megabytes of stack. A result that may be larger, or is expensive to clone, belongs in an [`Arc`].
pub struct Group<K, T, S = RandomState> {
    pub(super) inner: Arc<Inner<K, T, S>>,
}

impl<K, T, S> Group<K, T, S>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Runs `work` or, if the key is in flight, shares the result of the work that runs.
    ///
    /// Nothing happens before the future is first polled. That poll joins or leads. Only the leader's closure is called.
    /// The future can be given a fingerprint, and policies of its own, before it is awaited; see [`Run`].
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
    /// The future ends with an [`Error`](super::Error) if the work panics or is aborted, or if the call is refused. Each variant
    /// says when. Which of them can happen depends on the group's limits and on what else the program does. A plain group
    /// whose work does not panic and does not wait for itself has none.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the flight. If there is another caller, it goes on with the work from where the work stands;
    /// work is never begun anew. If there is none, [`OnAbandon`](crate::OnAbandon) says what happens.
    ///
    /// A call ends even if the runtime that the work was left to is not driven: a caller that is polled stands in, see
    /// [`Drive::Spawned`](crate::Drive::Spawned). The task on that runtime keeps a copy of the result until the runtime is
    /// driven or dropped.
    ///
    /// # Panics
    ///
    /// The future panics if it is polled again after it was ready. A panic in the key's `Hash` or `Eq` passes through to the
    /// code that polls the future, and nothing was begun then. So does a panic in the destructor of the key or the closure of
    /// a call that joins; the call has joined the flight then, as any other.
    pub fn run<F, W>(&self, key: K, work: F) -> Run<impl Unproven<Value = T, Proven = impl Call<Value = T>>>
    where
        F: FnOnce() -> W,
        W: Future<Output = T> + Send + 'static,
    {
        Run::new(LeadOrJoin::new(&self.inner, Owned(key), work))
    }

    /// Does the same as [`run`](Self::run) with a borrowed key, which is made an owned one only to lead.
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
        Run::new(LeadOrJoin::new(&self.inner, ByRef(key), work))
    }

    /// Shares the result of the work that runs for this key, if there is any. Begins no work.
    ///
    /// The future looks for a flight when it is first polled, and returns `None` if the key is not in flight then.
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
    /// As [`run`](Self::run): a call that joins is a caller like any other.
    pub fn join<'g, Q>(&'g self, key: &'g Q) -> Join<impl Joining<Value = T>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        Join::new(JoinOnly::new(&self.inner, key))
    }

    /// Takes the key's flight out of the map, so that later calls begin another one. Returns whether there was one.
    ///
    /// The flight itself goes on, and its callers get its result.
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

    /// Ends the key's flight without a result: its work is dropped, and its callers get
    /// [`Error::Aborted`](super::Error::Aborted). Returns whether there was a flight to end.
    ///
    /// Work that is being polled at this moment is dropped when that poll ends. If the poll finishes the work, the flight has
    /// its result after all.
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

    /// Returns the number of flights at this moment, forgotten ones that have not landed yet included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    /// Returns what the group has counted so far.
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

    /// Closes the group: it begins no new flights from now on, and calls that would begin one get
    /// [`Error::Closed`](super::Error::Closed). Flights that are under way go on and can be joined.
    ///
    /// A call that another thread makes at this very moment may still begin a flight. [`drain`](Self::drain) waits for it, and
    /// after that none begins any more.
    pub fn close(&self) {
        // Relaxed: a call that leads reads it under its shard's lock, which every look at what is in flight takes as well.
        self.inner.closed.store(true, Ordering::Relaxed);
    }

    /// Returns whether the group is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::Relaxed)
    }

    /// Waits until nothing is in flight: the work of every flight has ended and was dropped.
    ///
    /// On a group that is not [closed](Self::close), new flights may begin. The future is ready at a moment at which there is
    /// none.
    ///
    /// Work that was spawned or abandoned onto a current-thread runtime, while that runtime is not driven, is polled here,
    /// inside the runtime. Other flights are only waited for: those whose callers are alive and not polled, and those that
    /// were [forgotten](Self::forget) before they were abandoned.
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
    /// The future only waits, and can be dropped at any time. Awaited inside the group's own work, it waits for itself.
    pub fn drain(&self) -> Drain<'_, K, T, S> {
        Drain::new(&self.inner)
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
