//! The server behind a store, as a program of the user's own would ask it.

use std::time::{Duration, SystemTime};

use oneflight::store::StoreError;
use oneflight_postgres::store_error;
use redis::aio::MultiplexedConnection;
use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;
use sqlx::{query, query_scalar};

use crate::exit::Failure;
use crate::store::{Address, AnyStore, unreachable};

/// A connection to it, or a pool of them.
#[derive(Clone)]
pub(super) enum Server {
    Sqlite(SqlitePool),
    Postgres(PgPool),
    Redis(MultiplexedConnection),
}

impl Server {
    pub(super) async fn of(address: &Address, store: &AnyStore) -> Result<Self, Failure> {
        Ok(match store {
            AnyStore::Sqlite(store) => Self::Sqlite(store.pool().clone()),
            AnyStore::Postgres(store) => Self::Postgres(store.pool().clone()),
            AnyStore::Redis(_) => {
                let client = redis::Client::open(address.url.as_deref().unwrap_or_default());
                let connection = match client {
                    Ok(client) => client.get_multiplexed_async_connection().await,
                    Err(error) => Err(error),
                };
                Self::Redis(connection.map_err(|error| unreachable(lost(error)))?)
            }
        })
    }

    /// Returns the server's name and version.
    pub(super) async fn version(&self) -> Result<String, StoreError> {
        Ok(match self {
            Self::Sqlite(pool) => {
                let version: String = query_scalar("SELECT sqlite_version()")
                    .fetch_one(pool)
                    .await
                    .map_err(lost)?;
                format!("SQLite {version}")
            }
            Self::Postgres(pool) => {
                let version: String = query_scalar("SHOW server_version")
                    .fetch_one(pool)
                    .await
                    .map_err(store_error)?;
                format!("PostgreSQL {version}")
            }
            Self::Redis(connection) => {
                let mut connection = connection.clone();
                let info: String = redis::cmd("INFO")
                    .arg("server")
                    .query_async(&mut connection)
                    .await
                    .map_err(lost)?;
                let told = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                // Valkey says that it is Redis as well, for the sake of its clients.
                match (told("valkey_version"), told("redis_version")) {
                    (Some(version), _) => format!("Valkey {version}"),
                    (None, version) => format!("Redis {}", version.unwrap_or("of an unknown version")),
                }
            }
        })
    }

    /// Asks the server for nothing.
    pub(super) async fn trip(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(pool) => query("SELECT 1").execute(pool).await.map(drop).map_err(lost),
            Self::Postgres(pool) => query("SELECT 1").execute(pool).await.map(drop).map_err(store_error),
            Self::Redis(connection) => {
                let mut connection = connection.clone();
                redis::cmd("PING").query_async(&mut connection).await.map_err(lost)
            }
        }
    }

    /// Returns what its clock says, if that is another one than ours.
    pub(super) async fn now(&self) -> Result<Option<SystemTime>, StoreError> {
        let since = match self {
            Self::Sqlite(_) => return Ok(None),
            Self::Postgres(pool) => {
                let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
                let micros: i64 = query_scalar(clock).fetch_one(pool).await.map_err(store_error)?;
                Duration::from_micros(micros.unsigned_abs())
            }
            Self::Redis(connection) => {
                let mut connection = connection.clone();
                let time = redis::cmd("TIME").query_async(&mut connection).await;
                let (seconds, micros): (u64, u64) = time.map_err(lost)?;
                Duration::from_secs(seconds) + Duration::from_micros(micros)
            }
        };
        Ok(Some(SystemTime::UNIX_EPOCH + since))
    }
}

/// Wraps the error of a driver.
pub(super) fn lost(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::unavailable(error)
}
