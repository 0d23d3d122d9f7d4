//! Opening a database file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

use super::beside::{Beside, ONE_MORE, needs_its_options};
use super::busy::{Patience, is_busy, unavailable};
use super::ending::Commits;
use super::file::{DatabaseFile, about, path_of_file};
use super::lent::Lent;
use super::renewals::Renewing;
use super::schema;
use super::seal;
use super::settings::{self, Settings};
use super::store::SqliteStore;
use super::writer::{Connections, Writer};
use oneflight::store::outbox::Bell;
use oneflight::store::{SchemaStatus, StoreError};

/// How long SQLite itself waits for a lock on the pool that users get.
const USER_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest deadline: some 30 years, which can be added to any instant.
const LONGEST_DEADLINE: Duration = Duration::from_secs(1_000_000_000);

/// How a [`SqliteStore`] is opened. Made by [`SqliteStore::options`].
#[derive(Clone, Debug)]
#[must_use = "options open nothing by themselves"]
pub struct SqliteOptions {
    max_readers: u32,
    busy_deadline: Duration,
    synchronous: SqliteSynchronous,
    schema: Schema,
    /// Whether there is to be no connection beside those of a user's pool, as where there can be none. For tests.
    pub(super) is_on_the_pool_alone: bool,
}

/// What becomes of tables that are missing or older.
#[derive(Clone, Copy, Debug)]
enum Schema {
    Migrate,
    Check,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_readers: 8,
            busy_deadline: Duration::from_secs(30),
            synchronous: SqliteSynchronous::Full,
            schema: Schema::Migrate,
            is_on_the_pool_alone: false,
        }
    }
}

impl SqliteOptions {
    /// Limits the number of connections of [`SqliteStore::pool`], each a thread. The default is 8.
    ///
    /// The writer has a connection of its own. This does not apply to [`from_pool`](Self::from_pool).
    pub fn max_readers(mut self, connections: u32) -> Self {
        self.max_readers = connections.max(1);
        self
    }

    /// Limits the time for which an operation waits for others. The default is 30 s.
    ///
    /// An operation waits for a lock that other processes hold, and then fails with [`StoreError::Busy`]. It waits for
    /// a connection of the pool, and then fails with [`StoreError::NoConnection`]. The writers of this process queue
    /// before that, for up to four times as long. A call with a [patience](oneflight::store::ClaimRequest::patience) of its own waits for
    /// all of them together no longer than that.
    pub fn busy_deadline(mut self, deadline: Duration) -> Self {
        self.busy_deadline = deadline.min(LONGEST_DEADLINE);
        self
    }

