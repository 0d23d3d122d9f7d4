//! Looking into the store: the statements of an operator's desk.
//!
//! Records are listed in the order of the primary key, each page from behind the record with which the last one ended. A
//! scope is two ranges of it. What is in progress is few rows of many, and has an index of its own: it is read as a whole, and
//! then put in order.

use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::call::{Message, Value};
use super::records::{self, column, number, only, rows, timestamp};
use super::retry::{Tries, tried_within};
use super::sql::INSTANT;
use oneflight::correlation::CorrelationId;
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{
    Erase, EraseInOrder, Erased, Finding, RecordCursor, RecordEntry, RecordPage, RecordPlace, RecordQuery, RecordState,
    ScopeRange, Store, StoreError, Upkeep, erase_in_order,
};

mod findings;

/// How many answers are read and erased at a time.
const ERASED_AT_ONCE: u64 = 200;
/// What results begin with that have no value: see [`RecordedResult`].
const NO_VALUE: [&[u8]; 2] = [&[1, 2], &[1, 3]];
/// What an erased answer of the HTTP layer ends with, and has no more bytes than.
const ERASED: (&[u8], usize) = (b"\0erased", 48);

/// Scope and key of a record.
type Place = (String, String);

/// Whether a record `r` is of a range of scopes.
fn within((from, to): &ScopeRange) -> String {
    let to = to.as_ref().map(|to| format!(" AND r.scope < {}", Value::Text(to)));
    format!("r.scope >= {}{}", Value::Text(from), to.unwrap_or_default())
}

/// Whether a result has a value.
fn has_value(result: &str) -> String {
    let [too_large, not_encodable] = NO_VALUE.map(|begin| Value::Bytes(Some(begin)).to_string());
    let (end, most) = ERASED;
    format!(
        "(substr({result}, 1, 2) NOT IN ({too_large}, {not_encodable})
          AND NOT (length({result}) <= {most} AND substr({result}, length({result}) - {before}) = {end}))",
        before = end.len() - 1,
        end = Value::Bytes(Some(end)),
    )
}

/// What is left of a value of a step, or of an input.
fn erased(result: &str) -> String {
    let begin = Value::Bytes(Some(&[1, 2, 0])).to_string();
    format!("{begin} || int8send(length({result})::bigint) || int8send(0::bigint)")
}

impl PostgresStore {
    /// Puts a statement to the server, outside of any transaction.
    async fn answer_to(&self, statement: impl Into<String>) -> Result<Vec<PgRow>, StoreError> {
        let statement = statement.into();
        tried_within(self.patience, Tries::on(&self.pool), |left| {
            self.ask(left, Message::outside(&statement))
        })
        .await
    }

    /// A page of records in one range of scopes.
    fn listing(&self, query: &RecordQuery, range: &ScopeRange, limit: usize) -> Result<String, StoreError> {
        let (records, workflows) = (self.names.of("records"), self.names.of("workflows"));
        let mut asked = within(range);
        if let Some(cursor) = &query.after {
            let place = cursor.place().ok_or(RecordCursor::OF_ANOTHER_STORE)?;
            asked += &behind(&text(&place)?);
        }
        if let Some(key) = &query.key {
            asked += &format!(" AND r.key = {}", Value::Text(key));
        }
        if let Some(id) = &query.correlation_id {
            asked += &format!(" AND r.correlation_id = {}", Value::Text(id.as_str()));
        }
        let now = "(SELECT now FROM instant)";
        let kept = format!("r.expires_at > {now}");
        let ordered = format!("ORDER BY scope, key LIMIT {}", rows(limit));
        let open = |of_it: &str| {
            format!(
                "open AS MATERIALIZED (
                    SELECT r.*, w.held AS steps_held FROM {records} r LEFT JOIN {workflows} w USING (scope, key, token)
                    WHERE r.completed_at IS NULL AND {asked}),
                 page AS MATERIALIZED (SELECT * FROM open r WHERE {of_it} {ordered})"
            )
        };
        let page = match query.state {
            None => format!(
                "page AS MATERIALIZED (
                    SELECT * FROM {records} r WHERE {asked} AND (r.completed_at IS NULL OR {kept}) {ordered})"
            ),
            Some(RecordState::Completed) => format!(
                "page AS MATERIALIZED (
                    SELECT * FROM {records} r WHERE {asked} AND r.completed_at IS NOT NULL AND {kept} {ordered})"
            ),
            Some(RecordState::InProgress) => open(&format!(
                "(r.lease_expires_at > {now} OR r.steps_held IS NOT DISTINCT FROM false)"
            )),
            Some(_) => open(&format!(
                "r.lease_expires_at <= {now} AND r.steps_held IS DISTINCT FROM false"
            )),
        };
        // The columns of `RECORD`, and what is beside them.
        Ok(format!(
            "WITH {INSTANT}, {page}
             SELECT {now}, r.fingerprint, r.token, r.holder, r.attempt, r.took_over, r.lease_expires_at, r.completed_at,
                    r.expires_at, r.result, r.held OR (r.completed_at IS NULL AND coalesce(w.held, false)),
                    r.scope, r.key, r.claimed_at, r.correlation_id,
                    r.completed_at IS NULL AND w.held IS NOT DISTINCT FROM false
             FROM page r LEFT JOIN {workflows} w USING (scope, key, token) ORDER BY r.scope, r.key"
        ))
    }
}

