//! What the statements of one errand answer.
//!
//! If the connection's thread ends in the midst of them, their answers just end too, without an error. So that all of them
//! have been carried out is seen by their number.

use futures_util::{Stream, TryStreamExt};
use sqlx::sqlite::{SqliteConnection, SqliteQueryResult, SqliteRow};
use sqlx::{Either, Executor, Row};

use super::records::{Along, Statement};

/// What became of a record in the transaction of its work.
pub(super) enum Completed {
    /// It was completed.
    Yes,
    /// It was, and files are attached to the connection.
    BesideAttached,
    /// It was not there to be completed.
    No,
}

/// Runs statements that record in the transaction of the work, and commit if they are to. Returns what was recorded,
/// also if something failed after that.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    along: Along,
    statements: Statement<'_>,
) -> (Completed, sqlx::Result<()>) {
    recorded(connection.fetch_many(statements), along).await
}

async fn recorded(
    mut answers: impl Stream<Item = sqlx::Result<Either<SqliteQueryResult, SqliteRow>>> + Unpin,
    along: Along,
) -> (Completed, sqlx::Result<()>) {
    let mut completed = Completed::No;
    // The statement that records, and the commit.
    let mut missing = match along {
        Along::Nothing => 1,
        Along::Commit => 2,
    };
    let mut is_answered = false;
    loop {
        match answers.try_next().await {
            Ok(Some(Either::Left(_))) => {
                is_answered = true;
                if !matches!(completed, Completed::No) {
                    missing -= 1.min(missing);
                }
            }
            Ok(Some(Either::Right(row))) => {
                completed = match row.try_get::<Option<i64>, _>(0) {
                    Ok(Some(_)) => Completed::Yes,
                    Ok(None) => Completed::BesideAttached,
                    Err(error) => return (Completed::Yes, Err(error)),
                }
            }
            Ok(None) => {
                let is_whole = match completed {
                    Completed::No => is_answered,
                    Completed::Yes | Completed::BesideAttached => missing == 0,
                };
                // Else the connection's thread is gone, and what it had sent is all that arrives.
                return (completed, is_whole.then_some(()).ok_or(sqlx::Error::WorkerCrashed));
            }
            Err(error) => return (completed, Err(error)),
        }
    }
}

/// Runs statements, and returns how many rows they changed.
pub(super) async fn changed(connection: &mut SqliteConnection, statements: Statement<'_>) -> sqlx::Result<u64> {
    let (mut rows, mut answers) = (None, connection.fetch_many(statements));
    while let Some(answer) = answers.try_next().await? {
        if let Either::Left(done) = answer {
            rows = Some(rows.unwrap_or(0) + done.rows_affected());
        }
    }
    // If nothing was said, the connection's thread is gone.
    rows.ok_or(sqlx::Error::WorkerCrashed)
}

/// Runs a statement that changes rows, and returns what it says of each.
pub(super) async fn rows_changed(
    connection: &mut SqliteConnection,
    statement: Statement<'_>,
) -> sqlx::Result<Vec<SqliteRow>> {
    let (mut rows, mut is_whole, mut answers) = (Vec::new(), false, connection.fetch_many(statement));
    while let Some(answer) = answers.try_next().await? {
        match answer {
            Either::Left(_) => is_whole = true,
            Either::Right(row) => rows.push(row),
        }
    }
    // Else the connection's thread is gone, and with it what it had not committed.
    is_whole.then_some(rows).ok_or(sqlx::Error::WorkerCrashed)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use sqlx::Connection;

    use super::*;

    /// What arrives of a transaction if the connection's thread ends after some of its answers.
    #[tokio::test]
    async fn only_all_answers_are_a_commit() {
        for (along, statements, all) in [
            (Along::Nothing, "SAVEPOINT work; SELECT 1", 3),
            (Along::Commit, "BEGIN; SELECT 1; COMMIT; BEGIN", 4),
        ] {
            for arrive in 0..=5 {
                let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
                let answers = connection.fetch_many(statements).take(arrive);
                let (completed, ended) = recorded(answers, along).await;
                let is_committed = matches!(completed, Completed::Yes) && ended.is_ok();
                assert_eq!(is_committed, arrive >= all, "{arrive} {along:?}");
                assert_eq!(
                    ended.is_err(),
                    arrive == 0 || (2..all).contains(&arrive),
                    "{arrive} {along:?}"
                );
            }
        }
    }
}
