//! The stores that are open in this process: one for each URL with its options, for all that ask for it.
//!
//! `next dev` loads a module anew with each change, and a worker thread loads all modules once more. Each opens its store, and
//! gets the one that is open: duplicates collapse, and connections do not add up. A store is closed with its last
//! [`Lease`], which is closed by hand or goes with the handle that JavaScript has let go of.

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use napi_derive::napi;
use oneflight::idempotency::{MissingFingerprint, Recovery, Resolution};
use oneflight::store::{DynStore, MemoryStore, StoreError};
use oneflight::{Effect, Idempotency};
use oneflight_postgres::{PostgresStore, store_error};
use oneflight_redis::RedisStore;
use oneflight_sqlite::SqliteStore;
use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use crate::callback::Callback;
use crate::failure::Failure;
use crate::options::{Options, duration};
use crate::runtime;
use crate::text::Text;
use crate::work::{self, Ticket};

/// What is open, by what it was opened with.
static OPEN: LazyLock<Mutex<HashMap<String, Entry>>> = LazyLock::new(Mutex::default);

/// The stores in memory, by name. They last as long as the process.
static MEMORIES: LazyLock<Mutex<HashMap<String, MemoryStore>>> = LazyLock::new(Mutex::default);

struct Entry {
    slot: Arc<Slot>,
    leases: usize,
}

/// A place for a store, which is opened by the first that needs it.
#[derive(Default)]
struct Slot {
    pool: OnceCell<Pool>,
    askers: Askers,
}

/// A function that a recovery policy asks.
type Asker = Arc<Callback<Ticket, true>>;

/// The functions of all that share a store, the newest last.
type Askers = Arc<Mutex<Vec<Asker>>>;

/// An open store.
pub(crate) struct Pool {
    pub(crate) idempotency: Idempotency<DynStore, Text>,
    connections: Connections,
}

/// The stores whose connections are closed with them, and whose part a transaction of the user's may have.
pub(crate) enum Connections {
    None,
    Postgres(PostgresStore),
    Sqlite(SqliteStore),
}

/// A share in an open store.
pub(crate) struct Lease {
    name: String,
    slot: Arc<Slot>,
    asker: Option<Asker>,
    is_closed: bool,
}

impl Lease {
    /// Opens a store, unless it is open.
    pub(crate) async fn open(
        url: String,
        options: Options,
        asker: Option<Callback<Ticket, true>>,
    ) -> Result<Self, Failure> {
        let name = format!("{url}\n{options:?}");
        let slot = {
            let mut open = OPEN.lock();
            let entry = open.entry(name.clone()).or_insert_with(|| Entry {
                slot: Arc::default(),
                leases: 0,
            });
            entry.leases += 1;
            Arc::clone(&entry.slot)
        };
        // From here on it is given back when this fails.
        let lease = Self {
            name,
            slot,
            asker: asker.map(Arc::new),
            is_closed: false,
        };
        lease.slot.askers.lock().extend(lease.asker.clone());
        let askers = &lease.slot.askers;
        let opened = lease.slot.pool.get_or_try_init(|| open(&url, &options, askers)).await;
        opened.map(|_| ())?;
        Ok(lease)
    }

    /// Returns the store.
    pub(crate) fn idempotency(&self) -> Result<&Idempotency<DynStore, Text>, Failure> {
        let pool = self.slot.pool.get().map(|pool| &pool.idempotency);
        pool.ok_or_else(|| Failure::new("Closed", Effect::Nothing, "it is not open"))
    }

    /// Returns what the store is, if it is open.
    pub(crate) fn connections(&self) -> Option<&Connections> {
        self.slot.pool.get().map(|pool| &pool.connections)
    }

    /// Gives the share back. The last one closes the store, once nothing is in flight.
    pub(crate) async fn close(mut self) {
        if let Some(slot) = self.give_back() {
            slot.close().await;
        }
    }

