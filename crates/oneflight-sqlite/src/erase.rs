//! The statements that erase what is completed, in a range of scopes.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::busy::unavailable;
use super::ending::End;
use super::file::databases;
use super::records::{Statement, number};
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{ScopeRange, StoreError};

/// Whether a record `r` is of a range of scopes, which are the first two values.
pub(super) fn within(range: &ScopeRange) -> &'static str {
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
pub(super) fn erase_records(range: &ScopeRange, limit: i64) -> Statement<'_> {
    let statement = format!(
        "DELETE FROM main.oneflight_records WHERE token IN (
            SELECT token FROM main.oneflight_records r WHERE {} AND state = 'completed' LIMIT ?3)",
        within(range)
    );
    let erase = sqlx::query(AssertSqlSafe(statement).into_sql_str());
    erase.bind(&range.0).bind(&range.1).bind(limit)
}

/// Deletes a record that was completed under this token. Its steps go with it.
pub(super) fn erase_record(id: &RequestIdentity, token: FencingToken) -> Statement<'_> {
    let erase = sqlx::query(
        "DELETE FROM main.oneflight_records WHERE scope = ? AND key = ? AND token = ? AND state = 'completed'",
    );
    erase.bind(id.scope()).bind(id.key()).bind(number(token))
}

/// Finds completed records with an answer, or with one of a step, or with what they were started with: also those of a mutation of
/// steps that was passed over. Takes where it begins, as scope and key, where the range ends, and how many.
pub(super) fn answers(to: Option<&str>) -> SqlStr {
    let find = format!(
        concat!(
            "SELECT token, result, CAST(scope AS BLOB), CAST(key AS BLOB), main_file, attached FROM {databases} LEFT JOIN (
                SELECT r.token, r.result, r.scope, r.key FROM main.oneflight_records r
                WHERE (r.scope, r.key) > (+CAST(unhex(?1) AS TEXT), +CAST(unhex(?2) AS TEXT)) AND {to}
                      AND +r.state = 'completed' AND (",
            has_value!("r.result"),
            " OR EXISTS (
                    SELECT 1 FROM main.oneflight_workflows w WHERE w.scope = r.scope AND w.key = r.key AND (",
            has_value!("w.input"),
            " OR EXISTS (SELECT 1 FROM main.oneflight_steps s WHERE s.workflow = w.id AND s.result IS NOT NULL AND ",
            has_value!("s.result"),
            "))))
                ORDER BY r.scope, r.key LIMIT ?4
             ) ORDER BY scope, key"
        ),
        databases = databases!(),
        to = match to {
            Some(_) => "r.scope < ?3",
            None => "?3 IS NULL",
        },
    );
    AssertSqlSafe(find).into_sql_str()
}

/// Erases the answers of records that were completed under these tokens, and leaves these.
pub(super) async fn erase_answers(
    connection: &mut SqliteConnection,
    answers: &[(i64, RecordedResult)],
) -> Result<(End, u64), StoreError> {
    let mut count = 0;
    for (token, left) in answers {
        let erase =
            sqlx::query("UPDATE main.oneflight_records SET result = ?2 WHERE token = ?1 AND state = 'completed'");
        let erase = erase.bind(token).bind(left.as_bytes());
        let erased = erase
            .execute(&mut *connection)
            .await
            .map_err(unavailable)?
            .rows_affected();
        if erased == 0 {
            continue;
        }
        count += erased;
        let beside = sqlx::query(concat!(
            "UPDATE main.oneflight_steps SET result = ",
            erased!("result"),
            " WHERE result IS NOT NULL AND workflow IN (
                SELECT w.id FROM main.oneflight_records r JOIN main.oneflight_workflows w USING (scope, key) WHERE r.token = ?1);
             UPDATE main.oneflight_workflows SET input = ",
            erased!("input"),
            " WHERE (scope, key) = (SELECT scope, key FROM main.oneflight_records WHERE token = ?1)"
        ));
        let beside = beside.bind(token);
        beside.execute(&mut *connection).await.map_err(unavailable)?;
    }
    Ok((End::Commit, count))
}
