//! The shop's own database, with the orders in it: an SQLite file, or a PostgreSQL.
//!
//! All handlers, with `oneflight` and without, use this pool and these tables. The orders have no unique constraint on
//! the key on purpose: whether there is one order per key is what the storm is to find out.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqliteConnection, SqlitePool};

use crate::order::NewOrder;
use crate::row::Row;

const SQLITE_SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS orders (
        id              INTEGER PRIMARY KEY AUTOINCREMENT,
        idempotency_key TEXT NOT NULL,
        correlation_id  TEXT NOT NULL,
        payment         TEXT NOT NULL,
        item            TEXT NOT NULL,
        quantity        INTEGER NOT NULL,
        placed_at       TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
    );
    CREATE INDEX IF NOT EXISTS orders_by_key ON orders (idempotency_key);

    -- Of the naive handler only.
    CREATE TABLE IF NOT EXISTS answers (
        idempotency_key TEXT PRIMARY KEY,
        answer          TEXT NOT NULL
    );
";

/// The number of connections of a service.
pub(crate) const CONNECTIONS: u32 = 8;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The database.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Sqlite(SqlitePool),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
}

/// Does the same in either database: written once, and compiled for both.
macro_rules! in_either {
    ($database:expr, $pool:ident => $what:expr) => {
        match $database {
            Database::Sqlite($pool) => $what,
            #[cfg(feature = "postgres")]
            Database::Postgres($pool) => $what,
        }
    };
}

impl Database {
    /// Opens the file, and makes it and its tables if need be.
    pub(crate) async fn open_file(path: &Path) -> Result<Self, Failure> {
        let options = file(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS);
        let open = async {
            let pool = pool.connect_with(options).await?;
            sqlx::raw_sql(SQLITE_SCHEMA).execute(&pool).await?;
            Self::Sqlite(pool).checked().await
        };
        open.await.map_err(|error| {
            let advice = "is it this shop's file, in a directory that can be written to?";
            about(&path.display(), "opened", &error, advice)
        })
    }

    /// Opens the file of a shop that is there, to look into it: neither file nor tables are made. (Not as read-only: what
    /// a process that was killed has left in the WAL could not be read then.)
    pub(crate) async fn look_into_file(path: &Path) -> Result<Self, Failure> {
        let pool = SqlitePoolOptions::new().max_connections(1);
        let look = async { Self::Sqlite(pool.connect_with(file(path)).await?).checked().await };
        look.await.map_err(|error| {
            about(
                &path.display(),
                "read",
                &error,
                "is it the file that the service writes to?",
            )
        })
    }

    /// Says so now, and not at the first order, if the orders there are not ours.
    pub(crate) async fn checked(self) -> Result<Self, sqlx::Error> {
        const CHECK: &str = "SELECT idempotency_key, correlation_id, payment, item, quantity FROM orders LIMIT 0";
        in_either!(&self, pool => sqlx::query(CHECK).execute(pool).await.map(drop))?;
        Ok(self)
    }

    /// Writes an order on a connection of its own.
    pub(crate) async fn enter(&self, entry: &Entry<'_>) -> Result<i64, sqlx::Error> {
        in_either!(self, pool => pool.acquire().await?.enter(entry).await)
    }

    /// The order that was placed under a key: the first, if there are several.
    pub(crate) async fn find(&self, key: &str) -> Result<Option<Row>, sqlx::Error> {
        const FIND: &str =
            "SELECT id, idempotency_key, item, quantity FROM orders WHERE idempotency_key = $1 ORDER BY id LIMIT 1";
        in_either!(self, pool => sqlx::query_as(FIND).bind(key).fetch_optional(pool).await)
    }

    /// The order of this number.
    pub(crate) async fn order(&self, id: i64) -> Result<Option<Row>, sqlx::Error> {
        const ORDER: &str = "SELECT id, idempotency_key, item, quantity FROM orders WHERE id = $1";
        in_either!(self, pool => sqlx::query_as(ORDER).bind(id).fetch_optional(pool).await)
    }

