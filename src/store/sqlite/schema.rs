//! Our tables, and how a database gets them.
//!
//! Each migration is applied once, in order, all missing ones in one `BEGIN IMMEDIATE` transaction:
//! however many processes open the same new file at once, one applies them and the others find them there.
//! A migration that was released is never edited; a change is another migration.

use sqlx::sqlite::SqliteConnection;

use super::queue::Rank;
use super::writer::{End, Ended, Writer};
use crate::store::StoreError;

/// What is applied, in order. The version of a schema is how many of these it has.
const MIGRATIONS: &[(&str, &str)] = &[("records and fencing tokens", RECORDS)];

const RECORDS: &str = "
-- All times are milliseconds since the Unix epoch, on the database's clock.
CREATE TABLE oneflight_records (
    -- A claim writes a new row in place of the one that stands there. AUTOINCREMENT draws a number that is larger than
    -- all before it, those of deleted rows included.
    token            INTEGER PRIMARY KEY AUTOINCREMENT,
    scope            TEXT    NOT NULL,
    key              TEXT    NOT NULL,
    fingerprint      BLOB    CHECK (length(fingerprint) = 32),
    holder           BLOB    NOT NULL CHECK (length(holder) = 16),
    attempt          INTEGER NOT NULL CHECK (attempt > 0),
    state            TEXT    NOT NULL CHECK (state IN ('in_progress', 'completed')),
    claimed_at       INTEGER NOT NULL,
    lease_expires_at INTEGER,
    completed_at     INTEGER,
    expires_at       INTEGER,
    result           BLOB,
    UNIQUE (scope, key),
    CHECK ((state = 'in_progress') = (lease_expires_at IS NOT NULL)),
    CHECK ((state = 'completed') = (result IS NOT NULL AND completed_at IS NOT NULL AND expires_at IS NOT NULL))
);
CREATE INDEX oneflight_records_by_expiry ON oneflight_records (expires_at) WHERE expires_at IS NOT NULL;
";

/// Creates or upgrades our tables.
pub(super) async fn migrate(writer: &Writer) -> Result<(), StoreError> {
    match writer
        .transaction(Rank::Business, None, |it| Box::pin(apply(it)))
        .await?
    {
        Ended::Committed(()) | Ended::RolledBack(()) => Ok(()),
        Ended::Unknown((), error) => Err(StoreError::unavailable(error)),
    }
}

async fn apply(connection: &mut SqliteConnection) -> Result<(End, ()), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found = version(connection).await.map_err(StoreError::unavailable)?;
    if found > known {
        return Err(StoreError::SchemaTooNew { found, known });
    }
    let missing = usize::try_from(found)
        .ok()
        .and_then(|found| MIGRATIONS.get(found..))
        .ok_or(StoreError::Corrupt {
            what: "the schema's version is negative",
        })?;
    if missing.is_empty() {
        return Ok((End::RollBack, ()));
    }
    for (version, (description, statements)) in (found + 1..).zip(missing) {
        upgrade(connection, version, description, statements)
            .await
            .map_err(StoreError::unavailable)?;
    }
    Ok((End::Commit, ()))
}

/// The version of the schema that is there: 0 if there is none.
async fn version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS oneflight_migrations (
            version     INTEGER PRIMARY KEY,
            description TEXT    NOT NULL,
            applied_at  INTEGER NOT NULL
        )",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM oneflight_migrations")
        .fetch_one(connection)
        .await
}

async fn upgrade(
    connection: &mut SqliteConnection,
    version: i64,
    description: &str,
    statements: &'static str,
) -> sqlx::Result<()> {
    sqlx::raw_sql(statements).execute(&mut *connection).await?;
    sqlx::query(
        "INSERT INTO oneflight_migrations (version, description, applied_at)
         VALUES (?, ?, CAST(unixepoch('subsec') * 1000 AS INTEGER))",
    )
    .bind(version)
    .bind(description)
    .execute(connection)
    .await?;
    Ok(())
}