/// How a store erases: what [`erase_in_order`] goes from batch to batch with.
struct Eraser<'s>(&'s PostgresStore);

impl EraseInOrder for Eraser<'_> {
    async fn erase_records(&self, range: &ScopeRange, limit: u64) -> Result<u64, StoreError> {
        let records = self.0.names.of("records");
        let erased = self.0.answer_to(format!(
            "WITH erased AS (
                DELETE FROM {records} WHERE ctid = ANY (ARRAY(
                    SELECT r.ctid FROM {records} r WHERE {within} AND r.completed_at IS NOT NULL LIMIT {limit} FOR UPDATE OF r))
                RETURNING 1)
             SELECT count(*) FROM erased",
            within = within(range),
            limit = i64::try_from(limit).unwrap_or(i64::MAX),
        ));
        let count: i64 = column(only(&erased.await?)?, 0)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    async fn erase_answers(
        &self,
        range: &ScopeRange,
        after: &RecordPlace,
        limit: u64,
    ) -> Result<Option<(RecordPlace, u64)>, StoreError> {
        let names = &self.0.names;
        let (records, workflows, steps) = (names.of("records"), names.of("workflows"), names.of("steps"));
        // A place before the range would have its index entered there.
        let behind = match &*after.0 >= range.0.as_bytes() {
            true => behind(&text(after)?),
            false => String::new(),
        };
        let found = self.0.answer_to(format!(
            "SELECT r.scope, r.key, r.token, r.result FROM {records} r
             WHERE {within}{behind} AND r.completed_at IS NOT NULL AND ({result} OR EXISTS (
                SELECT FROM {workflows} w
                WHERE w.scope = r.scope AND w.key = r.key AND ({input} OR EXISTS (
                    SELECT FROM {steps} s WHERE s.workflow = w.id AND s.result IS NOT NULL AND {answer}))))
             ORDER BY r.scope, r.key LIMIT {limit}",
            within = within(range),
            result = has_value("r.result"),
            input = has_value("w.input"),
            answer = has_value("s.result"),
            limit = limit.min(ERASED_AT_ONCE),
        ));
        let found = found.await?;
        let Some(last) = found.last() else {
            return Ok(None);
        };
        let last: (String, String) = (column(last, 0)?, column(last, 1)?);
        let mut left = Vec::with_capacity(found.len());
        for row in &found {
            let (scope, key): (String, String) = (column(row, 0)?, column(row, 1)?);
            let (token, result): (i64, Vec<u8>) = (column(row, 2)?, column(row, 3)?);
            left.push(left_of((&scope, &key), token, &RecordedResult::from_stored(result)));
        }
        let last = (last.0.into_bytes(), last.1.into_bytes());
        Ok(Some((last, self.0.leave(&left).await?)))
    }
}