    /// How many records `oneflight` keeps of a scope.
    pub(crate) async fn count_records(&self, scope: &str) -> Result<i64, sqlx::Error> {
        const COUNT: &str = "SELECT count(*) FROM oneflight_records WHERE scope = $1";
        in_either!(self, pool => sqlx::query_scalar(COUNT).bind(scope).fetch_one(pool).await)
    }

    /// How many answers the naive handler remembers.
    pub(crate) async fn count_answers(&self) -> Result<i64, sqlx::Error> {
        const COUNT: &str = "SELECT count(*) FROM answers";
        in_either!(self, pool => sqlx::query_scalar(COUNT).fetch_one(pool).await)
    }

    /// How many orders there are.
    pub(crate) async fn count(&self) -> Result<i64, sqlx::Error> {
        const COUNT: &str = "SELECT count(*) FROM orders";
        in_either!(self, pool => sqlx::query_scalar(COUNT).fetch_one(pool).await)
    }

    /// The latest orders, the newest first.
    pub(crate) async fn latest(&self, limit: u32) -> Result<Vec<Row>, sqlx::Error> {
        const LATEST: &str = "SELECT id, idempotency_key, item, quantity FROM orders ORDER BY id DESC LIMIT $1";
        in_either!(self, pool => sqlx::query_as(LATEST).bind(i64::from(limit)).fetch_all(pool).await)
    }

    /// Every order whose key begins so, the oldest first.
    pub(crate) async fn with_key_prefix(&self, prefix: &str) -> Result<Vec<Row>, sqlx::Error> {
        const WITH_PREFIX: &str = "SELECT id, idempotency_key, item, quantity FROM orders \
                                   WHERE substr(idempotency_key, 1, length($1)) = $1 ORDER BY id";
        in_either!(self, pool => sqlx::query_as(WITH_PREFIX).bind(prefix).fetch_all(pool).await)
    }

    /// What the naive handler has answered under a key.
    pub(crate) async fn answer(&self, key: &str) -> Result<Option<String>, sqlx::Error> {
        const ANSWER: &str = "SELECT answer FROM answers WHERE idempotency_key = $1";
        in_either!(self, pool => sqlx::query_scalar(ANSWER).bind(key).fetch_optional(pool).await)
    }

    /// Remembers what the naive handler has answered.
    pub(crate) async fn remember(&self, key: &str, answer: String) -> Result<(), sqlx::Error> {
        const REMEMBER: &str = "INSERT INTO answers (idempotency_key, answer) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        in_either!(self, pool => sqlx::query(REMEMBER).bind(key).bind(answer).execute(pool).await.map(drop))
    }

    /// Waits for connections that are in use, and closes them all.
    pub(crate) async fn close(&self) {
        in_either!(self, pool => pool.close().await);
    }
}

/// What an order is written with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'e> {
    pub(crate) key: &'e str,
    pub(crate) correlation_id: &'e str,
    pub(crate) payment: &'e str,
    pub(crate) order: &'e NewOrder,
}

/// A connection on which an order can be written, inside of another part's transaction or outside of any.
pub(crate) trait Orders: Send {
    /// Writes the order, and returns its number. This is the mutation that must happen once.
    fn enter(&mut self, entry: &Entry<'_>) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;
}

impl Orders for SqliteConnection {
    async fn enter(&mut self, entry: &Entry<'_>) -> Result<i64, sqlx::Error> {
        let done = sqlx::query(
            "INSERT INTO orders (idempotency_key, correlation_id, payment, item, quantity) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(entry.key)
        .bind(entry.correlation_id)
        .bind(entry.payment)
        .bind(&entry.order.item)
        .bind(entry.order.quantity)
        .execute(self)
        .await?;
        Ok(done.last_insert_rowid())
    }
}

fn file(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(10))
}

pub(crate) fn about(database: &dyn fmt::Display, done: &str, error: &sqlx::Error, advice: &str) -> Failure {
    format!("the database {database} can't be {done}: {error}; {advice}").into()
}
