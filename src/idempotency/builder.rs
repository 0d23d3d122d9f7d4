//! The settings of an [`Idempotency`].

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::codec::{Format, Json, Sizes};
use super::later::Later;
use super::missing::MissingFingerprint;
use super::progress::Flights;
use super::purge::Purging;
use super::recovery::Recovery;
use super::run::Idempotency;
use super::shared::Shared;
use crate::flight::{Drive, OnAbandon};
use crate::group::Group;
use crate::store::Store;
use crate::telemetry;

/// Sets up an [`Idempotency`]. Made by [`Idempotency::builder`].
#[derive(Debug)]
#[must_use = "call `build`"]
pub struct IdempotencyBuilder<S, C = Json> {
    store: S,
    codec: C,
    settings: Settings,
}

#[derive(Debug)]
struct Settings {
    retention: Duration,
    lease: Duration,
    wait: Duration,
    store_patience: Duration,
    settle: Option<Duration>,
    missing_fingerprint: MissingFingerprint,
    recovery: Recovery,
    sizes: Sizes,
    conflict_retries: u32,
    max_flights: Option<usize>,
    max_callers: Option<u32>,
    runtime: Option<Handle>,
    drive: Drive,
    on_abandon: OnAbandon,
    purge_every: Option<Duration>,
}

impl<S: Store> Idempotency<S> {
    /// Returns a builder for an [`Idempotency`] over this store.
    pub fn builder(store: S) -> IdempotencyBuilder<S> {
        IdempotencyBuilder::new(store)
    }
}

impl<S: Store> IdempotencyBuilder<S> {
    fn new(store: S) -> Self {
        let settings = Settings {
            retention: Duration::from_secs(24 * 60 * 60),
            lease: Duration::from_secs(10),
            wait: Duration::from_secs(15),
            store_patience: Duration::MAX,
            settle: None,
            missing_fingerprint: MissingFingerprint::default(),
            recovery: Recovery::Hold,
            sizes: Sizes {
                most: 256 * 1024,
                plain: usize::MAX,
            },
            conflict_retries: 5,
            max_flights: None,
            max_callers: None,
            runtime: None,
            drive: Drive::Spawned,
            on_abandon: OnAbandon::Finish,
            purge_every: None,
        };
        Self {
            store,
            codec: Json,
            settings,
        }
    }
}

impl<S: Store, C: Format> IdempotencyBuilder<S, C> {
    /// Sets the codec that writes and reads results. The default is [`Json`]; [`Codec`](super::Codec) has an example
    /// that encrypts.
    ///
    /// A result that was recorded under another codec's name cannot be read: the call fails with
    /// [`CodecError::Foreign`](super::CodecError::Foreign), and the work is not executed again. So a codec that
    /// replaces another one must read that one's results as well, by [`decode_foreign`](super::Codec::decode_foreign),
    /// until a [retention](Self::retention) has passed since the last process of the version before ended.
    pub fn codec<D: Format>(self, codec: D) -> IdempotencyBuilder<S, D> {
        IdempotencyBuilder {
            store: self.store,
            codec,
            settings: self.settings,
        }
    }

