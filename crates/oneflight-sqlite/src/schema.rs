//! Our tables, and how a database gets them.
//!
//! Each migration is applied once, in order, all missing ones in one `BEGIN IMMEDIATE` transaction. However many
//! processes open the same new file at once, one applies them and the others find them there. A migration that was
//! released is never edited; a change is another migration.

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::busy::unavailable;
use super::ending::{End, Ended};
use super::file::databases;
use super::queue::Rank;
use super::store::SqliteStore;
use oneflight::store::{SchemaStatus, StoreError};

const TABLES: &str = concat!(
    "BEGIN;
     SELECT *, EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'oneflight_migrations') AS found FROM ",
    databases!(),
    "; COMMIT"
);
const NEWEST: &str = concat!(
    "BEGIN;
     SELECT *, (SELECT coalesce(max(version), 0) FROM main.oneflight_migrations) AS found FROM ",
    databases!(),
    "; COMMIT"
);

/// The migrations, in order: a description, and one of the files in `migrations/`. The version of a schema is the
/// number of these that it has.
const MIGRATIONS: &[(&str, &str)] = &[
    (
        "records and fencing tokens",
        include_str!("../migrations/0001_records.sql"),
    ),
    ("the outbox", include_str!("../migrations/0002_outbox.sql")),
    ("steps of mutations", include_str!("../migrations/0003_steps.sql")),
    (
        "requests that are held, and correlation ids",
        include_str!("../migrations/0004_held_and_correlation.sql"),
    ),
];

const APPLIED_TABLE: &str = "CREATE TABLE IF NOT EXISTS main.oneflight_migrations (
            version     INTEGER PRIMARY KEY,
            description TEXT    NOT NULL,
            applied_at  INTEGER NOT NULL
        )";

/// Returns the migrations that a database of this version lacks, as one script: all of them for an empty one, which is of
/// version 0.
pub(super) fn print(from: usize) -> String {
    let mut script = format!("BEGIN IMMEDIATE;\n{APPLIED_TABLE};\n");
    for (version, (description, statements)) in (1..).zip(MIGRATIONS).skip(from) {
        script.push_str(&format!(
            "\n-- Version {version}: {description}\n{statements}INSERT INTO main.oneflight_migrations (version, description, applied_at)
VALUES ({version}, '{description}', CAST(unixepoch('subsec') * 1000 AS INTEGER));\n"
        ));
    }
    script.push_str("COMMIT;\n");
    script
}

/// Tells which migrations a database of this version has, and which it lacks. One that is newer lacks none.
pub(super) fn status(found: i64) -> SchemaStatus {
    let all = (1..)
        .zip(MIGRATIONS)
        .map(|(version, (description, _))| (version, *description));
    SchemaStatus {
        found,
        known: known(),
        missing: all.filter(|(version, _)| *version > found).collect(),
    }
}

/// Fails if the tables are not what this version works with.
pub(super) async fn check(store: &SqliteStore) -> Result<(), StoreError> {
    match missing(look(store).await?)?.is_empty() {
        true => Ok(()),
        false => Err(StoreError::Unsupported {
            advice: "the tables are missing or older than this version; apply what `migrations_sql` or `upgrade_sql` prints \
                     first, or let the service do so",
        }),
    }
}

/// Returns the version of the schema on a connection, and changes nothing: 0 if there is none.
pub(super) async fn found_on(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    let look = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'oneflight_migrations')";
    let there: bool = sqlx::query_scalar(look).fetch_one(&mut *connection).await?;
    if !there {
        return Ok(0);
    }
    newest(connection).await
}

async fn newest(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM main.oneflight_migrations")
        .fetch_one(connection)
        .await
}

/// Creates or upgrades our tables. Waits for the writer only if there is something to do.
pub(super) async fn migrate(store: &SqliteStore) -> Result<(), StoreError> {
    if missing(look(store).await?)?.is_empty() {
        return Ok(());
    }
    match store
        .writer
        .transaction(Rank::Business, None, |it| Box::pin(apply(it)))
        .await?
    {
        Ended::Committed(()) | Ended::RolledBack(()) => Ok(()),
        Ended::Unknown((), error) => Err(store.writer.unavailable(error)),
    }
}

/// Returns the version of the schema that existed a moment ago: 0 if there was none.
async fn look(store: &SqliteStore) -> Result<i64, StoreError> {
    let mut found = 0;
    for look in [TABLES, NEWEST] {
        let rows = store.fetch(None, || sqlx::query(look)).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound);
        found = row
            .and_then(|row| row.try_get("found"))
            .map_err(|error| store.writer.unavailable(error))?;
        if found == 0 {
            break;
        }
    }
    Ok(found)
}

/// Returns the version of the schema that this crate works with.
pub(super) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Returns what is to be applied to a schema of this version.
fn missing(found: i64) -> Result<&'static [(&'static str, &'static str)], StoreError> {
    let known = known();
    if found > known {
        return Err(StoreError::SchemaTooNew { found, known });
    }
    usize::try_from(found)
        .ok()
        .and_then(|found| MIGRATIONS.get(found..))
        .ok_or(StoreError::Corrupt {
            what: "the schema's version is negative",
        })
}

async fn apply(connection: &mut SqliteConnection) -> Result<(End, ()), StoreError> {
    let found = version(connection).await.map_err(unavailable)?;
    let missing = missing(found)?;
    if missing.is_empty() {
        return Ok((End::RollBack, ()));
    }
    for (version, (description, statements)) in (found + 1..).zip(missing) {
        upgrade(connection, version, description, statements)
            .await
            .map_err(unavailable)?;
    }
    Ok((End::Commit, ()))
}

/// Returns the version of the schema: 0 if there is none.
async fn version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::raw_sql(APPLIED_TABLE).execute(&mut *connection).await?;
    newest(connection).await
}

async fn upgrade(
    connection: &mut SqliteConnection,
    version: i64,
    description: &str,
    statements: &'static str,
) -> sqlx::Result<()> {
    sqlx::raw_sql(statements).execute(&mut *connection).await?;
    sqlx::query(
        "INSERT INTO main.oneflight_migrations (version, description, applied_at)
         VALUES (?, ?, CAST(unixepoch('subsec') * 1000 AS INTEGER))",
    )
    .bind(version)
    .bind(description)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_migrations_are_the_numbered_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|it| it.unwrap().path())
            .collect();
        files.sort();
        assert_eq!(files.len(), MIGRATIONS.len());
        for ((number, file), (_, statements)) in (1..).zip(files).zip(MIGRATIONS) {
            let name = file.file_name().unwrap().to_string_lossy();
            assert!(
                name.starts_with(&format!("{number:04}_")),
                "{name} is not number {number}"
            );
            assert_eq!(std::fs::read_to_string(&file).unwrap(), *statements, "{name}");
        }
    }
}
