//! The statements by which claims, or changes, of several requests are one transaction and one errand to the
//! connection's thread.
//!
//! ```text
//! BEGIN IMMEDIATE        on a connection of ours; another one is in a transaction already
//! INSERT                 claims of what has no record
//!   or UPDATE, DELETE    results, releases, renewals, ends of leases
//! COMMIT
//! ```
//!
//! Each of these statements has the conditions of that of one request (in [`records`](super::records)), over all that
//! are in a list. A claim of what has a record by now is not made here. It is for [`decide`](oneflight::store::decide), alone.
//!
//! A list is one value, in JSON, so that the text is constant and prepared once.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Either, Executor, Row};

use super::busy::{is_busy, is_constraint};
use super::change::Change;
use super::file::{DatabaseFile, databases};
use super::gathered::{Answer, Wanted};
use super::records::{Statement, and_commit, millis, number};
use super::writer::Connections;
use oneflight::record::FencingToken;
use oneflight::store::{ClaimRequest, hex};

/// Claims what has no record: the list, and the path of the file that the connection has to have open.
macro_rules! claims {
    ($before:literal, $after:expr) => {
        concat!(
            $before,
            "INSERT INTO main.oneflight_records
                (scope, key, fingerprint, holder, attempt, state, claimed_at, lease_expires_at, correlation_id)
             SELECT value ->> 0, value ->> 1, unhex(value ->> 2), unhex(value ->> 3), 1, 'in_progress', now,
                    now + (value ->> 4), value ->> 5
             FROM json_each(?), (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now)
             WHERE (SELECT coalesce(main_file, '') = ? FROM ",
            databases!(),
            ")
             ON CONFLICT (scope, key) DO NOTHING
             RETURNING token, scope, key",
            $after
        )
    };
}

/// The condition for a row of a list of claims that are held.
macro_rules! is_held {
    () => {
        "r.token = it.value ->> 0 AND r.scope = it.value ->> 1 AND r.key = it.value ->> 2 AND r.state = 'in_progress'"
    };
}

/// Makes changes: the bytes of results, and the results; releases; renewals; ends of leases. `sqlx` numbers what is bound
/// through all statements, so a number of our own would have to be in each.
macro_rules! changes {
    ($before:literal, $after:expr) => {
        concat!(
            $before,
            "UPDATE main.oneflight_records AS r
             SET state = 'completed', lease_expires_at = NULL, held = 0,
                 result = substr(?, it.value ->> 4, it.value ->> 5),
                 completed_at = CAST(unixepoch('subsec') * 1000 AS INTEGER),
                 expires_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + (it.value ->> 3)
             FROM json_each(?) AS it WHERE ",
            is_held!(),
            " RETURNING token;
             DELETE FROM main.oneflight_records WHERE token IN (
                SELECT r.token FROM json_each(?) AS it CROSS JOIN main.oneflight_records AS r WHERE ",
            is_held!(),
            ") RETURNING token;
             UPDATE main.oneflight_records AS r
             SET lease_expires_at
                 = max(r.lease_expires_at, CAST(unixepoch('subsec') * 1000 AS INTEGER) + (it.value ->> 3))
             FROM json_each(?) AS it WHERE ",
            is_held!(),
            " RETURNING token;
             UPDATE main.oneflight_records AS r
             SET lease_expires_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) + (it.value ->> 3)
             FROM json_each(?) AS it WHERE ",
            is_held!(),
            " RETURNING token",
            $after
        )
    };
}

const CLAIMS: &str = claims!("BEGIN IMMEDIATE; ", "; COMMIT");
const CLAIMS_IN_TRANSACTION: &str = claims!("", and_commit!());
const CHANGES: &str = changes!("BEGIN IMMEDIATE; ", "; COMMIT");
const CHANGES_IN_TRANSACTION: &str = changes!("", and_commit!());

/// The number of statements that change something.
const STATEMENTS_OF_CLAIMS: usize = 1;
const STATEMENTS_OF_CHANGES: usize = 4;

/// What became of a transaction.
pub(super) enum Ran {
    /// It was committed. An answer for each request.
    Committed(Vec<Answer>),
    /// The commit failed, and it is not known how it ended.
    Unknown(sqlx::Error),
    /// A statement before that failed, or the first one, by which the transaction would have been begun.
    Failed { is_begun: bool, error: sqlx::Error },
}

/// Makes claims, or changes, and commits. On a connection of the user's, a transaction is begun before, and an empty one
/// after, for `sqlx` to end.
pub(super) async fn run(
    connection: &mut SqliteConnection,
    connections: Connections,
    file: &DatabaseFile,
    wanted: &[&Wanted],
) -> Ran {
    let (mut claims, mut changes) = (Vec::new(), Vec::new());
    for it in wanted {
        match it {
            Wanted::Claim(request) => claims.push(&**request),
            Wanted::Change(change) | Wanted::Alone(change) => changes.push(&**change),
        }
    }
    match claims.is_empty() {
        false => {
            let statement = statement_of_claims(connections, file, &claims);
            let said = say(connection, statement).await;
            said.ran(connections, STATEMENTS_OF_CLAIMS, |rows| claimed(&claims, rows))
        }
        true => {
            let lists = Lists::of(&changes);
            let said = say(connection, lists.statement(connections)).await;
            said.ran(connections, STATEMENTS_OF_CHANGES, |rows| {
                changed(connections, &changes, rows)
            })
        }
    }
}

/// What the statements of a transaction have said.
struct Said {
    /// Each row with the number of statements that had ended before.
    rows: Vec<(usize, SqliteRow)>,
    ended: usize,
    result: sqlx::Result<()>,
}

async fn say(connection: &mut SqliteConnection, statement: Statement<'_>) -> Said {
    let (mut rows, mut ended) = (Vec::new(), 0);
    let mut said = connection.fetch_many(statement);
    let result = loop {
        match said.try_next().await {
            Ok(Some(Either::Left(_))) => ended += 1,
            Ok(Some(Either::Right(row))) => rows.push((ended, row)),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    Said { rows, ended, result }
}

impl Said {
    fn ran(
        self,
        connections: Connections,
        statements: usize,
        answers: impl FnOnce(Vec<(usize, SqliteRow)>) -> sqlx::Result<Vec<Answer>>,
    ) -> Ran {
        let begun_here = usize::from(connections == Connections::Own);
        let before_commit = begun_here + statements;
        let Self { rows, ended, result } = self;
        match result {
            // What is rejected like this is not committed.
            Err(error) if ended == before_commit && (is_constraint(&error) || is_busy(&error)) => {
                return Ran::Failed { is_begun: true, error };
            }
            Err(error) if ended == before_commit => return Ran::Unknown(error),
            Err(error) if ended < before_commit => {
                let is_begun = ended >= begun_here;
                return Ran::Failed { is_begun, error };
            }
            // The connection's thread is gone, and what it had sent is all that arrives.
            Ok(()) if ended <= before_commit => return Ran::Unknown(sqlx::Error::WorkerCrashed),
            // It is committed.
            Err(_) | Ok(()) => {}
        }
        let rows = rows.into_iter();
        let rows = rows.map(|(before, row)| (before.saturating_sub(begun_here), row));
        answers(rows.collect()).map_or_else(Ran::Unknown, Ran::Committed)
    }
}

/// A list as JSON. Text and numbers always are. What was none would be an error of the statement, and all be asked for
/// alone.
macro_rules! json {
    ($list:expr) => {
        serde_json::to_string($list).unwrap_or_default()
    };
}

fn statement_of_claims<'q>(
    connections: Connections,
    file: &'q DatabaseFile,
    claims: &[&ClaimRequest],
) -> Statement<'q> {
    let list: Vec<_> = claims
        .iter()
        .map(|request| {
            let id = &request.id;
            (
                id.scope(),
                id.key(),
                id.fingerprint().map(|it| hex(it.as_bytes())),
                hex(request.holder.as_bytes()),
                millis(request.lease),
                request.correlation_id.as_ref().map(|it| it.as_str()),
            )
        })
        .collect();
    let statement = match connections {
        Connections::Own => CLAIMS,
        Connections::Users => CLAIMS_IN_TRANSACTION,
    };
    sqlx::query(statement).bind(json!(&list)).bind(file.path())
}

/// The rows are in the order of the list. If they were not, a claim would be asked for again, by its holder.
fn claimed(claims: &[&ClaimRequest], rows: Vec<(usize, SqliteRow)>) -> sqlx::Result<Vec<Answer>> {
    let mut rows = rows.into_iter().map(|(_, row)| row).peekable();
    let mut answers = Vec::with_capacity(claims.len());
    for request in claims {
        let id = &request.id;
        let is_its = |row: &SqliteRow| {
            let (scope, key) = (row.try_get::<&str, _>(1), row.try_get::<&str, _>(2));
            scope.is_ok_and(|it| it == id.scope()) && key.is_ok_and(|it| it == id.key())
        };
        answers.push(match rows.next_if(is_its) {
            Some(row) => {
                let token: i64 = row.try_get(0)?;
                Answer::Claimed(FencingToken::new(token.cast_unsigned()))
            }
            None => Answer::Alone,
        });
    }
    Ok(answers)
}

/// The lists of changes of each kind.
#[derive(Default)]
struct Lists<'c> {
    results: Vec<(i64, &'c str, &'c str, i64, usize, usize)>,
    bytes: Vec<u8>,
    releases: Vec<(i64, &'c str, &'c str)>,
    renewals: Vec<(i64, &'c str, &'c str, i64)>,
    ends: Vec<(i64, &'c str, &'c str, i64)>,
}

