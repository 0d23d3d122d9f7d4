//! Looking into the store: the statements of an operator's desk.
//!
//! Records are listed in the order of scope and key, which is that of an index. A page begins behind the record with which
//! the last one ended, so each costs as much as the first.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::busy::unavailable;
use super::change::Change;
use super::ending::{End, Ended};
use super::file::databases;
use super::queue::Rank;
use super::records::{self, Statement, column, number, timestamp};
use super::store::SqliteStore;
use oneflight::correlation::CorrelationId;
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{
    Erase, Erased, Finding, RecordCursor, RecordEntry, RecordPage, RecordQuery, RecordState, StoreError, Upkeep, hex,
};

mod findings;

/// A range of scopes, from the first up to but not including the second.
pub(super) type Range = (String, Option<String>);

/// A page of records in one range of scopes.
struct Listing {
    statement: SqlStr,
    range: Range,
    after: (String, String),
    key: Option<String>,
    correlation: Option<CorrelationId>,
    limit: i64,
}

/// Whether a record `r` is of a range of scopes, which are the first two values.
fn within(range: &Range) -> &'static str {
    match range.1 {
        Some(_) => "r.scope >= ?1 AND r.scope < ?2",
        None => "r.scope >= ?1 AND ?2 IS NULL",
    }
}

/// Whether a result has a value: a [result](RecordedResult) says so in its second byte, and what was erased of it at its end.
macro_rules! has_value {
    ($result:literal) => {
        concat!(
            "(substr(",
            $result,
            ", 1, 2) NOT IN (x'0102', x'0103') AND NOT (length(",
            $result,
            ") <= 48 AND substr(",
            $result,
            ", -7) = x'00657261736564'))"
        )
    };
}

/// What is left of a value of a step, or of an input.
macro_rules! erased {
    ($result:literal) => {
        concat!("unhex(printf('010200%016x%016x', length(", $result, "), 0))")
    };
}

impl Listing {
    fn new(query: &RecordQuery, range: Range, limit: usize) -> Result<Self, StoreError> {
        let after = match &query.after {
            Some(cursor) => cursor.place().ok_or(ANOTHER_STORES)?,
            None => Default::default(),
        };
        let state = match query.state {
            None => "(r.state = 'in_progress' OR r.expires_at > now)",
            Some(RecordState::Completed) => "(r.state = 'completed' AND r.expires_at > now)",
            Some(RecordState::InProgress) => "(r.state = 'in_progress' AND (r.lease_expires_at > now OR w.held IS 0))",
            Some(_) => "(r.state = 'in_progress' AND r.lease_expires_at <= now AND w.held IS NOT 0)",
        };
        let statement = format!(
            "BEGIN;
             SELECT fingerprint, token, holder, attempt, lease_expires_at, completed_at, expires_at, result, now, is_held,
                    main_file, attached, scope, key, hex(scope), hex(key), claimed_at, correlation_id, goes_on
             FROM {databases} LEFT JOIN (
                SELECT r.*, now, r.held OR w.held IS 1 AS is_held, r.state = 'in_progress' AND w.held IS 0 AS goes_on
                FROM (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now) CROSS JOIN main.oneflight_records r
                     LEFT JOIN main.oneflight_workflows w ON w.token = r.token
                WHERE {within} AND (r.scope, r.key) > (CAST(unhex(?3) AS TEXT), CAST(unhex(?4) AS TEXT))
                      AND (?5 IS NULL OR r.key = ?5) AND (?6 IS NULL OR r.correlation_id = ?6) AND {state}
                ORDER BY r.scope, r.key LIMIT ?7
             ) ORDER BY scope, key;
             COMMIT",
            databases = databases!(),
            within = within(&range),
        );
        Ok(Self {
            statement: AssertSqlSafe(statement).into_sql_str(),
            range,
            after: (hex(&after.0), hex(&after.1)),
            key: query.key.clone(),
            correlation: query.correlation_id.clone(),
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
        })
    }

    fn statement(&self) -> Statement<'_> {
        sqlx::query(self.statement.clone())
            .bind(&self.range.0)
            .bind(&self.range.1)
            .bind(&self.after.0)
            .bind(&self.after.1)
            .bind(&self.key)
            .bind(self.correlation.as_ref().map(CorrelationId::as_str))
            .bind(self.limit)
    }
}

/// Returns the record in a row of a [`Listing`].
fn entry(row: &SqliteRow) -> Result<RecordEntry, StoreError> {
    let id = RequestIdentity::from_stored(column(row, 12)?, column(row, 13)?);
    let id = id.map_err(|_| StoreError::Corrupt {
        what: "a scope or a key is not valid",
    })?;
    let mut entry = RecordEntry::new(id, records::record(row)?);
    entry.claimed = Some(timestamp(column(row, 16)?)?);
    // An id that is none was not written by us, and is no reason to hide the record.
    let correlation: Option<&str> = column(row, 17)?;
    entry.correlation_id = correlation.and_then(|id| CorrelationId::new(id).ok());
    if column(row, 18)? {
        entry.state = RecordState::InProgress;
    }
    Ok(entry)
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

/// Deletes completed records of a range of scopes. Their steps go with them.
pub(super) fn erase_records(range: &Range, limit: i64) -> Statement<'_> {
    let statement = format!(
        "DELETE FROM main.oneflight_records WHERE token IN (
            SELECT token FROM main.oneflight_records r WHERE {} AND state = 'completed' LIMIT ?3)",
        within(range)
    );
    let erase = sqlx::query(AssertSqlSafe(statement).into_sql_str());
    erase.bind(&range.0).bind(&range.1).bind(limit)
}

