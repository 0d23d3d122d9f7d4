//! How an [`Idempotency`] is set up.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::codec::{Format, Json, Sizes};
use super::missing::MissingFingerprint;
use super::progress::Flights;
use super::purge::Purging;
use super::recovery::Recovery;
use super::run::Idempotency;
use super::shared::Shared;
use crate::flight::{Drive, OnAbandon};
use crate::group::Group;
use crate::store::Store;

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
    /// Begins to set one up over a store.
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
    /// How results are written and read: as [`Json`] unless set. See [`Codec`](super::Codec) for one that encrypts.
    ///
    /// What is recorded under another codec's name is not executed again, and cannot be read: the answer is
    /// [`CodecError::Foreign`](super::CodecError::Foreign). So a codec that takes the place of another one reads that one's
    /// results as well, by [`decode_foreign`](super::Codec::decode_foreign), for a [retention](Self::retention) after the
    /// last process of the version before has ended.
    pub fn codec<D: Format>(self, codec: D) -> IdempotencyBuilder<S, D> {
        IdempotencyBuilder {
            store: self.store,
            codec,
            settings: self.settings,
        }
    }

    /// How long a completed request is replayed, counted on the store's clock from when it was completed: 24 h
    /// unless set.
    ///
    /// At its end the identity is **new**: a retry that comes later executes again, whether the record was
    /// purged or not (what takes up space is deleted by [`Store::purge`] alone: see [`purge_every`](Self::purge_every)). So it must be longer than the longest time over which a client retries. It does
    /// not apply to what is in progress or in doubt, which is kept until it is settled. For calls that need another one, see
    /// [`with_retention`](Idempotency::with_retention).
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention;
        self
    }

    /// How long a holder of a claim is believed alive without a sign of life: 10 s unless set, and 1 ms at
    /// least.
    ///
    /// The claim is renewed three times as often while the work runs, so that this isn't a limit on the work. It
    /// is how long the others wait after a process has died. Work in a transaction needs no lease.
    ///
    /// A task renews it on the runtime on which the work began, and where the work is polled if that runtime is shut down
    /// or does not run. Where neither can be, or the store cannot be reached for so long, the lease is lost, and the work
    /// [can see that](super::Context::is_lease_lost).
    ///
    /// It must be several times longer than the store may take to answer: work is not begun under a lease that is
    /// over. It should be longer than a store or a machine of yours stands still now and then (a failover, a migration of
    /// the virtual machine): a holder that is held up for longer may be taken for dead. And it should be shorter than
    /// [`wait`](Self::wait), by a second or more. The default is between these: it outlasts the short stops, and somebody
    /// who waits for a dead holder still answers within the 30 s that many clients and proxies give a request.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_millis(1));
        self
    }

    /// How long a call waits before the work begins: 15 s unless set. It waits for a request that is in progress elsewhere,
    /// and is then answered [`InProgress`](super::ErrorKind::InProgress); or for a store that does not answer, and is then
    /// answered [`Store`](super::ErrorKind::Store).
    ///
    /// If that is more than a [lease](Self::lease) (and than the time to [settle](Self::settle)), a duplicate that comes
    /// after a crash sees the end of the dead holder's lease, and has an answer instead of a wait for nothing. It should be
    /// less than a client waits, by as long as the work takes.
    ///
    /// It is each caller's own time, with whichever others it shares a flight: a flight on its way to a claim goes on as long
    /// as one of its callers waits. How long a store is waited for that has not answered at all is this and half a second,
    /// and a second and a half at least.
    ///
    /// Callers in this process who join work that runs wait for as long as it takes. Where a request in a transaction
    /// elsewhere cannot be seen (SQLite), the lock that it holds is waited for: for as long as this, and a second at
    /// least, since it may be another request's. After that, the answer is [`Store`](super::ErrorKind::Store) with
    /// [`Busy`](crate::store::StoreError::Busy).
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// How long after an execution has ended without telling what it did the [recovery policy](Self::recovery) is
    /// asked: one [lease](Self::lease) unless set.
    ///
    /// Such an execution panicked, or said that it [does not know](super::Unknown). What it called may still be at it: a
    /// request that was cut off by a time-out lands later, and a policy that looks before finds nothing and runs the work
    /// once more. Set this to the time after which nothing can land any more, by the limits of what the work calls. Until
    /// then the request is
    /// [in progress](super::ErrorKind::InProgress) to everybody. [`Duration::ZERO`] asks at once: right where everything that
    /// the work calls knows its [keys](super::Context::downstream_key) again, or has ended when the work ends.
    ///
    /// A process that dies is not waited for in this way, but by what is left of its lease, two thirds of it at least: let
    /// that be as long.
    ///
    /// [`Recovery::Hold`] asks nobody, so unless this is set the request is in doubt at once there. Set it there as well
    /// before a process with another policy may meet what this one left: in a fleet whose processes differ, and in the
    /// version before the one that has another policy. The time is kept with the request by the process that did not know.
    ///
    /// ```
    /// use oneflight::idempotency::{Idempotency, Recovery};
    /// use oneflight::store::MemoryStore;
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

    /// What to do about a request whose holder died: [`Recovery::Hold`] unless set.
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.settings.recovery = recovery;
        self
    }

    /// What it means that only one of two calls with the same identity has a fingerprint: a
    /// [conflict](super::ErrorKind::Conflict) unless set.
    ///
    /// It is for the time of a deploy that adds fingerprints, or takes them away: what was recorded before has none, and
    /// each retry of it would be refused for as long as it is kept. So set [`MissingFingerprint::Accept`] in the version
    /// that adds them, and take it out a [retention](Self::retention) after the last process of the version before has
    /// ended. Two fingerprints that differ are a conflict all the same. What is given up meanwhile is that a key of the
    /// version before is told apart from the same key with another payload. A record keeps the fingerprint that it was
    /// made with, or none.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::{Idempotency, MissingFingerprint};
    /// use oneflight::identity::{RequestIdentity, Scope};
    /// use oneflight::store::MemoryStore;
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

    /// How large an encoded result may be, in bytes: 256 KiB unless set.
    ///
    /// See [`ResultTooLarge`](super::ErrorKind::ResultTooLarge) for what becomes of a larger one.
    pub fn max_result_bytes(mut self, bytes: usize) -> Self {
        self.settings.sizes.most = bytes;
        self
    }

    /// Compresses encoded results that are larger than this many bytes (with LZ4), if that makes them smaller. None are unless
    /// set. All processes that read them need the feature `compress`, and get
    /// [`CodecError::Compressed`](super::CodecError::Compressed) without it: give it to all before one of them sets this.
    ///
    /// It takes the time of the task that executes, and of each that replays.
    ///
    /// ```
    /// use oneflight::idempotency::Idempotency;
    /// use oneflight::store::MemoryStore;
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).compress_above(4 * 1024).build();
    /// ```
    #[cfg(feature = "compress")]
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.settings.sizes.plain = bytes;
        self
    }

    /// Deletes what is past its retention, in a task in the background that begins at once and then pauses for this long
    /// after each round: a second at the least. There is no such task unless this is set.
    ///
    /// A round deletes 50 records at a time, with 20 ms after each batch, until there are no more: some 2,000 a second,
    /// which delay few claims. A round that fails is told of by an event, and the next one tries again.
    ///
    /// The task runs on the [runtime](Self::runtime) that was set, or on that where this is [built](Self::build); if there
    /// is none, or it is shut down later, on that of the next call. Clones, and copies of
    /// [another retention](Idempotency::with_retention), have one task in common. It ends when the last of them is dropped.
    ///
    /// Several processes over one store may all purge. A store whose records expire by themselves (Redis) does not need it.
    ///
    /// ```
    /// use oneflight::idempotency::Idempotency;
    /// use oneflight::store::MemoryStore;
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

    /// How often work is run again whose transaction lost to another one: 5 times unless set. For
    /// [`run_in_tx_retrying`](Idempotency::run_in_tx_retrying) only.
    pub fn conflict_retries(mut self, retries: u32) -> Self {
        self.settings.conflict_retries = retries;
        self
    }

    /// How many requests may be in flight in this process; without a limit unless set. Over it, a call gets
    /// [`FlightError::Overloaded`](crate::FlightError::Overloaded) at once.
    pub fn max_flights(mut self, flights: usize) -> Self {
        self.settings.max_flights = Some(flights);
        self
    }

    /// How many callers may share a flight.
    pub fn max_callers(mut self, callers: u32) -> Self {
        self.settings.max_callers = Some(callers);
        self
    }

    /// Who polls the work: [`Drive::Spawned`] unless set, a task of its own.
    ///
    /// [`Drive::InPlace`] saves a switch of tasks for each execution. But then the caller that drives the work must be polled
    /// until it is over: a call that is kept and not polled, across a `select!` for one, holds whatever its work holds.
    /// In a transaction that is the right to write, for which all other keys then wait.
    pub fn drive(mut self, drive: Drive) -> Self {
        self.settings.drive = drive;
        self
    }

    /// What becomes of work that every caller has left: [`OnAbandon::Finish`] unless set.
    ///
    /// With [`OnAbandon::Cancel`], work in a transaction is rolled back; other work that had begun is in doubt when its
    /// lease ends. What had not begun leaves nothing behind: a claim that was under way is given back by a task, for which
    /// [`drain`](Idempotency::drain) waits.
    pub fn on_abandon(mut self, on_abandon: OnAbandon) -> Self {
        self.settings.on_abandon = on_abandon;
        self
    }

    /// The runtime on which work is spawned. Unless set, the one on which the call is polled. It needs timers
    /// (`enable_time`); without them, a call is answered [`FlightError::NoTimers`](crate::FlightError::NoTimers) before
    /// anything is asked of the store.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.settings.runtime = Some(runtime);
        self
    }

    /// Builds it.
    #[must_use]
    pub fn build(self) -> Idempotency<S, C> {
        let settings = self.settings;
        let settle = match settings.recovery {
            // Nobody is asked about it here. Others may have another policy, which only the user knows.
            Recovery::Hold => settings.settle.unwrap_or(Duration::ZERO),
            Recovery::Rerun | Recovery::Ask(_) => settings.settle.unwrap_or(settings.lease),
        };
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
                settle,
                missing_fingerprint: settings.missing_fingerprint,
                recovery: settings.recovery,
                sizes: settings.sizes,
                format: C::NAME,
                conflict_retries: settings.conflict_retries,
                runtime: settings.runtime,
                flights: Flights::default(),
                ends: watch::Sender::default(),
            }),
            group: group.build(),
            codec: Arc::new(self.codec),
            purging: settings.purge_every.map(|every| Arc::new(Purging::new(every))),
        };
        idempotency.begin_purging();
        idempotency
    }
}
