//! A connection of the store's own beside a pool of the user's, on the same file.
//!
//! What a pool lends may have to be waited for, is tried before and after each use, and is in whatever state it was left in. So
//! each claim and each result would be several errands, and the page cache one that another connection's commit has made
//! stale. On a connection of its own the store writes as it does on a file that it has [opened](super::open): so it does if
//! there can be a second connection beside those of the pool. The pool is left what concerns its user: transactions of work,
//! and reads, which no writer is in the way of.
//!
//! The connection is made as the pool makes its own: by its options, of which the file is named in full, and with its hooks. It
//! is set to what the store found on the pool's first one.
//!
//! # Where there can be none
//!
//! * The database is in memory, or a temporary one: there is no second connection to it.
//! * It is not in WAL mode: a reader on one connection would hold up the writer on the other.
//! * `locking_mode` is `EXCLUSIVE`: the pool's connection has the file for itself.
//! * The pool's connections share their cache: one that reads a table keeps the others from writing in it, and does not wait.
//! * The file is named by a URL (`file:…`), whose parameters would be lost.
//! * The connection cannot be made, or leads to another file.
//!
//! # What may be left in the way
//!
//! A connection of the pool may have been given back with a transaction open, or with a lock that it keeps (which it gets only while
//! there is no other connection). While the pool lends to the store, that comes to light by itself. Here it would be waited for until somebody else borrows that connection.
//! So a writer that has waited for the lock for some time looks through those that lie idle, and does so again every second.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::select;
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::busy::Patience;
use super::ending::Commits;
use super::file::DatabaseFile;
use super::gathered::Gathered;
use super::lent::{Kept, Lent};
use super::settings::{BUSY_TIMEOUT, Settings};

/// How long a connection that lies idle is waited for. It has nothing to do.
const IDLE_ANSWERS: Duration = Duration::from_secs(1);

/// How long one more connection beside those of a pool is waited for. Without it the store writes on those of the pool.
pub(super) const ONE_MORE: Duration = Duration::from_secs(10);

/// The user's pool, beside whose connections the store has one of its own.
#[derive(Clone)]
pub(super) struct Beside {
    pool: SqlitePool,
    /// Whether a task waits for the pool to be closed. It goes when its runtime does.
    is_watched: Arc<AtomicBool>,
}

impl Beside {
    /// Returns a pool of one connection, which is made as those of the user's pool are, if there can be one beside them.
    pub(super) fn of(
        pool: &SqlitePool,
        file: &DatabaseFile,
        settings: &Settings,
        commits: Commits,
        deadline: Duration,
    ) -> Option<(Self, SqlitePool)> {
        let can_be = commits == Commits::AtOnce
            && !file.is_in_memory()
            && !settings.lock_for_good()
            && !needs_its_options(&pool.connect_options());
        if !can_be {
            return None;
        }
        let beside = Self {
            pool: pool.clone(),
            is_watched: Arc::default(),
        };
        // With the hooks of the user's.
        let options = pool.options().clone().min_connections(0).max_connections(1);
        // Each that wants it has a patience of its own, and connecting takes its time however short that is.
        let options = options.acquire_timeout(deadline.max(ONE_MORE));
        let options = options.idle_timeout(None).max_lifetime(None);
        let writers = options
            .test_before_acquire(false)
            .connect_lazy_with(beside.options(file));
        Some((beside, writers))
    }

    /// Returns what the pool connects with at the moment, for this file.
    fn options(&self, file: &DatabaseFile) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::clone(&self.pool.connect_options());
        // That which was found: never another one, and never a new one.
        let options = options.filename(file.path()).create_if_missing(false);
        options.busy_timeout(BUSY_TIMEOUT)
    }

    /// Has the next connection made as the user's pool would make one now, or as before if one like that could not be beside it.
    pub(super) fn follow(&self, writers: &SqlitePool, file: &DatabaseFile) {
        if !needs_its_options(&self.pool.connect_options()) {
            writers.set_connect_options(self.options(file));
        }
    }

    /// Returns whether the user's pool is open. As long as it is, this sees to it that the connection is closed when the pool is. Nothing
    /// that the store ends with is kept by this.
    pub(super) fn is_open(&self, kept: &Kept, writers: &SqlitePool, gathered: &Arc<Gathered>) -> bool {
        if self.pool.is_closed() {
            return false;
        }
        if !self.is_watched.load(Ordering::Acquire)
            && let Ok(runtime) = Handle::try_current()
            && !self.is_watched.swap(true, Ordering::AcqRel)
        {
            let watch = Watch(Arc::clone(&self.is_watched));
            let (closes, kept, writers) = (self.pool.close_event(), kept.downgrade(), writers.clone());
            let gathered = Arc::clone(gathered);
            runtime.spawn(async move {
                let _watch = watch;
                select(pin!(closes), pin!(gathered.ends())).await;
                let kept = kept.upgrade();
                close(kept.as_ref(), &writers, &gathered).await;
            });
        }
        // The event tells of none that was before it.
        !self.pool.is_closed()
    }

    /// Looks at each connection that lies idle in the user's pool, and closes those on which a transaction was left open. A lock
    /// that one keeps, it gives up. It is the writer whose patience this is that waits meanwhile.
    pub(super) async fn look_for_what_was_left(&self, patience: &Patience) {
        const LOOK: &str = "PRAGMA main.locking_mode = normal; BEGIN; SELECT 1 FROM main.sqlite_schema LIMIT 1; COMMIT";
        // The one that has been idle for the longest comes first, and is the last one when it has been given back.
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        let looks = Instant::now();
        for looked in 0..idle.min(self.pool.options().get_max_connections()) {
            if looked > 0 && (patience.remaining().is_zero() || looks.elapsed() >= IDLE_ANSWERS) {
                return;
            }
            let Some(mut idle) = Lent::at_once(&self.pool) else {
                return;
            };
            let answers = patience.for_an_errand().min(IDLE_ANSWERS);
            // If it fails, or is late, it is closed.
            if let Ok(Ok(_)) = timeout(answers, sqlx::raw_sql(LOOK).execute(&mut *idle)).await {
                idle.give_back();
            }
        }
    }
}

/// Lasts as long as the pool is watched.
struct Watch(Arc<AtomicBool>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Returns whether there can be no connection by these options beside others: they have one cache, and wait for each other's
/// tables; or the file is named by a URL, whose parameters (`cache` is one of them) are lost when it is named in full.
pub(super) fn needs_its_options(options: &SqliteConnectOptions) -> bool {
    options
        .get_filename()
        .as_os_str()
        .as_encoded_bytes()
        .starts_with(b"file:")
        || shares_cache(options)
}

/// Returns whether the connections of these options have one cache.
fn shares_cache(options: &SqliteConnectOptions) -> bool {
    // Not every name can be in a URL: `sqlx` panics on `:memory:`.
    let url = options.clone().filename("/").to_url_lossy();
    url.query_pairs()
        .any(|(name, value)| name == "cache" && value == "shared")
}

/// Closes the one connection of a pool of the store's own, and the pool.
pub(super) async fn close(kept: Option<&Kept>, writers: &SqlitePool, gathered: &Gathered) {
    // From here on none is made in its place.
    let closes = writers.close();
    if let Some(mut connection) = kept.and_then(Kept::close) {
        connection.close().await;
    }
    // It waits for the connection of what is under way, whose caller may not be polled.
    select(pin!(closes), pin!(gathered.see_to_it())).await;
}
