//! The statements on `oneflight_records`, and how a row becomes a [`Record`].
//!
//! The text of each statement is constant, so that every connection prepares it once. The code that runs them sees to
//! the lock and the transaction.

use std::time::Duration;

use sqlx::Row;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};

use super::busy::unavailable;
use super::file::{DatabaseFile, Databases, databases};
use super::seal::open_seal_for_record;
use oneflight::identity::{Fingerprint, RequestIdentity};
use oneflight::record::{FencingToken, HolderId, Record, RecordedResult, State, Timestamp};
use oneflight::store::{ClaimRequest, InDoubt, StoreError};

pub(super) type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

/// Completes a record by scope and key, and by its token or its holder.
macro_rules! complete {
    ($before:literal, $by:literal, $after:expr) => {
        concat!(
            $before,
            "UPDATE main.oneflight_records
             SET state = 'completed', lease_expires_at = NULL, held = 0, result = ?1,
                 completed_at = CAST(unixepoch('subsec') * 1000 AS INTEGER),
                 expires_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?2
             WHERE scope = ?3 AND key = ?4 AND ",
            $by,
            " = ?5 AND state = 'in_progress'",
            $after
        )
    };
}

/// A duration in the milliseconds of the table, bounded so that adding it to now cannot overflow.
pub(super) fn millis(duration: Duration) -> i64 {
    let millis = Timestamp::default().after(duration).as_millis();
    i64::try_from(millis).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

/// A token in the table's integers. SQLite would not count so far.
pub(super) fn number(token: FencingToken) -> i64 {
    i64::try_from(token.get()).unwrap_or(i64::MAX)
}

/// Besides what is read of the records, one row tells which [databases](Databases) the connection has, whether there
/// are records or not.
macro_rules! select {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "SELECT fingerprint, token, holder, attempt, lease_expires_at, completed_at, expires_at, result,
                    CAST(unixepoch('subsec') * 1000 AS INTEGER), held, main_file, attached
             FROM ",
            databases!(),
            " LEFT JOIN main.oneflight_records ON scope = ? AND key = ?",
            $after
        )
    };
}

/// Reads a record in a transaction of its own. If a transaction was left open on the connection, whose snapshot may be
/// an old one, that is an error. The row is for [`selected`].
pub(super) fn select(id: &RequestIdentity) -> Statement<'_> {
    sqlx::query(select!("BEGIN; ", "; COMMIT"))
        .bind(id.scope())
        .bind(id.key())
}

/// Reads a record in the transaction that is open.
pub(super) async fn select_within(
    connection: &mut SqliteConnection,
    id: &RequestIdentity,
    file: &DatabaseFile,
) -> Result<(Option<Record>, Databases), StoreError> {
    let select = sqlx::query(select!("", "")).bind(id.scope()).bind(id.key());
    let row = select.fetch_one(connection).await.map_err(unavailable)?;
    Ok((selected(&row)?, file.seen_in(&row)?))
}

/// Returns the row of a statement that always answers with one.
pub(super) fn only(rows: &[SqliteRow]) -> Result<&SqliteRow, StoreError> {
    rows.first().ok_or(StoreError::Corrupt {
        what: "a statement was left unanswered",
    })
}

/// Returns the record in the row of a [`select()`].
pub(super) fn selected(row: &SqliteRow) -> Result<Option<Record>, StoreError> {
    match token(row)? {
        Some(_token) => record(row).map(Some),
        None => Ok(None),
    }
}

/// Reads what is in progress with a lease that is over, in the order of the tokens, in a transaction of its own. The
/// rows are for [`doubtful`].
pub(super) fn in_doubt(limit: i64, after: i64) -> Statement<'static> {
    sqlx::query(concat!(
        "BEGIN;
         SELECT fingerprint, token, holder, attempt, lease_expires_at, completed_at, expires_at, result, now, held,
                main_file, attached, scope, key
         FROM ",
        databases!(),
        " LEFT JOIN (
             SELECT * FROM main.oneflight_records, (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)
             WHERE token > ? AND lease_expires_at <= now
                 AND NOT EXISTS (SELECT 1 FROM main.oneflight_workflows w
                                 WHERE w.token = oneflight_records.token AND w.held = 0)
             ORDER BY token LIMIT ?
         ) ORDER BY token;
         COMMIT"
    ))
    .bind(after)
    .bind(limit)
}