/// Erases answers of completed records of a range of scopes, those of their steps, and what they were started with.
async fn erase_answers(connection: &mut SqliteConnection, range: &Range, limit: i64) -> Result<(End, u64), StoreError> {
    let find = format!(
        concat!(
            "SELECT r.token, r.result FROM main.oneflight_records r WHERE {} AND r.state = 'completed' AND (",
            has_value!("r.result"),
            " OR EXISTS (
                SELECT 1 FROM main.oneflight_workflows w WHERE w.token = r.token AND (",
            has_value!("w.input"),
            " OR EXISTS (SELECT 1 FROM main.oneflight_steps s WHERE s.workflow = w.id AND s.result IS NOT NULL AND ",
            has_value!("s.result"),
            "))))
             LIMIT ?3"
        ),
        within(range)
    );
    let find = sqlx::query(AssertSqlSafe(find).into_sql_str());
    let find = find.bind(&range.0).bind(&range.1).bind(limit);
    let found = find.fetch_all(&mut *connection).await.map_err(unavailable)?;
    for row in &found {
        let (token, result) = (column::<i64>(row, 0)?, column::<&[u8]>(row, 1)?);
        let result = RecordedResult::from_stored(result);
        let result = result.erased().unwrap_or(result);
        let erase = sqlx::query(concat!(
            "UPDATE main.oneflight_records SET result = ?2 WHERE token = ?1;
             UPDATE main.oneflight_steps SET result = ",
            erased!("result"),
            " WHERE result IS NOT NULL AND workflow IN (SELECT id FROM main.oneflight_workflows WHERE token = ?1);
             UPDATE main.oneflight_workflows SET input = ",
            erased!("input"),
            " WHERE token = ?1"
        ));
        let erase = erase.bind(token).bind(result.as_bytes());
        erase.execute(&mut *connection).await.map_err(unavailable)?;
    }
    Ok((End::Commit, found.len() as u64))
}

impl SqliteStore {
    async fn erase_within(&self, range: Range, what: Erase, limit: usize) -> Result<u64, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        match what {
            Erase::Records => self.writer.change(Change::Erase { range, limit }).await,
            Erase::Answers => {
                let erased = self.writer.transaction(Rank::Business, None, move |connection| {
                    Box::pin(async move { erase_answers(connection, &range, limit).await })
                });
                match erased.await? {
                    Ended::Committed(erased) | Ended::RolledBack(erased) => Ok(erased),
                    Ended::Unknown(_, error) => Err(self.writer.unavailable(error)),
                }
            }
        }
    }
}

const ANOTHER_STORES: StoreError = StoreError::Unsupported {
    advice: "the cursor is one of another store; begin at the first page",
};

impl Upkeep for SqliteStore {
    async fn records(&self, query: RecordQuery) -> Result<RecordPage, StoreError> {
        let mut page = RecordPage::default();
        let mut left = query.limit;
        for range in query.scope_ranges() {
            if left == 0 {
                break;
            }
            let listing = Listing::new(&query, range, left)?;
            for row in &self.fetch(None, || listing.statement()).await? {
                // Where nothing is found, one row tells of the connection alone.
                if records::token(row)?.is_none() {
                    break;
                }
                match entry(row) {
                    Ok(entry) => page.entries.push(entry),
                    Err(_) => page.unreadable += 1,
                }
                left -= 1;
                let (scope, key): (&str, &str) = (column(row, 14)?, column(row, 15)?);
                page.next = (left == 0).then(|| RecordCursor::new(format!("{scope}.{key}")));
            }
        }
        Ok(page)
    }

    async fn erase(&self, scope: &str, what: Erase, limit: usize) -> Result<Erased, StoreError> {
        let query = RecordQuery {
            scope: Some(scope.to_owned()),
            ..RecordQuery::default()
        };
        let mut erased = 0;
        for range in query.scope_ranges() {
            let left = limit.saturating_sub(usize::try_from(erased).unwrap_or(usize::MAX));
            if left > 0 {
                erased += self.erase_within(range, what, left).await?;
            }
        }
        Ok(Erased {
            erased,
            more: limit > 0 && erased >= limit as u64,
        })
    }

    async fn hold(&self, id: &RequestIdentity, token: FencingToken) -> Result<bool, StoreError> {
        let id = id.clone();
        Ok(self.writer.change(Change::Hold { id, token }).await? > 0)
    }

    async fn findings(&self) -> Result<Vec<Finding>, StoreError> {
        findings::all(self).await
    }
}
