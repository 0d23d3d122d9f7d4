//! Opening a database file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions, Connection};

use super::busy::{Patience, is_busy, unavailable};
use super::ending::Commits;
use super::file::{DatabaseFile, about};
use super::lent::Lent;
use super::seal::{Seal, Seals};
use super::settings::{self, Settings};
use super::writer::Writer;
use super::{SqliteOptions, SqliteStore};
use oneflight::store::StoreError;

/// How long SQLite itself waits for a lock on the pool that users get.
const USER_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn file(options: &SqliteOptions, path: &Path) -> Result<SqliteStore, StoreError> {
    let name = path.as_os_str().as_encoded_bytes();
    if name.is_empty() || name == b":memory:" {
        return Err(StoreError::Unsupported {
            advice: "SqliteStore::open takes the path of a file; use MemoryStore to keep records in memory",
        });
    }
    if name.starts_with(b"sqlite:") || name.starts_with(b"file:") {
        return Err(StoreError::Unsupported {
            advice: "SqliteStore::open takes the path of a file, not a URL: leave out the scheme, or make a pool of the URL \
                     and use SqliteStore::from_pool (a file of such a name is opened by a path, such as ./sqlite:name); \
                     use MemoryStore to keep records in memory",
        });
    }
    // The name of a file in a directory, whatever it is: SQLite gives some names a meaning.
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let opened = create(options, path).await;
    let (file, settings) = opened.map_err(|error| about(&path.to_string_lossy(), error))?;

    // From here on, the file that was found: never another one, and never a new one.
    let connect = connect_to(options, file.path());
    let pool = SqlitePoolOptions::new()
        .max_connections(options.max_readers)
        .acquire_timeout(options.busy_deadline)
        .test_before_acquire(false)
        .connect_lazy_with(connect.clone());
    // One connection that stays: its statements remain prepared, its page cache warm.
    let kept = Arc::new(Mutex::new(None));
    let seals = Seals::Kept(Arc::clone(&kept));
    let writers = SqlitePoolOptions::new()
        .after_connect(move |connection, _| {
            let kept = Arc::clone(&kept);
            Box::pin(async move {
                let seal = Seal::install(connection).await?;
                *kept.lock() = Some(seal);
                Ok(())
            })
        })
        .max_connections(1)
        .acquire_timeout(options.busy_deadline)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(connect.busy_timeout(settings::BUSY_TIMEOUT));
    let writer = Writer::new(writers, options.busy_deadline, seals, Commits::AtOnce, file, settings);
    SqliteStore::prepare(pool, writer).await
}

fn connect_to(options: &SqliteOptions, path: impl AsRef<Path>) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(USER_BUSY_TIMEOUT)
        .synchronous(options.synchronous)
}

/// Creates the file if it is missing, and sees to it that it is in WAL mode.
async fn create(options: &SqliteOptions, path: &Path) -> Result<(DatabaseFile, Settings), StoreError> {
    // WAL is a property of the file. Turning it on takes a lock that SQLite does not wait for. So it is done once,
    // here, with patience, and not by every connection of a pool.
    let first = connect_to(options, path)
        .create_if_missing(true)
        .busy_timeout(settings::BUSY_TIMEOUT)
        .journal_mode(SqliteJournalMode::Wal);
    let mut patience = Patience::new(options.busy_deadline);
    let mut connection = loop {
        match first.connect().await {
            Err(error) if is_busy(&error) => patience.pause().await?,
            Err(error) => return Err(unavailable(error)),
            Ok(connection) => break connection,
        }
    };
    let (file, settings, _) = ask(&mut connection).await.map_err(unavailable)?;
    connection.close().await.map_err(unavailable)?;
    Ok((file, settings))
}

/// Uses a pool of the caller's.
pub(super) async fn pool(options: &SqliteOptions, pool: SqlitePool) -> Result<SqliteStore, StoreError> {
    let asked = async {
        let mut connection = Lent::by(&pool, &Patience::new(options.busy_deadline)).await?;
        let asked = ask(&mut connection).await.map_err(unavailable)?;
        connection.give_back();
        Ok(asked)
    };
    let (file, settings, mode) = asked
        .await
        .map_err(|error| about(&pool.connect_options().get_filename().to_string_lossy(), error))?;
    if file.is_in_memory() && pool.options().get_max_connections() > 1 {
        return Err(StoreError::Unsupported {
            advice: "a database in memory, or a temporary one, is gone with its connections, and each may have one of its \
                     own: allow the pool one connection, which never ends (max_connections(1), no idle_timeout, no \
                     max_lifetime), or use a file, or MemoryStore",
        });
    }
    // A property of the file, which may be changed later: then a commit can fail for want of a lock, and is rolled
    // back.
    let commits = match mode.as_str() {
        "wal" => Commits::AtOnce,
        "off" => {
            return Err(StoreError::Unsupported {
                advice: "with journal_mode=OFF nothing can be rolled back; use WAL",
            });
        }
        _ => Commits::AfterReaders,
    };
    let writer = Writer::new(pool.clone(), options.busy_deadline, Seals::New, commits, file, settings);
    SqliteStore::prepare(pool, writer).await
}

/// Reads what has to be known of a pool's database and its connections.
async fn ask(connection: &mut SqliteConnection) -> sqlx::Result<(DatabaseFile, Settings, String)> {
    let file = DatabaseFile::of(&mut *connection).await?;
    let settings = Settings::of(&mut *connection).await?;
    let mode = sqlx::query_scalar("PRAGMA main.journal_mode")
        .fetch_one(connection)
        .await?;
    Ok((file, settings, mode))
}