/// Returns the token in the row of a [`select()`] or of [`in_doubt`], if there is a record in it.
pub(super) fn token(row: &SqliteRow) -> Result<Option<i64>, StoreError> {
    column(row, 1)
}

/// Returns what is in doubt in a row of [`in_doubt`] that has a [token].
pub(super) fn doubtful(row: &SqliteRow) -> Result<InDoubt, StoreError> {
    let record = record(row)?;
    let id = RequestIdentity::from_stored(column(row, 12)?, column(row, 13)?);
    let id = id.map_err(|_| StoreError::Corrupt {
        what: "a scope or a key is not valid",
    })?;
    InDoubt::of(id, &record).ok_or(StoreError::Corrupt {
        what: "what is in doubt has no lease",
    })
}

pub(super) fn record(row: &SqliteRow) -> Result<Record, StoreError> {
    let holder = column::<&[u8]>(row, 2)?.try_into().map_err(|_| StoreError::Corrupt {
        what: "a holder is not 16 bytes long",
    })?;
    let state = match column::<Option<i64>>(row, 4)? {
        Some(lease_expires) => State::InProgress {
            lease_expires: timestamp(lease_expires)?,
        },
        None => State::Completed {
            result: RecordedResult::from_stored(column::<&[u8]>(row, 7)?),
            completed: timestamp(column(row, 5)?)?,
            expires: timestamp(column(row, 6)?)?,
        },
    };
    let mut record = Record::new(
        fingerprint(row, 0)?,
        FencingToken::new(unsigned(column(row, 1)?)?),
        HolderId::from_bytes(holder),
        column(row, 3)?,
        state,
        timestamp(column(row, 8)?)?,
    );
    record.held = column(row, 9)?;
    Ok(record)
}

pub(super) fn fingerprint(row: &SqliteRow, index: usize) -> Result<Option<Fingerprint>, StoreError> {
    match column::<Option<&[u8]>>(row, index)? {
        None => Ok(None),
        Some(digest) => {
            let digest = digest.try_into().map_err(|_| StoreError::Corrupt {
                what: "a fingerprint is not 32 bytes long",
            })?;
            Ok(Some(Fingerprint::from_digest(digest)))
        }
    }
}

pub(super) fn column<'r, T>(row: &'r SqliteRow, index: usize) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
{
    row.try_get(index).map_err(|_| StoreError::Corrupt {
        what: "a column is not of its type",
    })
}

pub(super) fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt {
        what: "a number is negative",
    })
}

pub(super) fn timestamp(millis: i64) -> Result<Timestamp, StoreError> {
    unsigned(millis).map(Timestamp::from_millis)
}

/// The error of a transaction that could be committed in part.
pub(super) fn attached() -> StoreError {
    StoreError::Unsupported {
        advice: "another database is attached to the connection, and a crash could commit the transaction in one file and \
                 not in the other; keep what belongs together in one file, or run the transaction on a pool to whose \
                 connections nothing is attached",
    }
}

/// What goes along with the statement that records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Along {
    Nothing,
    /// The commit, in the same errand. `sqlx` counts on, and needs a transaction to end: an empty one is begun.
    Commit,
}

macro_rules! and_commit {
    () => {
        "; COMMIT; BEGIN"
    };
}
pub(super) use and_commit;

/// Releases the savepoint of the work, completes the record, and opens the seal for that. The row is for
/// [`put`](super::answers::put).
pub(super) fn release_and_complete<'q>(
    along: Along,
    id: &'q RequestIdentity,
    holder: HolderId,
    result: &'q RecordedResult,
    retention: Duration,
) -> Statement<'q> {
    let statement = match along {
        Along::Nothing => complete!("RELEASE oneflight_work; ", "holder", open_seal_for_record!()),
        Along::Commit => complete!(
            "RELEASE oneflight_work; ",
            "holder",
            concat!(open_seal_for_record!(), and_commit!())
        ),
    };
    bind_complete(sqlx::query(statement), id, result, retention).bind(holder.as_bytes().to_vec())
}

/// Records a request that has no record, and its result.
macro_rules! record_new {
    ($after:expr) => {
        concat!(
            "RELEASE oneflight_work;
             INSERT INTO main.oneflight_records
                (scope, key, fingerprint, holder, attempt, state, claimed_at, completed_at, expires_at, result,
                 correlation_id)
             SELECT ?3, ?4, ?6, ?5, 1, 'completed', now - ?7, now, now + ?2, ?1, ?8
             FROM (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)",
            $after
        )
    };
}

