//! Looking into the store: the statements of an operator's desk.
//!
//! Records are listed in the order of scope and key, which is that of an index. A page begins behind the record with which
//! the last one ended, so each costs as much as the first.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::change::Change;
use super::ending::Ended;
use super::erase::{Range, erase_answers, within};
use super::file::databases;
use super::queue::Rank;
use super::records::{self, Statement, column, timestamp};
use super::store::SqliteStore;
use oneflight::correlation::CorrelationId;
use oneflight::identity::RequestIdentity;
use oneflight::record::FencingToken;
use oneflight::store::{
    Erase, Erased, Finding, RecordCursor, RecordEntry, RecordPage, RecordQuery, RecordState, StoreError, Upkeep, hex,
};

mod findings;

/// A page of records in one range of scopes.
struct Listing {
    statement: SqlStr,
    range: Range,
    after: (String, String),
    key: Option<String>,
    correlation: Option<CorrelationId>,
    limit: i64,
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
