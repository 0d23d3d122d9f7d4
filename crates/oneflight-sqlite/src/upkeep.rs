//! Looking into the store: the statements of an operator's desk.
//!
//! Records are listed in the order of scope and key, which is that of an index. A page begins behind the record with which
//! the last one ended, so each costs as much as the first.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::change::Change;
use super::ending::Ended;
use super::erase::{answers, erase_answers};
use super::file::databases;
use super::queue::Rank;
use super::records::{self, Statement, column, timestamp};
use super::store::SqliteStore;
use oneflight::correlation::CorrelationId;
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{
    Erase, EraseInOrder, Erased, Finding, RecordCursor, RecordEntry, RecordPage, RecordPlace, RecordQuery, RecordState,
    ScopeRange, Store, StoreError, Upkeep, erase_in_order, hex,
};

mod findings;

/// The time of the server, as text of a statement.
macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    };
}

/// A page of records in one range of scopes.
struct Listing {
    statement: SqlStr,
    from: (String, String),
    to: Option<String>,
    key: Option<String>,
    correlation: Option<CorrelationId>,
    limit: i64,
}

impl Listing {
    fn new(query: &RecordQuery, range: ScopeRange, limit: usize) -> Result<Self, StoreError> {
        let after = match &query.after {
            Some(cursor) => cursor.place().ok_or(RecordCursor::OF_ANOTHER_STORE)?,
            None => Default::default(),
        };
        // One bound alone, so that the index is entered where the page begins. A key is never empty.
        let from = after.max((range.0.into_bytes(), Vec::new()));
        let statement = format!(
            "BEGIN;
             SELECT fingerprint, token, holder, attempt, lease_expires_at, completed_at, expires_at, result, now, is_held,
                    main_file, attached, scope, key, hex(scope), hex(key), claimed_at, correlation_id, goes_on
             FROM {} LEFT JOIN ({}) ORDER BY scope, key;
             COMMIT",
            databases!(),
            Self::page(query.state, range.1.as_deref()),
        );
        Ok(Self {
            statement: AssertSqlSafe(statement).into_sql_str(),
            from: (hex(&from.0), hex(&from.1)),
            to: range.1,
            key: query.key.clone(),
            correlation: query.correlation_id.clone(),
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
        })
    }

    /// Reads a page in the order of the index of scope and key, from where it begins, without sorting: so the index
    /// of what expires is not to be taken.
    fn page(state: Option<RecordState>, to: Option<&str>) -> String {
        let state = match state {
            None => concat!("(r.state = 'in_progress' OR +r.expires_at > ", now!(), ")"),
            Some(RecordState::Completed) => concat!("(r.state = 'completed' AND +r.expires_at > ", now!(), ")"),
            Some(RecordState::InProgress) => {
                concat!(
                    "(r.state = 'in_progress' AND (r.lease_expires_at > ",
                    now!(),
                    " OR w.held IS 0))"
                )
            }
            Some(_) => {
                concat!(
                    "(r.state = 'in_progress' AND r.lease_expires_at <= ",
                    now!(),
                    " AND w.held IS NOT 0)"
                )
            }
        };
        // With an affinity of its own, a bound would not be taken for the index.
        format!(
            "SELECT r.*, {now} AS now, r.held OR w.held IS 1 AS is_held,
                    r.state = 'in_progress' AND w.held IS 0 AS goes_on
             FROM main.oneflight_records r LEFT JOIN main.oneflight_workflows w ON w.token = r.token
             WHERE (r.scope, r.key) > (+CAST(unhex(?1) AS TEXT), +CAST(unhex(?2) AS TEXT)) AND {to}
                   AND (?4 IS NULL OR r.key = ?4) AND (?5 IS NULL OR r.correlation_id = ?5) AND {state}
             ORDER BY r.scope, r.key LIMIT ?6",
            now = now!(),
            to = match to {
                Some(_) => "r.scope < ?3",
                None => "?3 IS NULL",
            },
        )
    }

    fn statement(&self) -> Statement<'_> {
        sqlx::query(self.statement.clone())
            .bind(&self.from.0)
            .bind(&self.from.1)
            .bind(&self.to)
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

/// How a store erases: what [`erase_in_order`] goes from batch to batch with.
struct Eraser<'s>(&'s SqliteStore);

