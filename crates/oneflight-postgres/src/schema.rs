//! Our tables, and how a database gets them.
//!
//! All missing [migrations](Migration) are applied in one transaction under an advisory lock. However many processes open a
//! new database at once, one applies them and the others find them there. The same text can be printed, for a service that
//! runs its migrations by other means.

use std::fmt::Write;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, Postgres};
use sqlx::{AssertSqlSafe, Connection, Executor, Row};

use super::call::Value;
use super::errors::unavailable;
use super::names::Names;
use super::retry::{Tries, tried};
use super::sql::LEAVE;
use oneflight::store::{Migration, SchemaStatus, StoreError};

/// The migration from which on the database tells which versions work with it.
const COMPATIBILITY: i64 = 9;

/// The files in `migrations/`, in order. In place of our names they have `{schema}` and `{prefix}`.
const MIGRATIONS: &[Migration] = &[
    Migration {
        description: "records and fencing tokens",
        sql: include_str!("../migrations/0001_records.sql"),
        compatible_from: None,
    },
    Migration {
        description: "requests that are held, and procedures",
        sql: include_str!("../migrations/0002_held_and_procedures.sql"),
        compatible_from: None,
    },
    Migration {
        description: "renewals that never shorten a lease",
        sql: include_str!("../migrations/0003_renewals.sql"),
        compatible_from: None,
    },
    Migration {
        description: "the outbox",
        sql: include_str!("../migrations/0004_outbox.sql"),
        compatible_from: None,
    },
    Migration {
        description: "steps of mutations",
        sql: include_str!("../migrations/0005_steps.sql"),
        compatible_from: None,
    },
    Migration {
        description: "which numbers of transactions can be compared",
        sql: include_str!("../migrations/0006_incarnation.sql"),
        compatible_from: None,
    },
    Migration {
        description: "correlation ids in records",
        sql: include_str!("../migrations/0007_correlation.sql"),
        compatible_from: None,
    },
    Migration {
        description: "topics that are paused",
        sql: include_str!("../migrations/0008_paused.sql"),
        compatible_from: None,
    },
    Migration {
        description: "which versions work with a schema",
        sql: include_str!("../migrations/0009_compatibility.sql"),
        compatible_from: None,
    },
    Migration {
        description: "records that go out with the commit",
        sql: include_str!("../migrations/0010_record_with_commit.sql"),
        // It adds functions.
        compatible_from: Some(9),
    },
    Migration {
        description: "claims and completions that go together",
        sql: include_str!("../migrations/0011_together.sql"),
        // It adds procedures.
        compatible_from: Some(9),
    },
    Migration {
        description: "renewals that go out together",
        sql: include_str!("../migrations/0012_renewals_together.sql"),
        // It adds a procedure.
        compatible_from: Some(9),
    },
    Migration {
        description: "claims and completions that cost the server less",
        sql: include_str!("../migrations/0013_cheaper_calls.sql"),
        // It adds procedures, and says what a record is in other words.
        compatible_from: Some(9),
    },
    Migration {
        description: "tables with room, which are never read whole",
        sql: include_str!("../migrations/0014_tables_with_room.sql"),
        // It changes no row.
        compatible_from: Some(9),
    },
];

/// Returns the statements of a migration under these names. Procedures name the schema of our tables, since a search path is the
/// session's. If that schema is not known yet, the script puts in the first one of the search path that it is run
/// with.
fn statements(migration: &Migration, names: &Names) -> String {
    let sql = migration.sql.replace("{prefix}", &names.prefix);
    match &names.schema {
        Some(schema) => {
            let name = schema.replace('"', r#""""#);
            // Inside a string as well.
            let within = format!(r#"'"{}""#, name.replace('\'', "''"));
            sql.replace(r#"'"{schema}""#, &within).replace("{schema}", &name)
        }
        None => format!(
            "DO $schema$ BEGIN EXECUTE replace($script$
{sql}$script$, '{{schema}}', replace(current_schema(), '\"', '\"\"')); END $schema$;
"
        ),
    }
}

fn migrations_table(names: &Names) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
    version     bigint PRIMARY KEY,
    description text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now()
);
",
        names.of("migrations")
    )
}