impl<'c> Lists<'c> {
    fn of(changes: &[&'c Change]) -> Self {
        let mut lists = Self::default();
        for change in changes {
            match change {
                Change::Complete {
                    id,
                    token,
                    result,
                    retention,
                } => {
                    // SQL counts from 1.
                    let (from, bytes) = (lists.bytes.len() + 1, result.as_bytes());
                    lists.bytes.extend_from_slice(bytes);
                    let retention = millis(*retention);
                    let result = (number(*token), id.scope(), id.key(), retention, from, bytes.len());
                    lists.results.push(result);
                }
                Change::Release { id, token } => lists.releases.push((number(*token), id.scope(), id.key())),
                Change::Renew { id, token, lease } => {
                    let renewal = (number(*token), id.scope(), id.key(), millis(*lease));
                    lists.renewals.push(renewal);
                }
                Change::EndLease { id, token, left } => {
                    let end = (number(*token), id.scope(), id.key(), millis(*left));
                    lists.ends.push(end);
                }
                // They are made alone.
                _ => {}
            }
        }
        lists
    }

    fn statement(self, connections: Connections) -> Statement<'static> {
        let statement = match connections {
            Connections::Own => CHANGES,
            Connections::Users => CHANGES_IN_TRANSACTION,
        };
        let statement = sqlx::query(statement).bind(self.bytes).bind(json!(&self.results));
        let statement = statement.bind(json!(&self.releases)).bind(json!(&self.renewals));
        statement.bind(json!(&self.ends))
    }
}

