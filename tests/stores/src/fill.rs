//! Records by the million, written straight into the tables, as completed records of an earlier day would stand there.
//!
//! Keys are scattered, as random ones are, and known by their number.

use std::time::Duration;

use oneflight::identity::{RequestIdentity, Scope};
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight_postgres::PostgresStore;
use oneflight_sqlite::SqliteStore;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgPool};

use crate::Failure;

/// What multiplies a number into a key: odd, so that no two numbers below 2^32 share one.
const SCATTER: u64 = 2_654_435_761;

/// How many rows SQLite writes in one transaction.
const SQLITE_BATCH: u64 = 500_000;

/// Records that are replayed for another day, or were until a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retention {
    Runs,
    IsOver,
}

impl Retention {
    /// From now to the end of the last record's retention, in milliseconds.
    fn millis(self) -> i64 {
        match self {
            Self::Runs => 24 * 60 * 60 * 1000,
            Self::IsOver => -60_000,
        }
    }
}

fn scope() -> Scope {
    Scope::new("tenant-7").route("POST /orders")
}

/// The identity of the record with this number.
pub(crate) fn known(number: u64) -> Result<RequestIdentity, Failure> {
    let scattered = number.wrapping_mul(SCATTER) % (1 << 32);
    Ok(RequestIdentity::new(
        scope(),
        format!("{scattered:08x}-0000-4000-8000-000000000000"),
    )?)
}

/// An identity of which there is no record, and which falls among those that there are.
pub(crate) fn new(number: u64) -> Result<RequestIdentity, Failure> {
    let scattered = fastrand::u32(..);
    Ok(RequestIdentity::new(
        scope(),
        format!("{scattered:08x}-0000-4000-9000-{number:012x}"),
    )?)
}

pub(crate) fn result() -> RecordedResult {
    RecordedResult::value(
        Verdict::Performed,
        CodecId::Json,
        br#"{"order_id":4711,"item":"tea","quantity":2}"#,
    )
}

/// Writes records with the numbers from 1 to `count`.
pub(crate) async fn postgres(store: &PostgresStore, count: u64, retention: Retention) -> Result<(), Failure> {
    let pool: &PgPool = store.pool();
    let text_of_scope = known(1)?.scope().to_owned();
    let mut connection = pool.acquire().await?;
    // The primary key is built afterwards: the rows lie scattered, as they would after so many random inserts.
    sqlx::raw_sql(
        "SET maintenance_work_mem = '512MB'; ALTER TABLE oneflight_records DROP CONSTRAINT oneflight_records_pkey",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO oneflight_records
            (scope, key, token, holder, attempt, claimed_at, completed_at, expires_at, result)
         SELECT $1, lpad(to_hex((n * {SCATTER}) % 4294967296), 8, '0') || '-0000-4000-8000-000000000000', n,
                decode(repeat('00', 16), 'hex'), 1, now, now, now + $2 - ($3 - n) / 1000, $4
         FROM generate_series(1, $3) n, (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now) instant"
    )))
    .bind(text_of_scope)
    .bind(retention.millis())
    .bind(i64::try_from(count)?)
    .bind(result().as_bytes())
    .execute(&mut *connection)
    .await?;
    sqlx::query("SELECT setval('oneflight_tokens', $1)")
        .bind(i64::try_from(count)?)
        .execute(&mut *connection)
        .await?;
    sqlx::query("ALTER TABLE oneflight_records ADD PRIMARY KEY (scope, key)")
        .execute(&mut *connection)
        .await?;
    sqlx::query("VACUUM ANALYZE oneflight_records")
        .execute(&mut *connection)
        .await?;
    sqlx::query("CHECKPOINT").execute(&mut *connection).await?;
    Ok(())
}

/// Writes records with the numbers from 1 to `count` into the file of a store.
pub(crate) async fn sqlite(store: &SqliteStore, count: u64, retention: Retention) -> Result<(), Failure> {
    let options: SqliteConnectOptions = (*store.pool().connect_options()).clone();
    // It is not what is measured: in memory as far as it can be, and the disk is not waited for.
    let mut connection = options
        .pragma("cache_size", "-1500000")
        .synchronous(sqlx::sqlite::SqliteSynchronous::Off)
        .busy_timeout(Duration::from_secs(10))
        .connect()
        .await?;
    let text_of_scope = known(1)?.scope().to_owned();
    let mut from = 1;
    while from <= count {
        let to = (from + SQLITE_BATCH - 1).min(count);
        sqlx::query(AssertSqlSafe(format!(
            "WITH RECURSIVE numbers (n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $2)
             INSERT INTO oneflight_records
                (token, scope, key, holder, attempt, state, claimed_at, completed_at, expires_at, result)
             SELECT n, $3, printf('%08x-0000-4000-8000-000000000000', (n * {SCATTER}) % 4294967296), zeroblob(16), 1,
                    'completed', now, now, now + $4 - ($5 - n) / 1000, $6
             FROM numbers, (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)"
        )))
        .bind(i64::try_from(from)?)
        .bind(i64::try_from(to)?)
        .bind(&text_of_scope)
        .bind(retention.millis())
        .bind(i64::try_from(count)?)
        .bind(result().as_bytes())
        .execute(&mut connection)
        .await?;
        from = to + 1;
    }
    sqlx::query("ANALYZE").execute(&mut connection).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}