/// Releases the savepoint of the work, records what had no record, and opens the seal for that. The row is for
/// [`put`](super::answers::put).
pub(super) fn release_and_record<'q>(
    along: Along,
    request: &'q ClaimRequest,
    since_begun: Duration,
    result: &'q RecordedResult,
    retention: Duration,
) -> Statement<'q> {
    let statement = match along {
        Along::Nothing => record_new!(open_seal_for_record!()),
        Along::Commit => record_new!(concat!(open_seal_for_record!(), and_commit!())),
    };
    bind_complete(sqlx::query(statement), &request.id, result, retention)
        .bind(request.holder.as_bytes().to_vec())
        .bind(request.id.fingerprint().map(|it| it.as_bytes().to_vec()))
        .bind(millis(since_begun))
        .bind(request.correlation_id.as_ref().map(|it| it.as_str()))
}

pub(super) fn renew(id: &RequestIdentity, token: FencingToken, lease: Duration) -> Statement<'_> {
    let renew = sqlx::query(
        "UPDATE main.oneflight_records
         SET lease_expires_at = max(lease_expires_at, CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?)
         WHERE scope = ? AND key = ? AND token = ? AND state = 'in_progress'",
    );
    bind_lease(renew, id, token, lease)
}

pub(super) fn end_lease(id: &RequestIdentity, token: FencingToken, left: Duration) -> Statement<'_> {
    let end = sqlx::query(
        "UPDATE main.oneflight_records
         SET lease_expires_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?
         WHERE scope = ? AND key = ? AND token = ? AND state = 'in_progress'",
    );
    bind_lease(end, id, token, left)
}

fn bind_lease<'q>(
    statement: Statement<'q>,
    id: &'q RequestIdentity,
    token: FencingToken,
    lease: Duration,
) -> Statement<'q> {
    statement
        .bind(millis(lease))
        .bind(id.scope())
        .bind(id.key())
        .bind(number(token))
}

pub(super) fn complete<'q>(
    id: &'q RequestIdentity,
    token: FencingToken,
    result: &'q RecordedResult,
    retention: Duration,
) -> Statement<'q> {
    bind_complete(sqlx::query(complete!("", "token", "")), id, result, retention).bind(number(token))
}

fn bind_complete<'q>(
    statement: Statement<'q>,
    id: &'q RequestIdentity,
    result: &'q RecordedResult,
    retention: Duration,
) -> Statement<'q> {
    statement
        .bind(result.as_bytes())
        .bind(millis(retention))
        .bind(id.scope())
        .bind(id.key())
}

pub(super) fn release(id: &RequestIdentity, token: FencingToken) -> Statement<'_> {
    sqlx::query(
        "DELETE FROM main.oneflight_records
         WHERE scope = ? AND key = ? AND token = ? AND state = 'in_progress'",
    )
    .bind(id.scope())
    .bind(id.key())
    .bind(number(token))
}

pub(super) fn purge(limit: i64) -> Statement<'static> {
    sqlx::query(
        "DELETE FROM main.oneflight_records WHERE token IN (
            SELECT token FROM main.oneflight_records
            WHERE expires_at <= CAST(unixepoch('subsec') * 1000 AS INTEGER)
            ORDER BY expires_at LIMIT ?)",
    )
    .bind(limit)
}

/// Has a request wait for a decision: the mutation of steps, if it is one, or else the record.
pub(super) fn hold(id: &RequestIdentity, token: FencingToken) -> Statement<'_> {
    sqlx::query(
        "UPDATE main.oneflight_workflows SET held = 1 WHERE scope = ?1 AND key = ?2 AND token = ?3
            AND EXISTS (SELECT 1 FROM main.oneflight_records r WHERE r.token = ?3 AND r.state = 'in_progress');
         UPDATE main.oneflight_records SET held = 1
         WHERE scope = ?1 AND key = ?2 AND token = ?3 AND state = 'in_progress'
            AND NOT EXISTS (SELECT 1 FROM main.oneflight_workflows w WHERE w.token = ?3)",
    )
    .bind(id.scope())
    .bind(id.key())
    .bind(number(token))
}
