//! Our tables, and how a database gets them.
//!
//! All missing [migrations](Migration) are applied in one `BEGIN IMMEDIATE` transaction. However many processes open the same
//! new file at once, one applies them and the others find them there.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row};

use super::busy::unavailable;
use super::ending::{End, Ended};
use super::file::databases;
use super::queue::Rank;
use super::store::SqliteStore;
use oneflight::store::{Migration, SchemaStatus, StoreError};

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
/// The oldest version that works with the schema. A migration that does not say breaks with all before it.
const FLOOR: &str = concat!(
    "BEGIN;
     SELECT *, (SELECT max(coalesce(compatible_from, version)) FROM main.oneflight_migrations) AS found FROM ",
    databases!(),
    "; COMMIT"
);

/// The migration from which on the database tells which versions work with it.
const COMPATIBILITY: i64 = 6;

/// The files in `migrations/`, in order.
const MIGRATIONS: &[Migration] = &[
    Migration {
        description: "records and fencing tokens",
        sql: include_str!("../migrations/0001_records.sql"),
        compatible_from: None,
    },
    Migration {
        description: "the outbox",
        sql: include_str!("../migrations/0002_outbox.sql"),
        compatible_from: None,
    },
    Migration {
        description: "steps of mutations",
        sql: include_str!("../migrations/0003_steps.sql"),
        compatible_from: None,
    },
    Migration {
        description: "requests that are held, and correlation ids",
        sql: include_str!("../migrations/0004_held_and_correlation.sql"),
        compatible_from: None,
    },
    Migration {
        description: "topics that are paused",
        sql: include_str!("../migrations/0005_paused.sql"),
        compatible_from: None,
    },
    Migration {
        description: "which versions work with a schema",
        sql: include_str!("../migrations/0006_compatibility.sql"),
        compatible_from: None,
    },
];

const APPLIED_TABLE: &str = "CREATE TABLE IF NOT EXISTS main.oneflight_migrations (
            version     INTEGER PRIMARY KEY,
            description TEXT    NOT NULL,
            applied_at  INTEGER NOT NULL
        )";

/// Returns the migrations that a database of this version lacks, as one script: all of them for an empty one, which is of
/// version 0.
pub(super) fn print(from: usize) -> String {
    script(MIGRATIONS, from)
}

fn script(migrations: &[Migration], from: usize) -> String {
    let mut script = format!("BEGIN IMMEDIATE;\n{APPLIED_TABLE};\n");
    for (version, migration) in (1..).zip(migrations).skip(from) {
        script.push_str(&format!(
            "\n-- Version {version}: {}\n{}{}",
            migration.description,
            migration.sql,
            applied(version, migration)
        ));
    }
    script.push_str("COMMIT;\n");
    script
}

/// Notes that a migration was applied.
fn applied(version: i64, migration: &Migration) -> String {
    let (description, now) = (migration.description, "CAST(unixepoch('subsec') * 1000 AS INTEGER)");
    match version < COMPATIBILITY {
        true => format!(
            "INSERT INTO main.oneflight_migrations (version, description, applied_at)
VALUES ({version}, '{description}', {now});\n"
        ),
        false => format!(
            "INSERT INTO main.oneflight_migrations (version, description, applied_at, compatible_from)
VALUES ({version}, '{description}', {now}, {});\n",
            migration.floor(version)
        ),
    }
}

/// Tells which migrations the database of a connection has, and which it lacks, and changes nothing. One that is newer lacks
/// none.
pub(super) async fn status_on(connection: &mut SqliteConnection) -> sqlx::Result<SchemaStatus> {
    let found = found_on(&mut *connection).await?;
    let says = match found > known() {
        true => {
            let floor = "SELECT max(coalesce(compatible_from, version)) FROM main.oneflight_migrations";
            sqlx::query_scalar(floor).fetch_one(connection).await?
        }
        false => None,
    };
    Ok(SchemaStatus::of(MIGRATIONS, found, says))
}

