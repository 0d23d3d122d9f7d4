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
/// Clones share everything. Make one for each store and process: what collapses in process does so within one.
///
/// Calls need a tokio runtime with timers.
///
/// # Examples
///
/// Work that does something elsewhere, over a store in memory:
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use oneflight::idempotency::{Idempotency, Origin};
/// use oneflight::identity::{RequestIdentity, Scope};
/// use oneflight::store::MemoryStore;
///
/// # async fn charge(idempotency_key: &str, _amount: u64) -> Result<String, String> { Ok(idempotency_key.into()) }
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
/// let again = idem.run(id, |_| async { Err("not called: it is replayed".to_owned()) }).await?;
/// assert_eq!(again.origin(), Origin::Replayed);
/// assert_eq!(again.value(), first.value());
/// # let _: &Result<String, String> = again.value();
/// # Ok(()) }
/// ```
///
/// Work on the store's own database, in one commit with its record: see [`run_in_tx`](Self::run_in_tx), and the crates
/// `oneflight-sqlite` and `oneflight-postgres`.
pub struct Idempotency<S, C = Json> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) codec: Arc<C>,
    pub(super) group: Group<RequestIdentity, Landed>,
    /// Not among what flights need, so that it ends with the last copy of this.
    pub(super) purging: Option<Arc<Purging>>,
}

impl<S: Store, C: Format> Idempotency<S, C> {
    /// The same with another [retention](IdempotencyBuilder::retention), for calls whose results are to be kept for longer than
    /// others, or not so long. Everything else is shared, flights too; of calls that share one, the retention of that which
    /// executes counts.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::Idempotency;
    /// use oneflight::identity::{RequestIdentity, Scope};
    /// use oneflight::store::MemoryStore;
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

    /// The same with another [codec](IdempotencyBuilder::codec), for calls whose results have no serde or are to be
    /// encrypted, for example. Everything else is shared, flights too.
    ///
    /// Of one request, let all calls go through one codec: what another one recorded cannot be read. A call that shares a
    /// flight and asks for the type of its value gets that.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::{Codec, Format, Idempotency};
    /// use oneflight::identity::{RequestIdentity, Scope};
    /// use oneflight::store::MemoryStore;
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

    /// The codec, for a result that is brought from outside with [`Resolution::completed_with`].
    #[must_use]
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// Executes `work` unless the request was executed before, and answers with its result.
    ///
    /// Whatever the work answers is recorded, failures too: work that may end without knowing what it did, since what it
    /// calls may not answer, has to be able to say so, and is for [`try_run`](Self::try_run). It is called only if this call executes; a call that
    /// joins or is answered from the record drops it. It is polled by a task of its own unless the
    /// [builder](IdempotencyBuilder::drive) says otherwise.
    ///
    /// `T` is recorded as JSON, unless another [codec](IdempotencyBuilder::codec) is set, so it must survive that. What
    /// cannot be read again is an error the first time ([`ErrorKind::Codec`]). What is read as something else is not
    /// noticed: in JSON, `Some(None)` comes back as `None`, and so does a `Some(f64::NAN)`. A caller that shares the flight
    /// and asks for another `T` than the one that executes gets the recorded value decoded as that.
    ///
    /// # Errors
    ///
    /// See [`Error`]; [`Error::effect`] says what is known of the mutation.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the work: other callers go on with it, or the runtime finishes it.
    /// The result is recorded. Call again with the same identity to get it.
    ///
    /// # Panics
    ///
    /// Not by itself. A panic of the work is [`ErrorKind::Panicked`] for all callers, and the request is in doubt.
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