/// Notes that a migration was applied.
fn applied(names: &Names, version: i64, migration: &Migration) -> String {
    let (table, description) = (names.of("migrations"), migration.description);
    if version < COMPATIBILITY {
        return format!("INSERT INTO {table} (version, description) VALUES ({version}, '{description}');\n");
    }
    format!(
        "INSERT INTO {table} (version, description, compatible_from) VALUES ({version}, '{description}', {});\n",
        migration.floor(version)
    )
}

/// Returns the migrations that a database of this version lacks, as one script: all of them for an empty one, which is
/// of version 0.
pub(super) fn print(names: &Names, from: usize) -> String {
    script(MIGRATIONS, names, from)
}

fn script(migrations: &[Migration], names: &Names, from: usize) -> String {
    let mut script = String::from("BEGIN;\n");
    // Writing into a string does not fail.
    let _ = writeln!(script, "SELECT pg_advisory_xact_lock({});", names.migration_lock());
    if let (Some(schema), 0) = (&names.schema, from) {
        let _ = writeln!(script, r#"CREATE SCHEMA IF NOT EXISTS "{schema}";"#);
    }
    script.push_str(&migrations_table(names));
    for (version, migration) in (1..).zip(migrations).skip(from) {
        let _ = write!(script, "\n-- Version {version}: {}\n", migration.description);
        script.push_str(&statements(migration, names));
        script.push_str(&applied(names, version, migration));
    }
    script.push_str("COMMIT;\n");
    script
}

/// Returns a connection that is outside of any transaction, and has the encoding of `sqlx`. Those that cannot be
/// brought there are closed.
async fn outside(pool: &PgPool) -> Result<PoolConnection<Postgres>, StoreError> {
    tried(Tries::on(pool), || async {
        let mut connection = pool.acquire().await?;
        let leave = format!("{LEAVE}; SET client_encoding = 'UTF8'");
        match connection.execute(AssertSqlSafe(leave)).await {
            Ok(_) => Ok(connection),
            Err(error) => {
                drop(connection.detach());
                Err(error)
            }
        }
    })
    .await
}

/// Returns the schema in which an unqualified name of a new table would stand.
pub(super) async fn current(pool: &PgPool) -> Result<String, StoreError> {
    let mut connection = outside(pool).await?;
    let schema: Option<String> = value(&mut *connection, "SELECT current_schema()::text".to_owned()).await?;
    schema.ok_or(StoreError::InvalidName {
        what: "the search path of the connection names no schema that is there; set one in the options",
    })
}

/// Creates or upgrades our tables, and waits no longer than this for each lock.
pub(super) async fn migrate(pool: &PgPool, names: &Names, longest: Option<Duration>) -> Result<(), StoreError> {
    let mut connection = outside(pool).await?;
    // Most often there is nothing to do, and perhaps no right to do it.
    if usable(&mut connection, names).await?.is_complete() {
        return Ok(());
    }
    let begin = connection.begin_with("BEGIN READ WRITE");
    let mut transaction = begin.await.map_err(unavailable)?;
    if let Some(longest) = longest {
        // Zero is no limit to the server.
        let limit = format!(
            "SET LOCAL lock_timeout = {}",
            longest.as_millis().clamp(1, i32::MAX as u128)
        );
        let set = transaction.execute(AssertSqlSafe(limit));
        set.await.map_err(unavailable)?;
    }
    apply(&mut transaction, names).await?;
    transaction.commit().await.map_err(unavailable)
}

/// Fails if the tables are not what this version works with.
pub(super) async fn check(pool: &PgPool, names: &Names) -> Result<(), StoreError> {
    let mut connection = outside(pool).await?;
    match usable(&mut connection, names).await?.is_complete() {
        true => Ok(()),
        false => Err(StoreError::Unsupported {
            advice: "the tables are missing or older than this version; apply what `migrations_sql` or `upgrade_sql` prints \
                     first",
        }),
    }
}

/// Returns the version of the schema that this crate works with.
pub(super) fn known() -> i64 {
    Migration::newest(MIGRATIONS)
}

/// Tells which migrations a database has, and which it lacks. One that is newer lacks none.
pub(super) async fn status(pool: &PgPool, names: &Names) -> Result<SchemaStatus, StoreError> {
    let mut connection = outside(pool).await?;
    status_on(&mut connection, names).await
}

async fn status_on(connection: &mut PgConnection, names: &Names) -> Result<SchemaStatus, StoreError> {
    let found = found(connection, names).await?;
    let says = match found > known() {
        true => Some(floor(connection, names, found).await?),
        false => None,
    };
    Ok(SchemaStatus::of(MIGRATIONS, found, says))
}

/// The same, if this version works with the schema or is to upgrade it.
async fn usable(connection: &mut PgConnection, names: &Names) -> Result<SchemaStatus, StoreError> {
    status_on(connection, names).await?.usable()
}

/// Returns the oldest version that works with a schema, which is newer than ours.
async fn floor(connection: &mut PgConnection, names: &Names, found: i64) -> Result<i64, StoreError> {
    // A migration that does not say breaks with all before it.
    let select = format!(
        "SELECT max(coalesce(compatible_from, version)) FROM {}",
        names.of("migrations")
    );
    let floor: Option<i64> = value(connection, select).await?;
    Ok(floor.unwrap_or(found))
}

/// Returns the version of the schema: 0 if there is none.
async fn found(connection: &mut PgConnection, names: &Names) -> Result<i64, StoreError> {
    // Not `to_regclass`: a session remembers names that did not exist, and takes no lock here that would remind it.
    let look = format!(
        "SELECT EXISTS (SELECT FROM pg_class WHERE relname = '{}migrations'
            AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = {}))",
        names.prefix,
        Value::Text(names.schema.as_deref().unwrap_or_default()),
    );
    let there: bool = value(&mut *connection, look).await?;
    if !there {
        return Ok(0);
    }
    let select = format!("SELECT coalesce(max(version), 0) FROM {}", names.of("migrations"));
    value(connection, select).await
}