/// Fails if the tables are not what this version works with.
pub(super) async fn check(store: &SqliteStore) -> Result<(), StoreError> {
    match look(store).await?.is_complete() {
        true => Ok(()),
        false => Err(StoreError::Unsupported {
            advice: "the tables are missing or older than this version; apply what `migrations_sql` or `upgrade_sql` prints \
                     first, or let the service do so",
        }),
    }
}

/// Returns the version of the schema on a connection, and changes nothing: 0 if there is none.
async fn found_on(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
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
    if look(store).await?.is_complete() {
        return Ok(());
    }
    match store
        .writer
        .transaction(Rank::Business, None, |it| Box::pin(apply(it)))
        .await?
    {
        Ended::Committed(()) => Ok(()),
        // Another process was faster. It may have gone further than this one can follow.
        Ended::RolledBack(()) => look(store).await.map(drop),
        Ended::Unknown((), error) => Err(store.writer.unavailable(error)),
    }
}

/// Tells of the schema that existed a moment ago, if this version works with it or is to upgrade it.
async fn look(store: &SqliteStore) -> Result<SchemaStatus, StoreError> {
    let found = match ask(store, TABLES).await? {
        0 => 0,
        _ => ask(store, NEWEST).await?,
    };
    let says = match found > known() {
        true => Some(ask(store, FLOOR).await?),
        false => None,
    };
    SchemaStatus::of(MIGRATIONS, found, says).usable()
}

/// Returns what a statement has `found`.
async fn ask(store: &SqliteStore, question: &'static str) -> Result<i64, StoreError> {
    let rows = store.fetch(None, || sqlx::query(question)).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound);
    row.and_then(|row| row.try_get("found"))
        .map_err(|error| store.writer.unavailable(error))
}

/// Returns the version of the schema that this crate works with.
pub(super) fn known() -> i64 {
    Migration::newest(MIGRATIONS)
}

async fn apply(connection: &mut SqliteConnection) -> Result<(End, ()), StoreError> {
    let found = version(connection).await.map_err(unavailable)?;
    let status = SchemaStatus::of(MIGRATIONS, found, None).usable()?;
    // Another process was faster.
    if status.is_complete() {
        return Ok((End::RollBack, ()));
    }
    for (version, migration) in Migration::missing(MIGRATIONS, found) {
        let statements = format!("{}{}", migration.sql, applied(version, migration));
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(&mut *connection)
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
        for ((number, file), migration) in (1..).zip(files).zip(MIGRATIONS) {
            let name = file.file_name().unwrap().to_string_lossy();
            assert!(
                name.starts_with(&format!("{number:04}_")),
                "{name} is not number {number}"
            );
            assert_eq!(std::fs::read_to_string(&file).unwrap(), migration.sql, "{name}");
        }
    }

    #[tokio::test]
    async fn a_database_says_which_versions_work_with_what_was_applied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("later.db");
        let migration = |sql, compatible_from| Migration {
            description: "of tomorrow",
            sql,
            compatible_from,
        };
        let mut migrations = MIGRATIONS.to_vec();
        let (options, known) = (SqliteStore::options, known());
        options().open(&path).await.unwrap();
        for (sql, compatible_from, floor) in [
            ("CREATE TABLE main.a (one INTEGER);\n", Some(known), known),
            (
                "ALTER TABLE main.oneflight_relays DROP COLUMN beats;\n",
                None,
                known + 2,
            ),
            ("CREATE TABLE main.b (one INTEGER);\n", Some(known + 2), known + 2),
        ] {
            let from = migrations.len();
            migrations.push(migration(sql, compatible_from));
            let connect = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
            let pool = sqlx::SqlitePool::connect_with(connect).await.unwrap();
            let script = AssertSqlSafe(script(&migrations, from));
            sqlx::raw_sql(script).execute(&pool).await.unwrap();
            pool.close().await;
            let status = options().schema_status(&path).await.unwrap();
            assert_eq!(status.compatible_from, floor);
            assert_eq!(options().open(&path).await.is_ok(), floor == known);
        }
    }
}
