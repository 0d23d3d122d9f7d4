//! [`Idempotency`] itself: the calls that execute a request, and what can be asked of it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::codec::{Codec, Format, Json};
use super::context::Context;
use super::error::{Effect, Error};
use super::execute;
use super::purge::Purging;
use super::reply::Reply;
use super::settled::Landed;
use super::shared::Shared;
use super::transaction::{self, Rollback, Tx, granted_twice};
use super::unfinished::Unfinished;
use crate::group::{Group, Stats};
use crate::identity::RequestIdentity;
use crate::record::{FencingToken, Record};
use crate::store::{InDoubt, Store, StoreError, TransactionalStore};

/// Executes each request once, and answers its duplicates with the result.
///
/// Clones share everything. Make one for each store and process: duplicates collapse in process only within one and its
/// clones.
///
/// Calls need a tokio runtime with timers.
///
/// # Examples
///
/// Work that does something elsewhere, over a store in memory:
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use oneflight::{Idempotency, MemoryStore, Origin, RequestIdentity, Scope};
///
/// /// The call to your payment provider.
/// async fn charge(idempotency_key: &str, _amount: u64) -> Result<String, String> {
///     Ok(format!("charged under {idempotency_key}"))
/// }
///
/// let idem = Idempotency::builder(MemoryStore::new()).build();
///
/// let body = br#"{"amount":700}"#;
/// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /charges"), "a7f3")?.with_fingerprint(body);
///
/// // A declined card is an answer as well: `Result` is recorded like any other value.
/// let first = idem
///     .run(id.clone(), |context| async move { charge(&context.downstream_key("charge"), 700).await })
///     .await?;
/// assert_eq!(first.origin(), Origin::Executed);
///
/// let again = idem.run(id, |_| async { Err::<String, _>("not called: it is replayed".to_owned()) }).await?;
/// assert_eq!(again.origin(), Origin::Replayed);
/// assert_eq!(again.value(), first.value());
/// # Ok(()) }
/// ```
///
/// Work on the store's own database shares one commit with its record: see [`run_in_tx`](Self::run_in_tx), and the
/// crates `oneflight-sqlite` and `oneflight-postgres`.
pub struct Idempotency<S, C = Json> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) codec: Arc<C>,
    pub(super) group: Group<RequestIdentity, Landed>,
    /// Not in `shared`, which flights hold: purging ends with the last copy of this.
    pub(super) purging: Option<Arc<Purging>>,
}