async fn apply(connection: &mut PgConnection, names: &Names) -> Result<(), StoreError> {
    connection
        .execute(AssertSqlSafe(format!(
            "SELECT pg_advisory_xact_lock({})",
            names.migration_lock()
        )))
        .await
        .map_err(unavailable)?;
    // Looked at anew, and now for good.
    let found = usable(connection, names).await?.found;
    let mut script = String::new();
    if found == 0 {
        script.push_str(&create_schema(connection, names).await?);
        script.push_str(&migrations_table(names));
    }
    // None, if a newer version was faster.
    for (version, migration) in Migration::missing(MIGRATIONS, found) {
        script.push_str(&statements(migration, names));
        script.push_str(&applied(names, version, migration));
    }
    connection.execute(AssertSqlSafe(script)).await.map_err(unavailable)?;
    Ok(())
}

/// `CREATE SCHEMA IF NOT EXISTS` asks for the right to create one even if it exists.
async fn create_schema(connection: &mut PgConnection, names: &Names) -> Result<String, StoreError> {
    let Some(schema) = &names.schema else {
        return Ok(String::new());
    };
    let look = format!(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = {})",
        Value::Text(schema)
    );
    match value(connection, look).await? {
        true => Ok(String::new()),
        false => Ok(format!(r#"CREATE SCHEMA "{schema}"; "#)),
    }
}

/// Returns the one value that a statement answers with. It is not prepared: a pooler may not keep what was.
async fn value<'c, T>(connection: impl Executor<'c, Database = Postgres>, statement: String) -> Result<T, StoreError>
where
    T: for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    let row = sqlx::raw_sql(AssertSqlSafe(statement)).fetch_one(connection).await;
    row.and_then(|row| row.try_get(0)).map_err(unavailable)
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

    #[test]
    fn names_are_put_in_wherever_they_stand() {
        for schema in [None, Some("shop"), Some("o'neil's \"shop\"")] {
            let names = Names {
                schema: schema.map(str::to_owned),
                prefix: "p_".to_owned(),
            };
            let script = print(&names, 0);
            assert!(!script.contains("{prefix}"));
            assert_eq!(script.contains("{schema}"), schema.is_none());
        }
        let quoted = Names {
            schema: Some("o'neil's \"shop\"".to_owned()),
            prefix: "p_".to_owned(),
        };
        let script = print(&quoted, 0);
        assert!(script.contains(r#"CREATE TABLE "o'neil's ""shop"""."p_records""#));
        assert!(script.contains(r#"nextval('"o''neil''s ""shop"""."p_tokens"'"#));
    }
}
