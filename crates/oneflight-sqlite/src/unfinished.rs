//! The statement that lists mutations of steps whose lease is over, and how its rows are read.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;

use super::file::databases;
use super::records::{Statement, column, fingerprint, millis, unsigned};
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{StoreError, UnfinishedQuery, UnfinishedSteps, WorkflowRecord};

/// The longest first pause, so that it can be doubled often.
const LONGEST_FIRST_PAUSE: Duration = Duration::from_millis(1 << 32);

/// Reads what is unfinished, in a transaction of its own. The rows are for [`listed`].
pub(super) fn unfinished(query: &UnfinishedQuery, kinds: Option<String>) -> Statement<'static> {
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let list = sqlx::query(concat!(
        "BEGIN;
         SELECT w.token, w.name, w.version, w.tries, w.held, w.scope, w.key, w.fingerprint, w.since, main_file, attached
         FROM ",
        databases!(),
        " LEFT JOIN (
            SELECT w.token, w.name, w.version, w.tries, w.held, w.scope, w.key, r.fingerprint,
                   now - r.lease_expires_at AS since
            FROM main.oneflight_workflows w JOIN main.oneflight_records r ON r.token = w.token,
                 (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)
            WHERE w.open = 1 AND r.state = 'in_progress' AND r.lease_expires_at <= now AND (?1 IS NULL OR (
                w.held = 0 AND w.name <> ''
                AND EXISTS (SELECT 1 FROM json_each(?1) kind, json_each(kind.value, '$[1]') version
                            WHERE json_extract(kind.value, '$[0]') = w.name AND version.value = w.version)
                AND now - r.lease_expires_at
                    >= CASE w.tries WHEN 0 THEN 0 ELSE min(?3, ?2 << min(w.tries - 1, 30)) END))
            ORDER BY r.lease_expires_at LIMIT ?4) w ORDER BY w.since DESC;
         COMMIT"
    ));
    list.bind(kinds)
        .bind(millis(query.first_pause.min(LONGEST_FIRST_PAUSE)))
        .bind(millis(query.longest_pause))
        .bind(limit)
}

/// Returns what is unfinished in a row of [`unfinished`], if there is any.
pub(super) fn listed(row: &SqliteRow) -> Result<Option<UnfinishedSteps>, StoreError> {
    let Some(token) = column::<Option<i64>>(row, 0)? else {
        return Ok(None);
    };
    let id = RequestIdentity::from_stored(column(row, 5)?, column(row, 6)?);
    let id = id.map_err(|_| StoreError::Corrupt {
        what: "a scope or a key is not valid",
    })?;
    let id = match fingerprint(row, 7)? {
        Some(fingerprint) => id.with_known_fingerprint(fingerprint),
        None => id,
    };
    let known = WorkflowRecord {
        token: FencingToken::new(unsigned(token)?),
        name: column(row, 1)?,
        version: column(row, 2)?,
        input: RecordedResult::not_encodable(),
        tries: column(row, 3)?,
        held: column(row, 4)?,
        steps: Vec::new(),
    };
    let since = Duration::from_millis(unsigned(column(row, 8)?)?);
    Ok(Some(UnfinishedSteps::new(id, &known, since)))
}
