//! The shop's own database: one SQLite file, with the orders in it.
//!
//! Both handlers, with `oneflight` and without, use this pool and these tables. The orders have no unique constraint on
//! the key on purpose: whether there is one order per key is what the storm is to find out.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{FromRow, Row as _, SqliteConnection, SqlitePool};

use crate::order::NewOrder;

const SCHEMA: &str = "
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

/// A row of the orders.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) id: i64,
    #[serde(skip)]
    pub(crate) idempotency_key: String,
    pub(crate) item: String,
    pub(crate) quantity: u32,
}

impl FromRow<'_, SqliteRow> for Row {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            idempotency_key: row.try_get("idempotency_key")?,
            item: row.try_get("item")?,
            quantity: row.try_get("quantity")?,
        })
    }
}

/// Opens the file, and makes it and its tables if need be.
pub(crate) async fn open(path: &Path) -> Result<SqlitePool, Box<dyn Error + Send + Sync>> {
    let options = options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let connect = async {
        let pool = SqlitePoolOptions::new()
            .max_connections(8)
            .connect_with(options)
            .await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        check(&pool).await?;
        Ok::<_, sqlx::Error>(pool)
    };
    connect.await.map_err(|error| {
        format!(
            "the database {} can't be opened: {error}; is it this shop's file, in a directory that can be written to?",
            path.display()
        )
        .into()
    })
}

/// Opens the file of a shop that is there, to look into it: neither file nor tables are made. (Not as read-only: what a
/// process that was killed has left in the WAL could not be read then.)
pub(crate) async fn look_into(path: &Path) -> Result<SqlitePool, Box<dyn Error + Send + Sync>> {
    let connect = async {
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options(path))
            .await?;
        check(&pool).await?;
        Ok::<_, sqlx::Error>(pool)
    };
    connect.await.map_err(|error| {
        format!(
            "the database {} can't be read: {error}; is it the file that the service writes to?",
            path.display()
        )
        .into()
    })
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(10))
}

/// Says so now, and not at the first order, if the orders there are not ours.
async fn check(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT idempotency_key, correlation_id, payment, item, quantity FROM orders LIMIT 0")
        .execute(pool)
        .await?;
    Ok(())
}

/// Writes the order. This is the mutation that must happen once.
pub(crate) async fn insert_order(
    connection: &mut SqliteConnection,
    key: &str,
    correlation_id: &str,
    payment: &str,
    order: &NewOrder,
) -> Result<i64, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO orders (idempotency_key, correlation_id, payment, item, quantity) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(key)
    .bind(correlation_id)
    .bind(payment)
    .bind(&order.item)
    .bind(order.quantity)
    .execute(connection)
    .await?;
    Ok(done.last_insert_rowid())
}

/// How many orders there are.
pub(crate) async fn count(pool: &SqlitePool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(pool).await
}

/// The latest orders, the newest first.
pub(crate) async fn latest(pool: &SqlitePool, limit: u32) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as("SELECT id, idempotency_key, item, quantity FROM orders ORDER BY id DESC LIMIT ?")
        .bind(limit)
        .fetch_all(pool)
        .await
}

/// Every order whose key begins so, the oldest first.
pub(crate) async fn with_key_prefix(pool: &SqlitePool, prefix: &str) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, idempotency_key, item, quantity FROM orders \
         WHERE substr(idempotency_key, 1, length(?1)) = ?1 ORDER BY id",
    )
    .bind(prefix)
    .fetch_all(pool)
    .await
}