    /// Returns what is to be closed, if this was the last share.
    fn give_back(&mut self) -> Option<Arc<Slot>> {
        if std::mem::replace(&mut self.is_closed, true) {
            return None;
        }
        if let Some(own) = self.asker.take() {
            self.slot.askers.lock().retain(|asker| !Arc::ptr_eq(asker, &own));
        }
        let mut open = OPEN.lock();
        let entry = open.get_mut(&self.name)?;
        entry.leases -= 1;
        match entry.leases {
            0 => open.remove(&self.name).map(|entry| entry.slot),
            _ => None,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(slot) = self.give_back()
            && let Ok(runtime) = runtime::handle()
        {
            runtime.spawn(async move { slot.close().await });
        }
    }
}

impl Slot {
    async fn close(&self) {
        let Some(pool) = self.pool.get() else { return };
        pool.idempotency.close();
        pool.idempotency.drain().await;
        match &pool.connections {
            Connections::None => {}
            Connections::Postgres(store) => store.pool().close().await,
            Connections::Sqlite(store) => {
                store.close().await;
                // What two threads closed at once may have kept each other from closing.
                #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
                crate::locks::tidy();
            }
        }
    }
}

/// Whether the SQLite of a driver in this process and ours exclude each other.
#[napi(catch_unwind)]
pub fn locks_hold() -> bool {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    return crate::locks::share();
    // On Windows a lock belongs to what was opened, and not to the process.
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    return cfg!(windows);
}

/// Returns what is said of a file that cannot be locked, if that is why it could not be opened.
fn unlockable(path: &str) -> Option<Failure> {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    if crate::locks::are_missing_for(path) {
        let why = format!(
            "{path} is on a file system without locks of open files (F_OFD_SETLK); move it to one that has them, or use PostgreSQL"
        );
        return Some(Failure::new("InvalidArgument", Effect::Nothing, why));
    }
    let _ = path;
    None
}

async fn open(url: &str, options: &Options, askers: &Askers) -> Result<Pool, Failure> {
    let failed = |error: StoreError| Failure::store(&error, Effect::Nothing);
    let place = Place::of(url).ok_or_else(|| Failure::defect("the URL is of no store"))?;
    let (store, connections) = match place {
        Place::Memory(name) => {
            let store = MEMORIES.lock().entry(name.to_owned()).or_default().clone();
            (DynStore::from(store), Connections::None)
        }
        Place::Sqlite(path) => {
            // Before SQLite opens its first file.
            locks_hold();
            let mut sqlite = SqliteStore::options();
            if let Some(connections) = options.connections {
                sqlite = sqlite.max_readers(connections);
            }
            let store = sqlite
                .open(path)
                .await
                .map_err(|error| unlockable(path).unwrap_or_else(|| failed(error)))?;
            (DynStore::new(store.clone()), Connections::Sqlite(store))
        }
        Place::Postgres => {
            let mut postgres = PostgresStore::options();
            if let Some(schema) = &options.schema {
                postgres = postgres.schema(schema);
            }
            if let Some(prefix) = &options.prefix {
                postgres = postgres.prefix(prefix);
            }
            if options.migrate == Some(false) {
                postgres = postgres.without_migrations();
            }
            if options.prepared_statements == Some(false) {
                postgres = postgres.without_prepared_statements();
            }
            let server: PgConnectOptions = url.parse().map_err(store_error).map_err(failed)?;
            reach(&server).await?;
            let pool = PgPoolOptions::new().max_connections(options.connections.unwrap_or(10));
            let pool = pool.connect_with(server).await.map_err(store_error).map_err(failed)?;
            let store = postgres.from_pool(pool).await.map_err(failed)?;
            (DynStore::new(store.clone()), Connections::Postgres(store))
        }
        Place::Redis => {
            let mut redis = RedisStore::options();
            if let Some(prefix) = &options.prefix {
                redis = redis.prefix(prefix);
            }
            (DynStore::new(redis.open(url).await.map_err(failed)?), Connections::None)
        }
    };
    let idempotency = build(store, options, askers).map_err(|error| Failure::defect(&error.reason))?;
    Ok(Pool {
        idempotency,
        connections,
    })
}

/// How long a server that is opened may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Connects once: that says what is wrong, where a pool says that its time is over. A server may be about to begin.
async fn reach(server: &PgConnectOptions) -> Result<(), Failure> {
    let place = match server.get_socket() {
        Some(socket) => format!("PostgreSQL at {}", socket.display()),
        None => format!("PostgreSQL at {}:{}", server.get_host(), server.get_port()),
    };
    let failed = |why: &dyn Display| {
        let error = format!("the store is not available: {place}: {why}");
        Failure::new("StoreFailed", Effect::Nothing, error)
    };
    let begun = Instant::now();
    loop {
        match timeout(ANSWER, server.connect()).await {
            Ok(Ok(connection)) => {
                // It was there. What its end is like changes nothing.
                let _ = timeout(ANSWER, connection.close()).await;
                return Ok(());
            }
            Ok(Err(error)) if begun.elapsed() < patience(&error) => sleep(PAUSE).await,
            Ok(Err(error)) => {
                return Err(match store_error(error) {
                    StoreError::Unavailable { source } => failed(&source),
                    error => Failure::new("StoreFailed", Effect::Nothing, format!("{place}: {error}")),
                });
            }
            Err(_) => return Err(failed(&format_args!("no answer in {} s", ANSWER.as_secs()))),
        }
    }
}

const PAUSE: Duration = Duration::from_millis(200);

/// How long it is tried again after this: a server may be about to begin, or to have a connection to spare.
fn patience(error: &sqlx::Error) -> Duration {
    match error {
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => Duration::from_secs(5),
        // `cannot_connect_now`, `too_many_connections`: it is there.
        sqlx::Error::Database(error) if matches!(error.code().as_deref(), Some("57P03" | "53300")) => {
            Duration::from_secs(30)
        }
        _ => Duration::ZERO,
    }
}

/// Where records are kept. `index.js` lets no other URL pass.
enum Place<'a> {
    Memory(&'a str),
    Sqlite(&'a str),
    Postgres,
    Redis,
}

impl<'a> Place<'a> {
    fn of(url: &'a str) -> Option<Self> {
        Some(match url.split_once(':')? {
            ("memory", name) => Self::Memory(name),
            ("sqlite", path) => Self::Sqlite(path),
            ("postgres" | "postgresql", _) => Self::Postgres,
            ("redis" | "rediss", _) => Self::Redis,
            _ => return None,
        })
    }
}

fn build(store: DynStore, options: &Options, askers: &Askers) -> napi::Result<Idempotency<DynStore, Text>> {
    let mut builder = Idempotency::builder(store).codec(Text).runtime(runtime::handle()?);
    if let Some(retention) = options.retention_ms {
        builder = builder.retention(duration(retention));
    }
    if let Some(lease) = options.lease_ms {
        builder = builder.lease(duration(lease));
    }
    if let Some(wait) = options.wait_ms {
        builder = builder.wait(duration(wait));
    }
    if let Some(settle) = options.settle_ms {
        builder = builder.settle(duration(settle));
    }
    if let Some(every) = options.purge_every_ms {
        builder = builder.purge_every(duration(every));
    }
    if let Some(true) = options.accept_missing_fingerprint {
        builder = builder.missing_fingerprint(MissingFingerprint::Accept);
    }
    if let Some(bytes) = options.max_result_bytes {
        builder = builder.max_result_bytes(bytes as usize);
    }
    if let Some(flights) = options.max_flights {
        builder = builder.max_flights(flights as usize);
    }
    if let Some(callers) = options.max_callers {
        builder = builder.max_callers(callers);
    }
    Ok(builder.recovery(recovery(options, askers)).build())
}

fn recovery(options: &Options, askers: &Askers) -> Recovery {
    match options.recovery.as_deref() {
        Some("rerun") => Recovery::Rerun,
        Some("ask") => {
            let askers = Arc::clone(askers);
            Recovery::ask(move |doubt| {
                // The newest first: what was loaded before has gone, or will.
                let newest_first: Vec<_> = askers.lock().iter().rev().cloned().collect();
                async move {
                    for asker in newest_first {
                        if let Some(resolution) = work::resolve(&asker, doubt.clone()).await {
                            return resolution;
                        }
                    }
                    Resolution::Hold
                }
            })
        }
        _ => Recovery::Hold,
    }
}