    /// Sets how much a commit waits for the disk. The default is `FULL`. This does not apply to
    /// [`from_pool`](Self::from_pool).
    pub fn synchronous(mut self, synchronous: SqliteSynchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Leaves the file and its tables as they are: a file that is missing is not created, and tables of an older version than
    /// this crate's are an error. Apply [`migrations_sql`](Self::migrations_sql) by other means, before the store is opened.
    ///
    /// This is for a tool that looks into the database of a service.
    pub fn without_migrations(mut self) -> Self {
        self.schema = Schema::Check;
        self
    }

    /// Returns our tables as one SQL script for a database without them.
    ///
    /// ```
    /// use oneflight_sqlite::SqliteStore;
    ///
    /// let script = SqliteStore::options().migrations_sql();
    /// assert!(script.contains("CREATE TABLE main.oneflight_records"));
    /// ```
    #[must_use]
    pub fn migrations_sql(&self) -> String {
        self.upgrade_sql(0)
    }

    /// Returns what a database of an earlier version lacks, as one SQL script. The version is the largest in our table
    /// `oneflight_migrations`.
    #[must_use]
    pub fn upgrade_sql(&self, from: usize) -> String {
        schema::print(from)
    }

    /// Returns which migrations a database file has, and which it lacks. Nothing is changed.
    ///
    /// # Errors
    ///
    /// * The file is missing, or cannot be read.
    /// * [`StoreError::Unsupported`] if the path is a URL (`sqlite:`, `file:`) or `:memory:`.
    pub async fn schema_status(&self, path: impl AsRef<Path>) -> Result<SchemaStatus, StoreError> {
        let path = path_of_file(path.as_ref())?;
        let status = async {
            let options = SqliteConnectOptions::new().filename(&path).read_only(true);
            let mut connection = options.busy_timeout(self.busy_deadline).connect().await?;
            let status = schema::status_on(&mut connection).await?;
            connection.close().await?;
            Ok(status)
        };
        status
            .await
            .map_err(|error| about(&path.to_string_lossy(), unavailable(error)))
    }

    /// Opens the database file, and creates or upgrades our tables.
    ///
    /// A file that is missing is created. If the tables are up to date, this waits for no writer.
    ///
    /// # Errors
    ///
    /// * The file cannot be opened.
    /// * [`StoreError::SchemaTooNew`] if a newer version of this crate changed the database so that this one does not work with it.
    /// * [`StoreError::Unsupported`] if the path is a URL (`sqlite:`, `file:`) or `:memory:`, or, [without
    ///   migrations](Self::without_migrations), if some are missing.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<SqliteStore, StoreError> {
        open_file(&self, path.as_ref()).await
    }

    /// Uses a pool of the caller's, and creates or upgrades our tables in its database.
    ///
    /// Work in [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) gets one of its connections.
    /// [`SqliteStore::from_pool`] says what the pool should be like.
    ///
    /// # Errors
    ///
    /// As for [`SqliteStore::from_pool`].
    pub async fn from_pool(self, pool: SqlitePool) -> Result<SqliteStore, StoreError> {
        use_pool(&self, pool).await
    }
}

