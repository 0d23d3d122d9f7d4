//! How an [`Idempotency`] is set up.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::codec::Sizes;
use super::progress::Flights;
use super::recovery::Recovery;
use super::{Idempotency, Shared};
use crate::flight::{Drive, OnAbandon};
use crate::group::Group;
use crate::store::Store;

/// Sets up an [`Idempotency`]. Made by [`Idempotency::builder`].
#[derive(Debug)]
#[must_use = "call `build`"]
pub struct IdempotencyBuilder<S> {
    store: S,
    retention: Duration,
    lease: Duration,
    wait: Duration,
    recovery: Recovery,
    sizes: Sizes,
    conflict_retries: u32,
    max_flights: Option<usize>,
    max_callers: Option<u32>,
    runtime: Option<Handle>,
    drive: Drive,
    on_abandon: OnAbandon,
}

impl<S: Store> IdempotencyBuilder<S> {
    pub(super) fn new(store: S) -> Self {
        Self {
            store,
            retention: Duration::from_secs(24 * 60 * 60),
            lease: Duration::from_secs(30),
            wait: Duration::from_secs(10),
            recovery: Recovery::Refuse,
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
        }
    }

    /// How long a completed request is replayed, counted on the store's clock from when it was completed: 24 h
    /// unless set.
    ///
    /// At its end the identity is **new**: a retry that comes later executes again, whether the record was
    /// purged or not (what takes up space is deleted by [`Store::purge`] alone, which somebody has to call from time to
    /// time). So it must be longer than the longest time over which a client retries. It does
    /// not apply to what is in progress or in doubt, which is kept until it is settled. For calls that need another one, see
    /// [`with_retention`](Idempotency::with_retention).
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// How long a holder of a claim is believed alive without a sign of life: 30 s unless set, and 1 ms at
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
    /// over.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_millis(1));
        self
    }

    /// How long a call waits before the work begins: 10 s unless set. It waits for a request that is in progress elsewhere,
    /// and is then answered [`InProgress`](super::Error::InProgress); or for a store that does not answer, and is then
    /// answered [`Store`](super::Error::Store).
    ///
    /// It is each caller's own time, whoever it shares a flight with: a flight on its way to a claim goes on as long
    /// as one of its callers waits. How long a store is waited for that has not answered at all is this and half a second,
    /// and a second and a half at least.
    ///
    /// Callers in this process who join work that runs wait for as long as it takes. Where a request in a transaction
    /// elsewhere cannot be seen (SQLite), the lock that it holds is waited for: for as long as this, and a second at
    /// least, since it may be another request's.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// What to do about a request whose holder died: [`Recovery::Refuse`] unless set.
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// How large an encoded result may be, in bytes: 256 KiB unless set.
    ///
    /// See [`ResultTooLarge`](super::Error::ResultTooLarge) for what becomes of a larger one.
    pub fn max_result_bytes(mut self, bytes: usize) -> Self {
        self.sizes.most = bytes;
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
        self.sizes.plain = bytes;
        self
    }

    /// How often work is run again whose transaction lost to another one: 5 times unless set. For
    /// [`run_in_tx_retrying`](Idempotency::run_in_tx_retrying) only.
    pub fn conflict_retries(mut self, retries: u32) -> Self {
        self.conflict_retries = retries;
        self
    }

    /// How many requests may be in flight in this process; without a limit unless set. Over it, a call gets
    /// [`FlightError::Overloaded`](crate::FlightError::Overloaded) at once.
    pub fn max_flights(mut self, flights: usize) -> Self {
        self.max_flights = Some(flights);
        self
    }

    /// How many callers may share a flight.
    pub fn max_callers(mut self, callers: u32) -> Self {
        self.max_callers = Some(callers);
        self
    }

    /// Who polls the work: [`Drive::Spawned`] unless set, a task of its own.
    ///
    /// [`Drive::InPlace`] saves a switch of tasks for each execution. But then whoever drives the work must be polled
    /// until it is over: a call that is kept and not polled, across a `select!` for one, holds whatever its work holds.
    /// In a transaction that is the right to write, for which all other keys then wait.
    pub fn drive(mut self, drive: Drive) -> Self {
        self.drive = drive;
        self
    }

    /// What becomes of work that every caller has left: [`OnAbandon::Finish`] unless set.
    ///
    /// With [`OnAbandon::Cancel`], work in a transaction is rolled back; other work that had begun is in doubt when its
    /// lease ends. What had not begun leaves nothing behind: a claim that was under way is given back by a task, for which
    /// [`drain`](Idempotency::drain) waits.
    pub fn on_abandon(mut self, on_abandon: OnAbandon) -> Self {
        self.on_abandon = on_abandon;
        self
    }

    /// The runtime on which work is spawned. Unless set, the one on which the call is polled. It needs timers
    /// (`enable_time`); without them, a call is answered [`FlightError::NoTimers`](crate::FlightError::NoTimers) before
    /// anything is asked of the store.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Builds it.
    #[must_use]
    pub fn build(self) -> Idempotency<S> {
        let mut group = Group::builder().drive(self.drive).on_abandon(self.on_abandon);
        if let Some(flights) = self.max_flights {
            group = group.max_flights(flights);
        }
        if let Some(callers) = self.max_callers {
            group = group.max_callers(callers);
        }
        if let Some(runtime) = &self.runtime {
            group = group.runtime(runtime.clone());
        }
        Idempotency {
            shared: Arc::new(Shared {
                store: Arc::new(self.store),
                retention: self.retention,
                lease: self.lease,
                wait: self.wait,
                recovery: self.recovery,
                sizes: self.sizes,
                conflict_retries: self.conflict_retries,
                runtime: self.runtime,
                flights: Flights::default(),
                ends: watch::Sender::default(),
            }),
            group: group.build(),
        }
    }
}
