//! How the database is set up, and what of it breaks a promise.

use sqlx::Sqlite;
use sqlx::sqlite::SqliteConnection;

use super::super::busy::{Patience, unavailable};
use super::super::lent::Lent;
use super::super::schema;
use super::super::store::SqliteStore;
use oneflight::store::{Finding, Soundness, StoreError};

mod place;

use place::{MIB, bytes};

/// A database that is larger is not read from end to end.
const MOST_CHECKED: u64 = 512 * MIB;
/// Records that are past their retention for longer are not purged, in milliseconds.
const PURGED_WITHIN: i64 = 24 * 60 * 60 * 1000;

pub(super) async fn all(store: &SqliteStore) -> Result<Vec<Finding>, StoreError> {
    let file = &store.writer.file;
    file.still_there().map_err(|error| file.named(error))?;
    let mut connection = Lent::by(&store.pool, &Patience::new(store.writer.deadline())).await?;
    let version: String = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| file.named(unavailable(error)))?;
    let mut findings = vec![Finding::new("version", Soundness::Sound, version)];
    for (name, asked) in [
        ("schema", schema(&mut connection).await),
        ("journal mode", journal_mode(&mut connection).await),
        ("synchronous", synchronous(&mut connection).await),
        ("integrity", integrity(&mut connection).await),
        ("other databases", others(&mut connection).await),
        ("retention", retention(&mut connection).await),
    ] {
        let unknown = |error| Finding::new(name, Soundness::Unknown, format!("it could not be asked for: {error}"));
        findings.push(asked.unwrap_or_else(unknown));
    }
    connection.give_back();
    findings.extend(place::all(file.path()));
    Ok(findings)
}

/// Returns the one value of a statement.
async fn ask<T>(connection: &mut SqliteConnection, statement: &'static str) -> sqlx::Result<T>
where
    T: for<'r> sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite> + Send + Unpin,
{
    sqlx::query_scalar(statement).fetch_one(connection).await
}

async fn schema(connection: &mut SqliteConnection) -> sqlx::Result<Finding> {
    let found: i64 = ask(
        connection,
        "SELECT coalesce(max(version), 0) FROM main.oneflight_migrations",
    )
    .await?;
    let known = schema::known();
    let finding = |verdict| Finding::new("schema", verdict, format!("version {found}; {known} is known here"));
    Ok(match found.cmp(&known) {
        std::cmp::Ordering::Equal => finding(Soundness::Sound),
        std::cmp::Ordering::Less => finding(Soundness::Broken).advise("Apply the migrations that are missing."),
        std::cmp::Ordering::Greater => {
            finding(Soundness::Remarkable).advise("Use the version of this tool that the service has.")
        }
    })
}

async fn journal_mode(connection: &mut SqliteConnection) -> sqlx::Result<Finding> {
    let mode: String = ask(connection, "PRAGMA main.journal_mode").await?;
    let finding = |verdict| Finding::new("journal mode", verdict, &*mode);
    Ok(match &*mode {
        "wal" => finding(Soundness::Sound),
        "off" => finding(Soundness::Broken).advise("Use WAL: without a journal nothing can be rolled back."),
        "memory" => finding(Soundness::Broken).advise("Use WAL, or keep the records of a process in a MemoryStore: a crash leaves a file damaged whose journal is in memory."),
        _ => finding(Soundness::Remarkable).advise("Use WAL: reads wait for writers in this mode, and commits for readers."),
    })
}

async fn synchronous(connection: &mut SqliteConnection) -> sqlx::Result<Finding> {
    let level: i64 = ask(connection, "PRAGMA main.synchronous").await?;
    let finding = |verdict, name| Finding::new("synchronous", verdict, name);
    Ok(match level {
        2 => finding(Soundness::Sound, "FULL"),
        3 => finding(Soundness::Sound, "EXTRA"),
        1 => finding(Soundness::Remarkable, "NORMAL").advise(
            "Use FULL: after a power cut, a mutation whose claim or record was acknowledged may be done again.",
        ),
        _ => finding(Soundness::Broken, "OFF")
            .advise("Use FULL: a power cut may damage the file, and lose what was acknowledged."),
    })
}

async fn integrity(connection: &mut SqliteConnection) -> sqlx::Result<Finding> {
    let finding = |verdict, found: String| Finding::new("integrity", verdict, found);
    let size: i64 = ask(
        connection,
        "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    )
    .await?;
    if size.unsigned_abs() > MOST_CHECKED {
        let found = format!("not checked, since the database has {}", bytes(size.unsigned_abs()));
        return Ok(finding(Soundness::Unknown, found).advise("Run PRAGMA quick_check when little is going on."));
    }
    let checked: String = ask(connection, "PRAGMA main.quick_check(1)").await?;
    Ok(match &*checked {
        "ok" => finding(Soundness::Sound, "quick_check finds nothing wrong".to_owned()),
        _ => finding(Soundness::Broken, checked)
            .advise("Stop the service, keep a copy of the file, and restore a backup."),
    })
}

async fn others(connection: &mut SqliteConnection) -> sqlx::Result<Finding> {
    let attached: i64 = ask(
        connection,
        "SELECT count(*) FROM pragma_database_list WHERE seq > 1 AND file <> ''",
    )
    .await?;
    let shadows: i64 = ask(
        connection,
        r"SELECT count(*) FROM temp.sqlite_schema WHERE name LIKE 'oneflight\_%' ESCAPE '\' OR tbl_name LIKE 'oneflight\_%' ESCAPE '\'",
    )
    .await?;
    let found = format!("{attached} attached, {shadows} temporary tables or triggers with names of ours");
    let finding = |verdict| Finding::new("other databases", verdict, found.as_str());
    Ok(match (attached, shadows) {
        (0, 0) => finding(Soundness::Sound),
        (0, _) => finding(Soundness::Broken)
            .advise("Drop the temporary triggers on our tables: they may undo what is written."),
        _ => finding(Soundness::Remarkable)
            .advise("Attach no file to the connections of the pool: work in a transaction is an error there."),
    })
}

async fn retention(connection: &mut SqliteConnection) -> sqlx::Result<Finding> {
    let late: i64 = ask(
        connection,
        "SELECT coalesce(CAST(unixepoch('subsec') * 1000 AS INTEGER) - min(expires_at), 0) FROM main.oneflight_records
         WHERE expires_at IS NOT NULL",
    )
    .await?;
    let found: i64 = ask(
        connection,
        "SELECT count(*) FROM (SELECT 1 FROM main.oneflight_records
                               WHERE expires_at <= CAST(unixepoch('subsec') * 1000 AS INTEGER) LIMIT 100000)",
    )
    .await?;
    let most = if found == 100_000 { "at least " } else { "" };
    let found = match found {
        1 => "1 record past its retention".to_owned(),
        found => format!("{most}{found} records past their retention"),
    };
    Ok(match late > PURGED_WITHIN {
        false => Finding::new("retention", Soundness::Sound, found),
        true => Finding::new(
            "retention",
            Soundness::Remarkable,
            format!("{found}, one of them for more than a day"),
        )
        .advise("Let a service purge (`purge_every`), or run `oneflight purge` from time to time."),
    })
}