impl PostgresStore {
    /// Erases answers, and leaves these. Returns how many.
    async fn leave(&self, left: &[String]) -> Result<u64, StoreError> {
        let (records, workflows, steps) = (
            self.names.of("records"),
            self.names.of("workflows"),
            self.names.of("steps"),
        );
        // The token tells whether it is the record that was read: what is completed changes no more.
        let erased = self.answer_to(format!(
            "WITH erased (scope, key, token, result) AS (VALUES {left}),
             done AS (
                UPDATE {records} r SET result = erased.result FROM erased
                WHERE r.scope = erased.scope AND r.key = erased.key AND r.token = erased.token
                  AND r.completed_at IS NOT NULL
                RETURNING r.scope, r.key),
             beside AS (
                UPDATE {workflows} w SET input = {input} FROM done
                WHERE w.scope = done.scope AND w.key = done.key
                RETURNING w.id),
             answers AS (
                UPDATE {steps} s SET result = {answer} FROM beside
                WHERE s.workflow = beside.id AND s.result IS NOT NULL)
             SELECT count(*) FROM done",
            left = left.join(", "),
            input = erased("w.input"),
            answer = erased("s.result"),
        ));
        let count: i64 = column(only(&erased.await?)?, 0)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

/// What is left of an answer, and whose it is, as a row of values.
fn left_of((scope, key): (&str, &str), token: i64, result: &RecordedResult) -> String {
    let left = result.erased();
    format!(
        "({}, {}, {}, {})",
        Value::Text(scope),
        Value::Text(key),
        Value::Number(token),
        Value::Bytes(Some(left.as_ref().unwrap_or(result).as_bytes()))
    )
}

/// Returns the record in a row of a listing.
fn entry(row: &PgRow) -> Result<RecordEntry, StoreError> {
    let id = RequestIdentity::from_stored(column(row, 11)?, column(row, 12)?);
    let id = id.map_err(|_| StoreError::Corrupt {
        what: "a scope or a key is not valid",
    })?;
    let record = records::record(row)?.ok_or(StoreError::Corrupt {
        what: "a record has no token",
    })?;
    let mut entry = RecordEntry::new(id, record);
    entry.claimed = Some(timestamp(column(row, 13)?)?);
    // An id that is none was not written by us, and is no reason to hide the record.
    let correlation: Option<&str> = column(row, 14)?;
    entry.correlation_id = correlation.and_then(|id| CorrelationId::new(id).ok());
    if column(row, 15)? {
        entry.state = RecordState::InProgress;
    }
    Ok(entry)
}

/// Returns scope and key of a place, which are text here.
fn text((scope, key): &RecordPlace) -> Result<Place, StoreError> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| RecordCursor::OF_ANOTHER_STORE);
    Ok((text(scope)?, text(key)?))
}

/// Whether a record `r` is behind a place.
fn behind((scope, key): &Place) -> String {
    format!(" AND (r.scope, r.key) > ({}, {})", Value::Text(scope), Value::Text(key))
}

impl Upkeep for PostgresStore {
    async fn records(&self, query: RecordQuery) -> Result<RecordPage, StoreError> {
        let mut page = RecordPage::default();
        let mut left = query.limit;
        for range in query.scope_ranges() {
            if left == 0 {
                break;
            }
            for row in &self.answer_to(self.listing(&query, &range, left)?).await? {
                match entry(row) {
                    Ok(entry) => page.entries.push(entry),
                    Err(_) => page.unreadable += 1,
                }
                left = left.saturating_sub(1);
                if left == 0 {
                    let (scope, key): (&str, &str) = (column(row, 11)?, column(row, 12)?);
                    page.next = Some(RecordCursor::behind(scope.as_bytes(), key.as_bytes()));
                }
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
        if what == Erase::Answers {
            let record = self.load(id).await?.filter(|record| record.token == token);
            let Some(result) = record.as_ref().and_then(|record| record.result()) else {
                return Ok(false);
            };
            let left = left_of((id.scope(), id.key()), number(token), result);
            return Ok(self.leave(&[left]).await? > 0);
        }
        let erased = self.answer_to(format!(
            "WITH erased AS (
                DELETE FROM {} WHERE scope = {} AND key = {} AND token = {} AND completed_at IS NOT NULL RETURNING 1)
             SELECT count(*) FROM erased",
            self.names.of("records"),
            Value::Text(id.scope()),
            Value::Text(id.key()),
            Value::Number(number(token)),
        ));
        let erased: i64 = column(only(&erased.await?)?, 0)?;
        Ok(erased > 0)
    }

    async fn hold(&self, id: &RequestIdentity, token: FencingToken) -> Result<bool, StoreError> {
        let (records, workflows) = (self.names.of("records"), self.names.of("workflows"));
        let is_it = format!(
            "scope = {} AND key = {} AND token = {}",
            Value::Text(id.scope()),
            Value::Text(id.key()),
            Value::Number(number(token)),
        );
        // The mutation of steps, if it is one, or else the record.
        let held = self.answer_to(format!(
            "WITH steps AS (
                UPDATE {workflows} SET held = true
                WHERE {is_it} AND EXISTS (SELECT FROM {records} WHERE {is_it} AND completed_at IS NULL)
                RETURNING 1),
             alone AS (
                UPDATE {records} SET held = true
                WHERE {is_it} AND completed_at IS NULL AND NOT EXISTS (SELECT FROM {workflows} WHERE {is_it})
                RETURNING 1)
             SELECT (SELECT count(*) FROM steps) + (SELECT count(*) FROM alone)"
        ));
        let held: i64 = column(only(&held.await?)?, 0)?;
        Ok(held > 0)
    }

    async fn findings(&self) -> Result<Vec<Finding>, StoreError> {
        findings::all(self).await
    }
}