impl<S: Store, C: Format> Idempotency<S, C> {
    /// Returns a copy with another [retention](super::IdempotencyBuilder::retention), for calls whose results are to be kept
    /// for longer or shorter than others.
    ///
    /// The copy shares everything else, flights too. Of calls that share a flight, the one that executes sets the
    /// retention.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    /// use std::time::Duration;
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// // A payment provider sends its notifications again for a week.
    /// let webhooks = idem.with_retention(Duration::from_secs(7 * 24 * 60 * 60));
    ///
    /// let id = RequestIdentity::new(Scope::new("psp").route("POST /webhooks"), "evt_1f3a")?;
    /// let booked = webhooks.run(id, |_| async { "booked".to_owned() }).await?;
    /// # let _ = booked;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_retention(&self, retention: Duration) -> Self {
        let shared = Shared {
            retention,
            ..self.shared.copy()
        };
        Self {
            shared: Arc::new(shared),
            ..self.clone()
        }
    }

    /// Returns a copy with another [codec](super::IdempotencyBuilder::codec), for example for calls whose results have no
    /// serde or are to be encrypted.
    ///
    /// The copy shares everything else, flights too. Use one codec for all calls of a request: a codec cannot read what
    /// another one recorded. A call that shares a flight and asks for the type of its value gets that value.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::{Codec, Format};
    /// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    /// use std::error::Error;
    ///
    /// /// Bytes as they are.
    /// struct Plain;
    ///
    /// impl Format for Plain {
    ///     const NAME: &'static str = "bytes";
    /// }
    ///
    /// impl Codec<Vec<u8>> for Plain {
    ///     fn encode(&self, value: &Vec<u8>) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    ///         Ok(value.clone())
    ///     }
    ///
    ///     fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    ///         Ok(bytes.to_vec())
    ///     }
    /// }
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let files = idem.with_codec(Plain);
    /// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /thumbnails"), "a7f3")?;
    /// let image = files.run(id, |_| async { vec![0xff_u8, 0xd8] }).await?;
    /// assert_eq!(*image, [0xff, 0xd8]);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_codec<D: Format>(&self, codec: D) -> Idempotency<S, D> {
        let shared = Shared {
            format: D::NAME,
            ..self.shared.copy()
        };
        Idempotency {
            shared: Arc::new(shared),
            codec: Arc::new(codec),
            group: self.group.clone(),
            purging: self.purging.clone(),
        }
    }

    /// Returns the codec, for a result that is brought from outside with [`Resolution::completed_with`](super::Resolution::completed_with).
    #[must_use]
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// Returns the largest size of an encoded result that is kept, in bytes. The
    /// [builder](super::IdempotencyBuilder::max_result_bytes) sets it.
    #[must_use]
    pub fn max_result_bytes(&self) -> usize {
        self.shared.sizes.most
    }

    /// Returns for how long a result is replayed. After that the request is new. The
    /// [builder](super::IdempotencyBuilder::retention) sets it.
    ///
    /// ```
    /// use oneflight::{Idempotency, MemoryStore};
    /// use std::time::Duration;
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// assert_eq!(idem.retention(), Duration::from_secs(24 * 60 * 60));
    /// ```
    #[must_use]
    pub fn retention(&self) -> Duration {
        self.shared.retention
    }

    /// Returns how long a call waits for a request that is in progress elsewhere.
    #[cfg(feature = "http")]
    pub(crate) fn longest_wait(&self) -> Duration {
        self.shared.wait
    }

    #[cfg(feature = "http")]
    pub(crate) fn shared_codec(&self) -> Arc<C> {
        Arc::clone(&self.codec)
    }

    /// Executes `work` unless the request was executed before, and returns its result.
    ///
    /// Everything that the work answers is recorded, failures too. Work that may end without knowing what it did, since
    /// what it calls may not answer, has to be able to say so: use [`try_run`](Self::try_run) for it.
    ///
    /// `work` is called only if this call executes. A call that joins another one or is answered from the record drops
    /// it. The work is polled by a task of its own unless the [builder](super::IdempotencyBuilder::drive) says otherwise.
    ///
    /// `T` is recorded as JSON, unless another [codec](super::IdempotencyBuilder::codec) is set, so it must survive that. A
    /// value that cannot be read again is an error the first time ([`ErrorKind::Codec`](super::ErrorKind::Codec)). A value that is read as
    /// another one is not noticed: in JSON, `Some(None)` comes back as `None`, and so does `Some(f64::NAN)`. A caller
    /// that shares the flight and asks for another `T` than the caller that executes gets the recorded value, decoded
    /// as that.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`]; [`Error::effect`] says what is known of the mutation.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the work: other callers go on with it, or the runtime finishes it. The result
    /// is recorded. Call again with the same identity to get it.
    ///
    /// # Panics
    ///
    /// Does not panic. A panic of the work is [`ErrorKind::Panicked`](super::ErrorKind::Panicked) for all callers, and the request is in doubt.
    pub async fn run<T, F, W>(&self, id: RequestIdentity, work: F) -> Result<Reply<T>, Error>
    where
        C: Codec<T>,
        T: Send + Sync + 'static,
        F: FnOnce(Context) -> W + Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        self.try_run(id, |context| {
            let work = work(context);
            async move { Ok(work.await) }
        })
        .await
    }

    /// Executes `work` as [`run`](Self::run) does, and lets it say what became of it.
    ///
    /// An error of the work reaches every caller and is not recorded. [`NotDone`](super::NotDone) says that nothing was done: the
    /// request can be tried again at once. [`Unknown`](super::Unknown) says that this is not known, as after a time-out or a reset of a
    /// call to another service. Then the request is in doubt, and the [recovery policy](super::Recovery) is asked about it
    /// once what the work left has [settled](super::IdempotencyBuilder::settle).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::{NotDone, Unknown};
    /// use oneflight::{Idempotency, MemoryStore, RequestIdentity, Scope};
    /// use std::time::Duration;
    ///
    /// /// The client of your payment provider.
    /// struct Provider;
    ///
    /// impl Provider {
    ///     async fn connect() -> Result<Self, std::io::Error> {
    ///         Ok(Self)
    ///     }
    ///
    ///     async fn charge(&self, _idempotency_key: &str) -> Result<String, std::io::Error> {
    ///         Ok("ch_1".to_owned())
    ///     }
    /// }
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /charges"), "a7f3")?;
    /// let reply = idem
    ///     .try_run(id, |context| async move {
    ///         let provider = Provider::connect().await.map_err(NotDone::because)?;
    ///         let key = context.downstream_key("charge");
    ///         let called = tokio::time::timeout(Duration::from_secs(10), provider.charge(&key)).await;
    ///         let charge = called.map_err(Unknown::because)?.map_err(Unknown::because)?;
    ///         Ok(charge)
    ///     })
    ///     .await?;
    /// assert_eq!(*reply, "ch_1");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an [`Error`]; [`Error::effect`] says what is known of the mutation.
    ///
    /// # Cancel safety
    ///
    /// As for [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As for [`run`](Self::run).
    pub async fn try_run<T, F, W>(&self, id: RequestIdentity, work: F) -> Result<Reply<T>, Error>
    where
        C: Codec<T>,
        T: Send + Sync + 'static,
        F: FnOnce(Context) -> W + Send + 'static,
        W: Future<Output = Result<T, Unfinished>> + Send + 'static,
    {
        let (shared, codec, of) = (Arc::clone(&self.shared), Arc::clone(&self.codec), id.clone());
        let flight = move |progress| execute::execute(shared, codec, of, progress, work);
        self.fly(id, flight).await
    }

    /// Executes `work` in a transaction of the store's database: its rows and its record are one commit.
    ///
    /// The effect is exactly once, whatever dies when. There is no lease, and nothing is left in doubt, with two
    /// exceptions:
    ///
    /// * An execution of the same request outside of a transaction may be in doubt.
    /// * So is work that ended the transaction itself, which PostgreSQL cannot refuse
    ///   ([`StoreError::CommittedByWork`]). What such work committed has no record, so it is never run again by itself,
    ///   not under [`Recovery::Rerun`](super::Recovery::Rerun) either: only a function of [`Recovery::ask`](super::Recovery::ask) or [`resolve`](Self::resolve)
    ///   decides. From its `COMMIT` to its end nothing holds the key, and if its process or the database dies in
    ///   between, nothing remembers.
    ///
    /// Keep the work short: SQLite has one writer, and this is it; in PostgreSQL it has a connection of the pool. Do
    /// not call the store or another `run` from inside: in SQLite the work would wait for itself, and in PostgreSQL for
    /// a connection, when enough others do the same.
    ///
    /// The work owns its [`Tx`], which goes back to the store when it is dropped. A `Tx` that outlives the work has
    /// escaped: nothing is kept ([`StoreError::TransactionEscaped`]).
    ///
    /// An error returned by `?` rolls back and frees the identity ([`ErrorKind::RolledBack`](super::ErrorKind::RolledBack)). So does a panic, and so
    /// does a result that is too large to keep or does not survive its encoding. A request that can never succeed would
    /// be executed again with every retry: answer it with [`Rollback::Declined`], which rolls the rows back and records
    /// the answer.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`]; [`Error::effect`] says what is known of the mutation.
    ///
    /// # Cancel safety
    ///
    /// As for [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// Does not panic. A panic of the work is [`ErrorKind::Panicked`](super::ErrorKind::Panicked) for all callers.
    pub async fn run_in_tx<T, F, W>(&self, id: RequestIdentity, work: F) -> Result<Reply<T>, Error>
    where
        S: TransactionalStore,
        C: Codec<T>,
        T: Send + Sync + 'static,
        F: FnOnce(Tx<S>) -> W + Send + 'static,
        W: Future<Output = Result<T, Rollback<T>>> + Send + 'static,
    {
        let (shared, codec, of) = (Arc::clone(&self.shared), Arc::clone(&self.codec), id.clone());
        let mut once = Some(work);
        let work = move |tx| {
            let work = once.take().map(|work| work(tx));
            async move {
                match work {
                    Some(work) => work.await,
                    None => Err(Rollback::Failed(granted_twice())),
                }
            }
        };
        self.fly(id, move |progress| {
            transaction::execute_in_tx(shared, codec, of, progress, 0, work)
        })
        .await
    }

    /// Executes `work` as [`run_in_tx`](Self::run_in_tx) does, and runs it again if its transaction lost to another
    /// one.
    ///
    /// A transaction loses by a serialization failure or a deadlock. Then everything is rolled back and the work is run
    /// again from its start, up to [`conflict_retries`](super::IdempotencyBuilder::conflict_retries) times.
    ///
    /// The error of the statement tells that the transaction lost, so return it by `?`. What the work does besides its
    /// statements, it does again.
    ///
    /// ```no_run
    /// use oneflight::store::TransactionalStore;
    /// use oneflight::{Idempotency, RequestIdentity, Scope};
    ///
    /// /// Stands for the driver's connection, such as `sqlx::PgConnection`.
    /// struct Connection;
    ///
    /// /// Your statement: `UPDATE accounts SET balance = balance - $2 WHERE id = $1`.
    /// async fn withdraw(_: &mut Connection, _account: &str, _amount: u64) -> Result<(), std::io::Error> {
    ///     Ok(())
    /// }
    ///
    /// # async fn example(store: impl TransactionalStore<Connection = Connection>) -> Result<(), Box<dyn std::error::Error>> {
    /// // `store` is yours, such as a `PostgresStore`.
    /// let idem = Idempotency::builder(store).conflict_retries(8).build();
    /// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /transfers"), "a7f3")?;
    /// let account = String::from("DE89");
    /// let reply = idem
    ///     .run_in_tx_retrying(id, move |mut tx| {
    ///         // Each run has a copy of its own.
    ///         let account = account.clone();
    ///         async move {
    ///             withdraw(&mut tx, &account, 7).await?;
    ///             Ok(account)
    ///         }
    ///     })
    ///     .await?;
    /// println!("{} was charged", *reply);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run_in_tx`](Self::run_in_tx). A transaction that still lost when it was run for the last time is
    /// [`ErrorKind::RolledBack`](super::ErrorKind::RolledBack).
    ///
    /// # Cancel safety
    ///
    /// As for [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As for [`run_in_tx`](Self::run_in_tx).
    pub async fn run_in_tx_retrying<T, F, W>(&self, id: RequestIdentity, work: F) -> Result<Reply<T>, Error>
    where
        S: TransactionalStore,
        C: Codec<T>,
        T: Send + Sync + 'static,
        F: FnMut(Tx<S>) -> W + Send + 'static,
        W: Future<Output = Result<T, Rollback<T>>> + Send + 'static,
    {
        let (shared, codec, of) = (Arc::clone(&self.shared), Arc::clone(&self.codec), id.clone());
        let flight = move |progress| {
            let retries = shared.conflict_retries;
            transaction::execute_in_tx(shared, codec, of, progress, retries, work)
        };
        self.fly(id, flight).await
    }

    /// Begins to purge, if that was set and has not begun.
    pub(super) fn begin_purging(&self) {
        if let Some(purging) = &self.purging {
            purging.begin(&self.shared.store, self.shared.runtime.as_ref());
        }
    }

    /// Returns what the store knows of a request, or `None` if the identity is new.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`](super::ErrorKind::Store) if the store failed.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn status(&self, id: &RequestIdentity) -> Result<Option<Record>, Error> {
        let loaded = self.shared.load(id).await;
        loaded.map_err(|error| Error::store(id, error, Effect::Unknown))
    }

    /// Lists requests in doubt, for an operator to find out about and to [resolve](Self::resolve).
    ///
    /// Returns up to `limit` requests in the order of their tokens, beginning after the token that is given.
    ///
    /// The end of a process, by `kill -9` too, ends neither a command that it has started nor a request that is under way:
    /// before a request is resolved as [`Rerun`](super::Resolution::Rerun), look at what was called (`docs/design.md`, *The
    /// record*, has more).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::Resolution;
    /// use oneflight::{Idempotency, MemoryStore};
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let mut after = None;
    /// loop {
    ///     let page = idem.in_doubt(100, after).await?;
    ///     let Some(last) = page.last() else { break };
    ///     after = Some(last.token);
    ///     for doubtful in page {
    ///         // An operator has found that nothing had been done.
    ///         idem.resolve(&doubtful.id, Resolution::Rerun).await?;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::Unsupported`] if the store cannot list. Any other error of the store's is passed on.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        self.shared.store.in_doubt(limit, after).await
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    /// Returns the number of requests in flight in this process.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.group.in_flight()
    }

    /// Returns counts of what has happened to the flights of this process so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.group.stats()
    }

    /// Begins no new flights from now on. Calls fail with [`FlightError::Closed`](crate::FlightError::Closed); what is in
    /// flight goes on.
    pub fn close(&self) {
        self.group.close();
    }

    /// Waits until nothing is in flight and no claim is being given back. After [`close`](Self::close), the process may
    /// end then.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped, and this be called again.
    pub async fn drain(&self) {
        self.group.drain().await;
        let mut ends = self.shared.ends.subscribe();
        // There is a sender: this one.
        let _ = ends.wait_for(|ends| *ends == 0).await;
    }
}

impl<S, C> Clone for Idempotency<S, C> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            codec: Arc::clone(&self.codec),
            group: self.group.clone(),
            purging: self.purging.clone(),
        }
    }
}

impl<S, C> fmt::Debug for Idempotency<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("retention", &self.shared.retention)
            .field("lease", &self.shared.lease)
            .field("wait", &self.shared.wait)
            .field("settle", &self.shared.settle)
            .field("missing_fingerprint", &self.shared.missing_fingerprint)
            .field("recovery", &self.shared.recovery)
            .field("codec", &self.shared.format)
            .field("max_result_bytes", &self.shared.sizes.most)
            .field("conflict_retries", &self.shared.conflict_retries)
            .field("purging", &self.purging)
            .finish_non_exhaustive()
    }
}