/// Returns the place of a change's statement among those of a transaction, if it is made in one with others.
fn statement_of(change: &Change) -> Option<usize> {
    match change {
        Change::Complete { .. } => Some(0),
        Change::Release { .. } => Some(1),
        Change::Renew { .. } => Some(2),
        Change::EndLease { .. } => Some(3),
        _ => None,
    }
}

/// Returns whether a change can be made together with others.
pub(super) fn goes_together(change: &Change) -> bool {
    statement_of(change).is_some()
}

fn changed(connections: Connections, changes: &[&Change], rows: Vec<(usize, SqliteRow)>) -> sqlx::Result<Vec<Answer>> {
    let mut done = HashSet::with_capacity(rows.len());
    for (statement, row) in rows {
        done.insert((statement, row.try_get::<i64, _>(0)?));
    }
    let answers = changes.iter().map(|change| {
        match statement_of(change).zip(change.token().map(number)) {
            Some(its) if done.contains(&its) => Answer::Changed(1),
            // It may be that the connection has another file open.
            Some(_) if connections == Connections::Users => Answer::Alone,
            Some(_) => Answer::Changed(0),
            None => Answer::Alone,
        }
    });
    Ok(answers.collect())
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::SqliteStore;

    /// What the connection's thread had sent when it ended.
    #[test]
    fn only_the_answer_to_a_commit_says_that_it_is_committed() {
        for (connections, before_commit) in [(Connections::Own, 2), (Connections::Users, 1)] {
            for ended in 0..5 {
                let (rows, result) = (Vec::new(), Ok(()));
                let said = Said { rows, ended, result };
                let ran = said.ran(connections, STATEMENTS_OF_CLAIMS, |_| Ok(Vec::new()));
                let is_committed = matches!(ran, Ran::Committed(_));
                assert_eq!(is_committed, ended > before_commit, "{connections:?} {ended}");
                assert!(is_committed || matches!(ran, Ran::Unknown(_)));
            }
        }
    }

    /// However many records there are: each of a list is looked up by its token.
    #[tokio::test]
    async fn what_is_changed_together_is_looked_up_and_not_searched_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("planned.db")).await.unwrap();
        for statement in CHANGES_IN_TRANSACTION.split(';').take(STATEMENTS_OF_CHANGES) {
            let plan = sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
            let plan: Vec<(i64, i64, i64, String)> = plan.fetch_all(store.pool()).await.unwrap();
            let has = |step: &str| plan.iter().any(|it| it.3.starts_with(step));
            assert!(has("SEARCH r USING "), "{statement}: {plan:?}");
            assert!(
                !has("SCAN r") && !has("SCAN oneflight_records"),
                "{statement}: {plan:?}"
            );
        }
    }
}
