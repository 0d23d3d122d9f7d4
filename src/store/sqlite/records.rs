//! The statements on `oneflight_records`, and how a row becomes a [`Record`].
//!
//! Each statement's text is constant, so that every connection prepares it once. Whoever runs them sees to
//! the lock and the transaction.

use std::time::Duration;

use sqlx::Row;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};

use super::writer::End;
use crate::identity::{Fingerprint, RequestId};
use crate::record::{FencingToken, HolderId, Record, RecordedResult, State, Timestamp};
use crate::store::{Claim, ClaimOutcome, ClaimRequest, Decision, StoreError, decide};

pub(super) type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

/// A duration in the milliseconds of the table, bounded so that adding it to now cannot overflow.
fn millis(duration: Duration) -> i64 {
    let millis = Timestamp::default().after(duration).as_millis();
    i64::try_from(millis).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

/// A token in the table's integers. SQLite would refuse to count so far.
fn number(token: FencingToken) -> i64 {
    i64::try_from(token.get()).unwrap_or(i64::MAX)
}

/// Reads a record. The outer result is the database's, the inner one says whether the row makes sense.
pub(super) async fn select(
    connection: &mut SqliteConnection,
    id: &RequestId,
) -> sqlx::Result<Option<Result<Record, StoreError>>> {
    let row = sqlx::query(
        "SELECT fingerprint, token, holder, attempt, lease_expires_at, completed_at, expires_at, result,
                CAST(unixepoch('subsec') * 1000 AS INTEGER)
         FROM oneflight_records WHERE scope = ? AND key = ?",
    )
    .bind(id.scope())
    .bind(id.key())
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| record(&row)))
}

fn record(row: &SqliteRow) -> Result<Record, StoreError> {
    let fingerprint = match column::<Option<&[u8]>>(row, 0)? {
        None => None,
        Some(digest) => {
            let digest = digest.try_into().map_err(|_| StoreError::Corrupt {
                what: "a fingerprint is not 32 bytes long",
            })?;
            Some(Fingerprint::from_digest(digest))
        }
    };
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
    Ok(Record {
        fingerprint,
        token: FencingToken::new(unsigned(column(row, 1)?)?),
        holder: HolderId::from_bytes(holder),
        attempt: column(row, 3)?,
        state,
        observed: timestamp(column(row, 8)?)?,
    })
}

fn column<'r, T>(row: &'r SqliteRow, index: usize) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
{
    row.try_get(index).map_err(|_| StoreError::Corrupt {
        what: "a column is not of its type",
    })
}

fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt {
        what: "a number is negative",
    })
}

fn timestamp(millis: i64) -> Result<Timestamp, StoreError> {
    unsigned(millis).map(Timestamp::from_millis)
}

/// Decides under the write lock, and writes what follows from that. The end of the transaction goes along.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    request: &ClaimRequest<'_>,
) -> Result<(End, ClaimOutcome), StoreError> {
    let record = select(connection, request.id)
        .await
        .map_err(StoreError::unavailable)?
        .transpose()?;
    match decide(record, request) {
        Decision::Answer(outcome) => Ok((End::RollBack, outcome)),
        Decision::Grant { attempt, took_over } => {
            let token = grant(connection, request, attempt)
                .await
                .map_err(StoreError::unavailable)?;
            let claim = Claim::new(request.id.clone(), token, attempt, took_over);
            Ok((End::Commit, ClaimOutcome::Granted(claim)))
        }
    }
}

/// Draws a token and writes the record as in progress, in place of whatever stands there.
async fn grant(
    connection: &mut SqliteConnection,
    request: &ClaimRequest<'_>,
    attempt: u32,
) -> sqlx::Result<FencingToken> {
    let token: i64 = sqlx::query_scalar("UPDATE oneflight_fence SET last_token = last_token + 1 RETURNING last_token")
        .fetch_one(&mut *connection)
        .await?;
    let fingerprint = request.id.fingerprint();
    sqlx::query(
        "INSERT INTO oneflight_records
            (scope, key, fingerprint, token, holder, attempt, state, claimed_at, lease_expires_at)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, 'in_progress', now, now + ?7
         FROM (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now) WHERE true
         ON CONFLICT (scope, key) DO UPDATE SET
            fingerprint = excluded.fingerprint, token = excluded.token, holder = excluded.holder,
            attempt = excluded.attempt, state = excluded.state, claimed_at = excluded.claimed_at,
            lease_expires_at = excluded.lease_expires_at,
            completed_at = NULL, expires_at = NULL, result = NULL",
    )
    .bind(request.id.scope())
    .bind(request.id.key())
    .bind(fingerprint.as_ref().map(|it| &it.as_bytes()[..]))
    .bind(token)
    .bind(&request.holder.as_bytes()[..])
    .bind(attempt)
    .bind(millis(request.lease))
    .execute(connection)
    .await?;
    Ok(FencingToken::new(u64::try_from(token).unwrap_or_default()))
}

pub(super) fn renew(id: &RequestId, token: FencingToken, lease: Duration) -> Statement<'_> {
    sqlx::query(
        "UPDATE oneflight_records
         SET lease_expires_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?
         WHERE scope = ? AND key = ? AND token = ? AND state = 'in_progress'",
    )
    .bind(millis(lease))
    .bind(id.scope())
    .bind(id.key())
    .bind(number(token))
}

pub(super) fn complete<'q>(
    id: &'q RequestId,
    token: FencingToken,
    result: &'q RecordedResult,
    retention: Duration,
) -> Statement<'q> {
    sqlx::query(
        "UPDATE oneflight_records
         SET state = 'completed', lease_expires_at = NULL, result = ?1,
             completed_at = CAST(unixepoch('subsec') * 1000 AS INTEGER),
             expires_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?2
         WHERE scope = ?3 AND key = ?4 AND token = ?5 AND state = 'in_progress'",
    )
    .bind(result.as_bytes())
    .bind(millis(retention))
    .bind(id.scope())
    .bind(id.key())
    .bind(number(token))
}

pub(super) fn release(id: &RequestId, token: FencingToken) -> Statement<'_> {
    sqlx::query(
        "DELETE FROM oneflight_records
         WHERE scope = ? AND key = ? AND token = ? AND state = 'in_progress'",
    )
    .bind(id.scope())
    .bind(id.key())
    .bind(number(token))
}

pub(super) fn purge(limit: i64) -> Statement<'static> {
    sqlx::query(
        "DELETE FROM oneflight_records WHERE rowid IN (
            SELECT rowid FROM oneflight_records
            WHERE expires_at <= CAST(unixepoch('subsec') * 1000 AS INTEGER)
            ORDER BY expires_at LIMIT ?)",
    )
    .bind(limit)
}