impl EraseInOrder for Eraser<'_> {
    async fn erase_records(&self, range: &ScopeRange, limit: u64) -> Result<u64, StoreError> {
        let range = range.clone();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.0.writer.change(Change::Erase { range, limit }).await
    }

    /// They are looked for before the lock is taken that others wait for. What is completed has its token as long as it is.
    async fn erase_answers(
        &self,
        range: &ScopeRange,
        after: &RecordPlace,
        limit: u64,
    ) -> Result<Option<(RecordPlace, u64)>, StoreError> {
        let store = self.0;
        let from = after.clone().max((range.0.clone().into_bytes(), Vec::new()));
        let from = (hex(&from.0), hex(&from.1));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let find = answers(range.1.as_deref());
        let found = store.fetch(None, || {
            let find = sqlx::query(find.clone());
            find.bind(&from.0).bind(&from.1).bind(&range.1).bind(limit)
        });
        let (mut answers, mut last) = (Vec::new(), None);
        for row in &found.await? {
            // Where nothing is found, one row tells of the connection alone.
            let Some(token) = column::<Option<i64>>(row, 0)? else {
                break;
            };
            let result = RecordedResult::from_stored(column::<&[u8]>(row, 1)?);
            answers.push((token, result.erased().unwrap_or(result)));
            last = Some((column(row, 2)?, column(row, 3)?));
        }
        let Some(last) = last else {
            return Ok(None);
        };
        Ok(Some((last, store.leave(answers).await?)))
    }
}

impl SqliteStore {
    /// Erases the answers of records that were completed under these tokens, and leaves these. Returns how many.
    async fn leave(&self, answers: Vec<(i64, RecordedResult)>) -> Result<u64, StoreError> {
        let erased = self.writer.transaction(Rank::Business, None, move |connection| {
            Box::pin(async move { erase_answers(connection, &answers).await })
        });
        match erased.await? {
            Ended::Committed(erased) | Ended::RolledBack(erased) => Ok(erased),
            Ended::Unknown(_, error) => Err(self.writer.unavailable(error)),
        }
    }
}

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

    async fn erase(
        &self,
        scope: &str,
        what: Erase,
        after: Option<RecordCursor>,
        limit: usize,
    ) -> Result<Erased, StoreError> {
        erase_in_order(&Eraser(self), scope, what, after, limit).await
    }

    async fn erase_one(&self, id: &RequestIdentity, token: FencingToken, what: Erase) -> Result<bool, StoreError> {
        if what == Erase::Records {
            let id = id.clone();
            return Ok(self.writer.change(Change::EraseOne { id, token }).await? > 0);
        }
        let record = self.load(id).await?.filter(|record| record.token == token);
        let Some(result) = record.as_ref().and_then(|record| record.result()) else {
            return Ok(false);
        };
        let left = result.erased().unwrap_or_else(|| result.clone());
        Ok(self.leave(vec![(records::number(token), left)]).await? > 0)
    }

    async fn hold(&self, id: &RequestIdentity, token: FencingToken) -> Result<bool, StoreError> {
        let id = id.clone();
        Ok(self.writer.change(Change::Hold { id, token }).await? > 0)
    }

    async fn findings(&self) -> Result<Vec<Finding>, StoreError> {
        findings::all(self).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_to_erase_are_looked_for_from_where_the_last_batch_ended() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("erased.db")).await.unwrap();
        for to in [None, Some("t")] {
            let asked = format!("EXPLAIN QUERY PLAN {}", answers(to).as_str());
            let plan = sqlx::query_as::<_, (i64, i64, i64, String)>(AssertSqlSafe(asked));
            let plan = plan.bind("").bind("").bind(to).bind(10);
            let plan = plan.fetch_all(store.pool()).await.unwrap();
            let searches = |it: &(_, _, _, String)| it.3.starts_with("SEARCH r ") && it.3.contains("(scope,key)>(?,?)");
            assert!(plan.iter().any(searches), "{plan:?}");
        }
    }

    #[tokio::test]
    async fn a_page_of_records_is_read_in_the_order_of_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("listed.db")).await.unwrap();
        for state in [
            None,
            Some(RecordState::Completed),
            Some(RecordState::InProgress),
            Some(RecordState::InDoubt),
        ] {
            for to in [None, Some("t")] {
                let page = Listing::page(state, to);
                let asked = format!("EXPLAIN QUERY PLAN {page}");
                let plan = sqlx::query_as::<_, (i64, i64, i64, String)>(AssertSqlSafe(asked));
                let plan = plan
                    .bind("")
                    .bind("")
                    .bind(to)
                    .bind(None::<&str>)
                    .bind(None::<&str>)
                    .bind(10);
                let plan: Vec<String> = plan
                    .fetch_all(store.pool())
                    .await
                    .unwrap()
                    .into_iter()
                    .map(|it| it.3)
                    .collect();
                assert!(
                    plan.iter()
                        .any(|it| it.starts_with("SEARCH r ") && it.contains("(scope,key)>(?,?)")),
                    "{plan:?}"
                );
                assert!(!plan.iter().any(|it| it.contains("TEMP B-TREE")), "{plan:?}");
            }
        }
    }
}