impl SqliteStore {
    /// Opens the database file, and creates or upgrades our tables.
    ///
    /// A file that is missing is created. If the tables are up to date, this waits for no writer.
    ///
    /// # Errors
    ///
    /// * The file cannot be opened.
    /// * [`StoreError::SchemaTooNew`] if a newer version of this crate changed the database so that this one does not work with it.
    /// * [`StoreError::Unsupported`] if the path is a URL (`sqlite:`, `file:`) or `:memory:`.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::options().open(path).await
    }

    /// Uses a pool of the caller's, and creates or upgrades our tables in its database.
    ///
    /// The database should be in WAL mode. Otherwise reads wait for writers, and a commit waits for readers (it is
    /// tried again until the [deadline](SqliteOptions::busy_deadline)).
    ///
    /// The state in which a connection was left does not matter:
    ///
    /// * A connection on which a transaction was left open, or that may only read (`query_only`), is closed, and
    ///   another one is used.
    /// * In each transaction that writes, `synchronous`, `locking_mode` and `busy_timeout` are what they were on the
    ///   connection that the pool lent first.
    /// * Temporary tables do not take the place of ours.
    /// * What concerns your tables alone, such as `foreign_keys`, is as the connection has it.
    ///
    /// Four things are not compensated for, so leave none of them on connections of this pool: temporary *triggers* on
    /// our tables, which may undo what we write; `PRAGMA full_column_names`, with which our columns are not found; a file
    /// that is attached to be read only, which counts as any other; and a commit hook that is set through the raw handle
    /// (`sqlite3_commit_hook`) after ours, which takes its place unnoticed, so that work may end its transaction by itself: then it is
    /// done, and has no record, and is done again when it is asked for again.
    ///
    /// In WAL mode, the store writes claims, results and renewals on a connection of its own beside those of the pool, which is
    /// made by the pool's options and with its hooks. So it needs a connection of the pool to look at
    /// a record, and for [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx). There is none with `locking_mode=EXCLUSIVE`
    /// or a shared cache, if the file is named by a URL (`file:…`) in place of its path, or if it cannot be made: then the store
    /// writes on connections of the pool. (An `after_connect` that fails for a connection more is tried again for some 10 s, for
    /// which this waits.) What the pool is given later by `set_connect_options` is followed, but for a shared cache or a URL;
    /// with an exclusive lock, neither the pool nor the store can connect once more.
    ///
    /// *End with [`close`](Self::close)*, which closes that connection and the pool, and waits for both. After `pool.close()` the store
    /// writes nothing either, but that returns before the connection is closed: by a task, by the next call that would write, or when
    /// the store is dropped. *Until it is closed, do not copy, overwrite, move or replace the file.* What was committed last is perhaps
    /// in the log (`-wal`) alone, and a copy of the file without it lacks that: records too, without which work is done again. And it
    /// is moved from there into the file at the end, whatever that holds by then: a backup that was copied over it is damaged. While
    /// the connection is open, the file stays in WAL mode: `PRAGMA journal_mode=DELETE` is told that the database is locked.
    ///
    /// What is wanted by several callers at once is done on a thread of the store's, in a runtime of one thread, and so are
    /// renewals. Hooks of the pool (`after_connect`, `before_acquire`, `after_release`) may be called there as well. They must not
    /// call `block_in_place`, which panics there, and what they spawn there ends with the store.
    ///
    /// *In a crowd of `run_in_tx`, one goes on with the connection of another*, up to 16 times or for 100 ms, *without `after_release`
    /// and `before_acquire` in between*. So what work leaves on its connection (a temporary table, an update hook, a setting of its
    /// tenant's) may be there for the next request. Have work begin with what it needs, as if these hooks were not there. And a writer
    /// that is kept waiting for the lock looks at idle connections without `before_acquire`.
    ///
    /// A transaction that was left open *after it wrote* holds the one right to write, until the pool lends its connection and it is
    /// closed, or a writer that waits has found it among the idle ones. Until then all writers wait, as for any other writer.
    ///
    /// A connection whose state is not known is closed rather than given back, and a database *in memory* would be gone
    /// with it: use [`MemoryStore`](oneflight::store::MemoryStore) to keep records in memory. A commit hook of yours on
    /// connections of the pool on which work is done is replaced by ours, which lets everything pass that is not done inside
    /// [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx). With it comes a collation `oneflight_seal`, by
    /// which our statements close and open it; it orders nothing. On the store's own connection there is no hook of ours: one that
    /// your `after_connect` sets stays there, and what it rejects, such as a claim, fails.
    ///
    /// # Errors
    ///
    /// * The database cannot be reached.
    /// * [`StoreError::SchemaTooNew`] if a newer version of this crate changed the database so that this one does not work with it.
    /// * [`StoreError::Unsupported`] for a database in memory with more than one connection, and for one that cannot
    ///   roll back (`journal_mode=OFF`).
    pub async fn from_pool(pool: SqlitePool) -> Result<Self, StoreError> {
        Self::options().from_pool(pool).await
    }

    /// Returns options to open a store with.
    pub fn options() -> SqliteOptions {
        SqliteOptions::default()
    }

    /// Creates or upgrades the tables, unless they are to be left alone.
    async fn prepare(
        options: &SqliteOptions,
        pool: SqlitePool,
        writer: Writer,
        works: Writer,
    ) -> Result<Self, StoreError> {
        let store = Self {
            pool,
            guess: Arc::default(),
            bell: Bell::new(),
            renewals: Renewing::gathered(writer.clone()),
            works: Arc::new(works),
            writer: Arc::new(writer),
        };
        match options.schema {
            Schema::Migrate => schema::migrate(&store).await?,
            Schema::Check => schema::check(&store).await?,
        }
        Ok(store)
    }
}