    /// Sets how long a completed request is replayed. The default is 24 hours.
    ///
    /// The time counts from the completion of the request, on the store's clock. After it the identity is **new**: a
    /// retry that comes later executes again, whether or not the record was purged. So the retention must be longer
    /// than the longest time over which a client retries.
    ///
    /// A request that is in progress or in doubt is kept until it is settled, however long that takes.
    ///
    /// A record that is past its retention takes up space until [`Store::purge`] deletes it: see
    /// [`purge_every`](Self::purge_every). Calls that need another retention use
    /// [`with_retention`](Idempotency::with_retention).
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention;
        self
    }

    /// Sets how long the holder of a claim counts as alive after its last renewal. The default is 10 s, the minimum 1
    /// ms.
    ///
    /// The lease is how long others wait after a process has died. It does not limit the work: while the work runs, the
    /// claim is renewed three times per lease. Work in a transaction needs no lease.
    ///
    /// A task renews the claim on the runtime on which the work began. If that runtime is shut down or does not run,
    /// the claim is renewed where the work is polled. If neither is possible, or if the store cannot be reached for as
    /// long as the lease, the lease is lost, and the work [can see that](super::Context::is_lease_lost).
    ///
    /// Choose a lease that is
    ///
    /// * several times longer than the store may take to answer: work is not begun under a lease that is over;
    /// * longer than the stops that a store or a machine of yours makes now and then (a failover, a migration of the
    ///   virtual machine): a holder that is held up for longer may be taken for dead;
    /// * shorter than the [`wait`](Self::wait), by a second or more.
    ///
    /// The default is between these: it outlasts the short stops, and a call that waits for a dead holder still answers
    /// within the 30 s that many clients and proxies give a request.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_millis(1));
        self
    }

    /// Sets how long a call waits before the work begins. The default is 15 s.
    ///
    /// A call waits for a request that is in progress elsewhere, and fails with
    /// [`InProgress`](super::ErrorKind::InProgress) at the end of the wait. It also waits for a store that does not
    /// answer, and fails with [`Store`](super::ErrorKind::Store) then.
    ///
    /// The wait should be longer than the [lease](Self::lease) and than the time to [settle](Self::settle): a duplicate
    /// that comes after a crash then sees the end of the dead holder's lease, and gets an answer. It should be shorter
    /// than a client waits, by as long as the work takes.
    ///
    /// Each caller has a wait of its own, whichever callers it shares a flight with: a flight on its way to a claim
    /// goes on as long as one of its callers waits. A store that has not answered at all is waited for half a second
    /// longer than this, and a second and a half at least.
    ///
    /// Callers in this process that join work which already runs wait for as long as it takes.
    ///
    /// SQLite cannot show a request that another process executes in a transaction. There a call waits for the lock
    /// that this transaction holds: for as long as this, and a second at least, since the lock may be another
    /// request's. After that it fails with [`Store`](super::ErrorKind::Store) and
    /// [`Busy`](crate::store::StoreError::Busy).
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// Limits how long a call that asks for a claim waits for a store that does not answer. Without this, that is as long as its
    /// [`wait`](Self::wait), which is meant for a request in progress elsewhere and may be long.
    ///
    /// At the end of this time the call fails with [`Store`](super::ErrorKind::Store). A claim that may have been granted
    /// meanwhile is given back, for which the call waits up to a second more. A lock of the store's that others hold is not
    /// waited for longer than this either.
    ///
    /// ```
    /// use oneflight::{Idempotency, MemoryStore};
    /// use std::time::Duration;
    ///
    /// // A duplicate waits a minute for the answer, and nobody waits that long for a database that is away.
    /// let idem = Idempotency::builder(MemoryStore::new())
    ///     .wait(Duration::from_secs(60))
    ///     .store_patience(Duration::from_secs(4))
    ///     .build();
    /// # let _ = idem;
    /// ```
    pub fn store_patience(mut self, patience: Duration) -> Self {
        self.settings.store_patience = patience;
        self
    }

    /// Sets how long the [recovery policy](Self::recovery) waits after an execution ended without telling what it did.
    /// The default is one [lease](Self::lease).
    ///
    /// Such an execution panicked, or said that it [does not know](super::Unknown). What it called may still be at
    /// work: a request that was cut off by a time-out may land later. A policy that looks before that finds nothing,
    /// and has the work run once more. So set this to the time after which nothing can land any more, by the limits of
    /// what the work calls. Until then the request is [in progress](super::ErrorKind::InProgress) to every other call.
    ///
    /// [`Duration::ZERO`] asks the policy at once. That is right where everything that the work calls knows its
    /// [keys](super::Context::downstream_key) again, or has ended when the work ends.
    ///
    /// This time does not apply when a process dies. Then the policy is asked when the lease ends, of which two thirds
    /// at least are left: let those be as long.
    ///
    /// [`Recovery::Hold`] asks nothing. There the request is in doubt at once, unless this is set. Set it there as well
    /// before a process with another policy may meet what this one left: in a fleet whose processes differ, and in the
    /// version before the one that has another policy. The time is kept with the request, by the process that did not
    /// know.
    ///
    /// ```
    /// use oneflight::idempotency::Recovery;
    /// use oneflight::{Idempotency, MemoryStore};
    /// use std::time::Duration;
    ///
    /// // The payment provider gives up a request after 20 s.
    /// let idem = Idempotency::builder(MemoryStore::new())
    ///     .recovery(Recovery::Rerun)
    ///     .settle(Duration::from_secs(20))
    ///     .lease(Duration::from_secs(30))
    ///     .wait(Duration::from_secs(35))
    ///     .build();
    /// # let _ = idem;
    /// ```
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settings.settle = Some(settle);
        self
    }

    /// Sets the policy for requests whose holder died. The default is [`Recovery::Hold`].
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.settings.recovery = recovery;
        self
    }

    /// Sets what it means that only one of two calls with the same identity has a fingerprint. The default is a
    /// [conflict](super::ErrorKind::Conflict).
    ///
    /// [`MissingFingerprint::Accept`] is for a deploy that adds fingerprints, or takes them away: what was recorded
    /// before has none, and each retry of it would be a conflict for as long as it is kept. Set it in the version that
    /// adds fingerprints. Remove it a [retention](Self::retention) after the last process of the version before has
    /// ended.
    ///
    /// Two fingerprints that differ are a conflict all the same. Meanwhile a key of the version before is not told
    /// apart from the same key with another payload. A record keeps the fingerprint that it was made with, or none.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::MissingFingerprint;
    /// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    ///
    /// let store = MemoryStore::new();
    /// let id = RequestIdentity::new(Scope::new("tenant-7"), "a7f3")?;
    /// let before = Idempotency::builder(store.clone()).build();
    /// let _ = before.run(id.clone(), |_| async { 1 }).await?;
    ///
    /// let after = Idempotency::builder(store)
    ///     .missing_fingerprint(MissingFingerprint::Accept)
    ///     .build();
    /// let reply = after.run(id.with_fingerprint("body"), |_| async { 2 }).await?;
    /// assert_eq!((*reply, reply.is_cached()), (1, true));
    /// # Ok(()) }
    /// ```
    pub fn missing_fingerprint(mut self, missing: MissingFingerprint) -> Self {
        self.settings.missing_fingerprint = missing;
        self
    }

    /// Limits the size of an encoded result, in bytes. The default is 256 KiB.
    ///
    /// See [`ResultTooLarge`](super::ErrorKind::ResultTooLarge) for what becomes of a larger one.
    pub fn max_result_bytes(mut self, bytes: usize) -> Self {
        self.settings.sizes.most = bytes;
        self
    }

    /// Compresses encoded results that are larger than this many bytes, with LZ4, if that makes them smaller. Without
    /// this, none are compressed.
    ///
    /// Every process that reads compressed results needs the feature `compress`, and gets
    /// [`CodecError::Compressed`](super::CodecError::Compressed) without it. Enable the feature in all processes before
    /// one of them sets this.
    ///
    /// Compressing takes time of the task that executes, and decompressing takes time of each task that replays.
    ///
    /// ```
    /// use oneflight::{Idempotency, MemoryStore};
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).compress_above(4 * 1024).build();
    /// ```
    #[cfg(feature = "compress")]
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.settings.sizes.plain = bytes;
        self
    }

    /// Deletes records that are past their retention, in a background task that pauses this long after each round.
    /// Without this there is no such task.
    ///
    /// The pause is a second at the least. The first round begins at once.
    ///
    /// A round deletes 50 records at a time, with 20 ms after each batch, until there are no more: some 2,000 records a
    /// second, which delay few claims. A round that fails emits an event, and the next one tries again.
    ///
    /// The task runs on the [runtime](Self::runtime) that was set, or else on that where this is [built](Self::build).
    /// If there is none, or if it is shut down later, the task runs on the runtime of the next call. Clones, and copies
    /// with [another retention](Idempotency::with_retention), have one task in common. It ends when the last of them is
    /// dropped.
    ///
    /// Several processes over one store may all purge. A store whose records expire by themselves (Redis) does not need
    /// it.
    ///
    /// ```
    /// use oneflight::{Idempotency, MemoryStore};
    /// use std::time::Duration;
    ///
    /// let idem = Idempotency::builder(MemoryStore::new())
    ///     .purge_every(Duration::from_secs(60))
    ///     .build();
    /// # let _ = idem;
    /// ```
    pub fn purge_every(mut self, every: Duration) -> Self {
        self.settings.purge_every = Some(every);
        self
    }

    /// Limits how often work is run again after its transaction lost to another one. The default is 5 times.
    ///
    /// This applies to [`run_in_tx_retrying`](Idempotency::run_in_tx_retrying) only.
    pub fn conflict_retries(mut self, retries: u32) -> Self {
        self.settings.conflict_retries = retries;
        self
    }

    /// Limits the number of requests in flight in this process. There is no limit by default.
    ///
    /// A call over the limit fails with [`FlightError::Overloaded`](crate::FlightError::Overloaded) at once.
    pub fn max_flights(mut self, flights: usize) -> Self {
        self.settings.max_flights = Some(flights);
        self
    }

    /// Limits the number of callers that share a flight, its leader included. The default is the limit of a
    /// [`Group`](crate::GroupBuilder::max_callers).
    pub fn max_callers(mut self, callers: u32) -> Self {
        self.settings.max_callers = Some(callers);
        self
    }

    /// Sets what polls the work. The default is [`Drive::Spawned`], a task of its own.
    ///
    /// [`Drive::InPlace`] saves a switch of tasks for each execution. In exchange, the caller that drives the work must
    /// be polled until the work is over. A call that is kept and not polled, across a `select!` for example, holds
    /// whatever its work holds. In an SQLite transaction that is the right to write, for which all other keys then
    /// wait.
    pub fn drive(mut self, drive: Drive) -> Self {
        self.settings.drive = drive;
        self
    }

    /// Sets what becomes of work that every caller has left. The default is [`OnAbandon::Finish`].
    ///
    /// With [`OnAbandon::Cancel`], work in a transaction is rolled back; other work that had begun is in doubt when its
    /// lease ends. Work that had not begun leaves nothing behind: a task gives back a claim that was under way, and
    /// [`drain`](Idempotency::drain) waits for that.
    pub fn on_abandon(mut self, on_abandon: OnAbandon) -> Self {
        self.settings.on_abandon = on_abandon;
        self
    }

    /// Sets the runtime on which work is spawned. The default is the runtime on which the call is polled.
    ///
    /// The runtime needs timers (`enable_time`). Without them a call fails with
    /// [`FlightError::NoTimers`](crate::FlightError::NoTimers) before anything is asked of the store.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.settings.runtime = Some(runtime);
        self
    }

    /// Builds the [`Idempotency`].
    #[must_use]
    pub fn build(self) -> Idempotency<S, C> {
        telemetry::steps::describe();
        let settings = self.settings;
        let settle = settings
            .settle
            .unwrap_or_else(|| settings.recovery.default_settle(settings.lease));
        let mut group = Group::builder().drive(settings.drive).on_abandon(settings.on_abandon);
        if let Some(flights) = settings.max_flights {
            group = group.max_flights(flights);
        }
        if let Some(callers) = settings.max_callers {
            group = group.max_callers(callers);
        }
        if let Some(runtime) = &settings.runtime {
            group = group.runtime(runtime.clone());
        }
        let idempotency = Idempotency {
            shared: Arc::new(Shared {
                store: Arc::new(self.store),
                retention: settings.retention,
                lease: settings.lease,
                wait: settings.wait,
                store_patience: settings.store_patience,
                settle,
                missing_fingerprint: settings.missing_fingerprint,
                recovery: settings.recovery,
                sizes: settings.sizes,
                format: C::NAME,
                conflict_retries: settings.conflict_retries,
                workflow: Arc::default(),
                runtime: settings.runtime,
                flights: Flights::default(),
                ends: watch::Sender::default(),
                renewals: Later::default(),
                announced: telemetry::steps::Announced::default(),
            }),
            group: group.build(),
            codec: Arc::new(self.codec),
            purging: settings.purge_every.map(|every| Arc::new(Purging::new(every))),
        };
        idempotency.begin_purging();
        idempotency
    }
}
