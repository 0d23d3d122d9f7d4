//! The statements that erase what is completed, in a range of scopes.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, SqlSafeStr};

use super::busy::unavailable;
use super::ending::End;
use super::records::{Statement, column};
use oneflight::record::RecordedResult;
use oneflight::store::StoreError;

/// A range of scopes, from the first up to but not including the second.
pub(super) type Range = (String, Option<String>);

/// Whether a record `r` is of a range of scopes, which are the first two values.
pub(super) fn within(range: &Range) -> &'static str {
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

/// Erases answers of completed records of a range of scopes, those of their steps, and what they were started with: those of a
/// mutation of steps that was passed over, too.
pub(super) async fn erase_answers(
    connection: &mut SqliteConnection,
    range: &Range,
    limit: i64,
) -> Result<(End, u64), StoreError> {
    let find = format!(
        concat!(
            "SELECT r.token, r.result FROM main.oneflight_records r WHERE {} AND r.state = 'completed' AND (",
            has_value!("r.result"),
            " OR EXISTS (
                SELECT 1 FROM main.oneflight_workflows w WHERE w.scope = r.scope AND w.key = r.key AND (",
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
            " WHERE result IS NOT NULL AND workflow IN (
                SELECT w.id FROM main.oneflight_records r JOIN main.oneflight_workflows w USING (scope, key) WHERE r.token = ?1);
             UPDATE main.oneflight_workflows SET input = ",
            erased!("input"),
            " WHERE (scope, key) = (SELECT scope, key FROM main.oneflight_records WHERE token = ?1)"
        ));
        let erase = erase.bind(token).bind(result.as_bytes());
        erase.execute(&mut *connection).await.map_err(unavailable)?;
    }
    Ok((End::Commit, found.len() as u64))
}