async fn open_file(options: &SqliteOptions, path: &Path) -> Result<SqliteStore, StoreError> {
    let path = &path_of_file(path)?;
    let opened = create(options, path).await;
    let (file, settings, mode) = opened.map_err(|error| about(&path.to_string_lossy(), error))?;

    // From here on, the file that was found: never another one, and never a new one.
    let connect = connect_to(options, file.path());
    let pool = SqlitePoolOptions::new()
        .max_connections(options.max_readers)
        .acquire_timeout(options.busy_deadline)
        .test_before_acquire(false)
        .connect_lazy_with(connect.clone());
    // One connection that stays: its statements remain prepared, its page cache warm.
    let writers = SqlitePoolOptions::new()
        .after_connect(|connection, _| Box::pin(seal::install(connection)))
        .max_connections(1)
        .acquire_timeout(options.busy_deadline)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(connect.busy_timeout(settings::BUSY_TIMEOUT));
    let writer = Writer::new(
        writers,
        options.busy_deadline,
        Connections::Own,
        Commits::in_mode(&mode)?,
        file,
        settings,
    );
    SqliteStore::prepare(options, pool, writer.clone(), writer).await
}

fn connect_to(options: &SqliteOptions, path: impl AsRef<Path>) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(USER_BUSY_TIMEOUT)
        .synchronous(options.synchronous)
}

/// Creates the file if it is missing, and sees to it that it is in WAL mode.
async fn create(options: &SqliteOptions, path: &Path) -> Result<(DatabaseFile, Settings, String), StoreError> {
    // WAL is a property of the file. Turning it on takes a lock that SQLite does not wait for. So it is done once,
    // here, with patience, and not by every connection of a pool.
    let first = connect_to(options, path).busy_timeout(settings::BUSY_TIMEOUT);
    let first = match options.schema {
        Schema::Migrate => first.create_if_missing(true).journal_mode(SqliteJournalMode::Wal),
        Schema::Check => first,
    };
    let mut patience = Patience::new(options.busy_deadline);
    let mut connection = loop {
        match first.connect().await {
            Err(error) if is_busy(&error) => patience.pause().await?,
            Err(error) => return Err(unavailable(error)),
            Ok(connection) => break connection,
        }
    };
    let (file, settings, mode) = ask(&mut connection).await.map_err(unavailable)?;
    connection.close().await.map_err(unavailable)?;
    Ok((file, settings, mode))
}

/// Uses a pool of the caller's.
async fn use_pool(options: &SqliteOptions, pool: SqlitePool) -> Result<SqliteStore, StoreError> {
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
    let commits = Commits::in_mode(&mode)?;
    let deadline = options.busy_deadline;
    let new = |pool, connections, file, settings| Writer::new(pool, deadline, connections, commits, file, settings);
    if !options.is_on_the_pool_alone
        && let Some((beside, writers)) = Beside::of(&pool, &file, &settings, commits, deadline)
        && let Some(connection) = connection_to(&file, &writers).await
    {
        let writer = new(writers, Connections::Own, file, settings.of_our_own()).beside(beside, connection);
        let works = writer.on(pool.clone(), settings);
        return SqliteStore::prepare(options, pool, writer, works).await;
    }
    let mut writer = new(pool.clone(), Connections::Users, file, settings);
    if needs_its_options(&pool.connect_options()) {
        writer = writer.claiming_first();
    }
    SqliteStore::prepare(options, pool, writer.clone(), writer).await
}

/// Returns a connection to a file in WAL mode, if there can be one more.
async fn connection_to(file: &DatabaseFile, pool: &SqlitePool) -> Option<Lent> {
    let mut connection = Lent::by(pool, &Patience::new(ONE_MORE)).await.ok()?;
    let asked = timeout(ONE_MORE, ask(&mut connection)).await.ok()?;
    let (found, settings, mode) = asked.ok()?;
    let is_of_use = found == *file && !settings.lock_for_good() && mode == "wal";
    is_of_use.then_some(connection)
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