    /// [`run`](Self::run) for work that can tell what became of it.
    ///
    /// Its error reaches every caller and is not recorded. [`NotDone`] says that nothing was done: the request can be
    /// tried again at once. [`Unknown`] says that this is not known, as after a time-out or a reset of a call to
    /// somebody else: the request is in doubt, and the [recovery policy](Recovery) is asked about it once what the work
    /// left has [settled](IdempotencyBuilder::settle).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::{Idempotency, NotDone, Unknown};
    /// use oneflight::identity::{RequestIdentity, Scope};
    /// use oneflight::store::MemoryStore;
    /// use std::time::Duration;
    ///
    /// # struct Provider;
    /// # impl Provider {
    /// #     async fn connect() -> Result<Self, std::io::Error> { Ok(Self) }
    /// #     async fn charge(&self, _key: &str) -> Result<String, std::io::Error> { Ok("ch_1".into()) }
    /// # }
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
    /// See [`Error`]; [`Error::effect`] says what is known of the mutation.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
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
    /// exceptions: an execution of the same request outside of a transaction may be; and so is work that ended the
    /// transaction itself, which PostgreSQL cannot refuse ([`StoreError::CommittedByWork`]). What that committed has no
    /// record, so it is never run again by itself, not under [`Recovery::Rerun`] either: only a function of
    /// [`Recovery::ask`] or [`resolve`](Self::resolve) decides. From its `COMMIT` to its end nothing holds the key, and
    /// if its process or the database dies in between, nothing remembers. Keep it short: SQLite has one writer, and this is it;
    /// in PostgreSQL it has a connection of the pool. Do not call the store or another `run` from inside: in SQLite it
    /// would wait for itself, and in PostgreSQL for a connection, when enough others do the same.
    ///
    /// The work owns its [`Tx`], which goes back when it is dropped. A `Tx` that outlives the work has escaped: nothing is kept
    /// ([`StoreError::TransactionEscaped`]).
    ///
    /// An error returned by `?` rolls back and frees the identity ([`ErrorKind::RolledBack`]); so does a panic, and so does
    /// a result that is too large to keep or does not survive its encoding. A request that can never succeed would be
    /// executed again with every retry: answer it with [`Rollback::Declined`], which rolls the rows back and records the
    /// answer.
    ///
    /// # Errors
    ///
    /// See [`Error`]; [`Error::effect`] says what is known of the mutation.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// Not by itself. A panic of the work is [`ErrorKind::Panicked`] for all callers.
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

    /// [`run_in_tx`](Self::run_in_tx) for work that may be called again: when its transaction lost to another one, by a
    /// serialization failure or a deadlock, everything is rolled back and the work is run again from its start, up to
    /// [`conflict_retries`](IdempotencyBuilder::conflict_retries) times.
    ///
    /// It is the statements' error that tells, so let it pass: return it by `?`. What the work does besides its
    /// statements it does again.
    ///
    /// ```no_run
    /// # use oneflight::store::TransactionalStore;
    /// # struct Connection;
    /// # async fn withdraw(_: &mut Connection, _account: &str, _amount: u64) -> Result<(), std::io::Error> { Ok(()) }
    /// # async fn example(store: impl TransactionalStore<Connection = Connection>) -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::Idempotency;
    /// use oneflight::identity::{RequestIdentity, Scope};
    ///
    /// let idem = Idempotency::builder(store).conflict_retries(8).build();
    /// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /transfers"), "a7f3")?;
    /// let account = String::from("DE89");
    /// let reply = idem
    ///     .run_in_tx_retrying(id, move |mut tx| {
    ///         // Each run has a copy of its own.
    ///         let account = account.clone();
    ///         async move {
    ///             withdraw(&mut tx, &account, 7).await?; // UPDATE accounts SET balance = balance - 7 …
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
    /// As [`run_in_tx`](Self::run_in_tx); of a conflict, [`ErrorKind::RolledBack`] when it was run again for the last time.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run_in_tx`](Self::run_in_tx).
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

    /// Begins to purge, if that is wanted and has not begun.
    pub(super) fn begin_purging(&self) {
        if let Some(purging) = &self.purging {
            purging.begin(&self.shared.store, self.shared.runtime.as_ref());
        }
    }

    /// What the store knows of a request.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`].
    ///
    /// # Cancel safety
    ///
    /// May be dropped.
    pub async fn status(&self, id: &RequestIdentity) -> Result<Option<Record>, Error> {
        let loaded = self.shared.load(id).await;
        loaded.map_err(|error| Error::store(id, error, Effect::Unknown))
    }

    /// What is in doubt, for an operator to find out about and to [resolve](Self::resolve): at most `limit` requests in
    /// the order of their tokens, beginning after the one that is given.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use oneflight::idempotency::{Resolution, Idempotency};
    /// use oneflight::store::MemoryStore;
    ///
    /// let idem = Idempotency::builder(MemoryStore::new()).build();
    /// let mut after = None;
    /// loop {
    ///     let page = idem.in_doubt(100, after).await?;
    ///     let Some(last) = page.last() else { break };
    ///     after = Some(last.token);
    ///     for doubtful in page {
    ///         // Somebody has looked and found that nothing had been done.
    ///         idem.resolve(&doubtful.id, Resolution::Rerun).await?;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::Unsupported`] of a store that cannot list, or whatever else the store says.
    ///
    /// # Cancel safety
    ///
    /// May be dropped.
    pub async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        self.shared.store.in_doubt(limit, after).await
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store
    }

    /// How many requests are in flight in this process.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.group.in_flight()
    }

    /// What has happened to the flights of this process so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.group.stats()
    }

    /// Begins no new flights from now on: calls get [`FlightError::Closed`](crate::FlightError::Closed). What is in
    /// flight goes on.
    pub fn close(&self) {
        self.group.close();
    }

    /// Waits until nothing is in flight, and no claim is being given back: after [`close`](Self::close), a process may end
    /// then.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
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
