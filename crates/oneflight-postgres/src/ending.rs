//! How a transaction of the work's ends: undone, or with its record, and that with the `COMMIT` if it can be.
//!
//! ```text
//! record and COMMIT in one message ──a row, and no error──▶ committed
//!    ├──an error, and no row──▶ not committed; asked about in the same session: is it ours still?
//!    ├──a row, and an error of the commit──▶ rejected, or not known: see `settle`
//!    └──no answer──▶ not known: see `settle`
//! ```
//!
//! An answer is only taken for that of our message if it is certain to be. `sqlx` may have left a part of an earlier answer
//! unread, and then takes each answer for the one to the statement after it. So the row has a name that no other has, and what
//! follows it is counted.

use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Column, Either, Row};

use super::PostgresStore;
use super::call::{Value, function};
use super::errors::{
    is_nothing_recorded, is_refused_commit, is_session_over, is_transaction_over, not_recorded, out_of_step,
    rolled_back,
};
use super::manager;
use super::number::Number;
use super::records::{self, column, millis, number};
use super::unheard::{self, Unheard};
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{ClaimRequest, Ending, StepInTransaction, StoreError};

/// The longest result that stands in the text of a message, in twice as many digits.
const LONGEST_LITERAL: usize = 16 * 1024;
/// How many statements there are in the message that records and commits.
const STATEMENTS: usize = 3;
/// Undoes what the work did, and asks in which transaction that was.
const UNDO: &str = "ROLLBACK TO oneflight_work; SELECT pg_current_xact_id_if_assigned()::text";

/// What a transaction is of, and so what is recorded in it.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    Request(&'a ClaimRequest),
    Step(&'a StepInTransaction),
}

/// What may be begun, and on what it rests.
pub(super) struct Granted {
    pub(super) attempt: u32,
    pub(super) took_over: Option<FencingToken>,
    pub(super) seen: Option<FencingToken>,
    pub(super) number: Number,
}

/// How the transaction is over, or how it is to end.
pub(super) enum Ended {
    /// The work ended it.
    Before,
    RolledBack,
    /// The connection is lost, and the transaction with it.
    Lost,
    /// All that is missing is `COMMIT`.
    Ready,
    Committed,
    /// `COMMIT` was sent, and the server rejected it.
    Rejected(sqlx::Error),
    /// `COMMIT` was sent, and it is not known what became of it.
    Unanswered(sqlx::Error, Seen),
}

/// What was seen of a transaction whose commit was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// That its record was written in it.
    Record,
    Nothing,
}

/// What of the work was undone.
enum Undone {
    /// All of it.
    Work,
    /// Nothing: the work had ended the transaction.
    Nothing,
    /// The connection is lost.
    Unknown(sqlx::Error),
}

impl PostgresStore {
    /// Undoes what the work did, if its transaction is still the one that was begun: the one that has the savepoint, unless its
    /// number is another one.
    async fn undo(&self, connection: &mut PgConnection, granted: &Granted) -> Undone {
        let undone = async {
            sqlx::raw_sql(UNDO)
                .fetch_one(connection)
                .await?
                .try_get::<Option<String>, _>(0)
        };
        match self.in_time(undone).await {
            Ok(number) if number.as_ref() == Some(&granted.number.text) => Undone::Work,
            Ok(_) => Undone::Nothing,
            Err(error) if is_transaction_over(&error) => Undone::Nothing,
            Err(error) => Undone::Unknown(error),
        }
    }

    /// Ends the work's part as the work wants: with the commit, if it can go along, or up to it.
    pub(super) async fn end(
        &self,
        connection: &mut PgConnection,
        of: Of<'_>,
        granted: &Granted,
        ending: &Ending,
    ) -> Result<Ended, StoreError> {
        if let Ending::RollBack | Ending::Decline { .. } = ending {
            match self.undo(connection, granted).await {
                Undone::Work => {}
                Undone::Nothing => return Ok(Ended::Before),
                // The connection is lost, and the transaction with it: `COMMIT` was never said.
                Undone::Unknown(_) if matches!(ending, Ending::RollBack) => return Ok(Ended::Lost),
                Undone::Unknown(error) => return Err(rolled_back(error)),
            }
        }
        let (result, retention) = match ending {
            Ending::RollBack => return Ok(Ended::RolledBack),
            Ending::Commit { result, retention } | Ending::Decline { result, retention } => (result, *retention),
        };
        if result.as_bytes().len() <= LONGEST_LITERAL && manager::depth(connection) == 1 && unheard::is_possible() {
            return self.record_and_commit(connection, of, granted, result, retention).await;
        }
        let record = match of {
            Of::Request(request) => sqlx::query(self.statements.record.clone())
                .bind(request.id.scope())
                .bind(request.id.key())
                .bind(request.id.fingerprint().map(|it| it.as_bytes().to_vec()))
                .bind(&request.holder.as_bytes()[..])
                .bind(i64::from(granted.attempt))
                .bind(granted.took_over.map(number))
                .bind(millis(retention))
                .bind(result.as_bytes())
                .bind(self.names.keys(&request.id).watch)
                .bind(&granted.number.text)
                .bind(granted.seen.map(number))
                .bind(records::correlation(request)),
            Of::Step(step) => sqlx::query(self.statements.steps.record.clone())
                .bind(step.request.scope())
                .bind(step.request.key())
                .bind(number(step.token))
                .bind(step.id.name())
                .bind(step.id.key())
                .bind(step.input.map(|it| it.as_bytes().to_vec()))
                .bind(result.as_bytes())
                .bind(&granted.number.text),
        };
        let record = record.persistent(self.prepares);
        let row = match self.in_time(record.fetch_one(&mut *connection)).await {
            Ok(row) => row,
            // That says nothing of a transaction that the work had ended before, and of what it kept after that.
            Err(error) => {
                return match self.undo(connection, granted).await {
                    Undone::Nothing => Ok(Ended::Before),
                    Undone::Work | Undone::Unknown(_) => Err(not_recorded(error)),
                };
            }
        };
        if !column::<bool>(&row, 0)? {
            return Ok(Ended::Before);
        }
        match column::<bool>(&row, 1)? {
            true => Ok(Ended::Ready),
            false => Err(taken(of)),
        }
    }

    /// Records and commits in one round trip.
    async fn record_and_commit(
        &self,
        connection: &mut PgConnection,
        of: Of<'_>,
        granted: &Granted,
        result: &RecordedResult,
        retention: Duration,
    ) -> Result<Ended, StoreError> {
        let record = match of {
            Of::Request(request) => {
                let (fingerprint, channel) = (request.id.fingerprint(), self.names.channel());
                let values = [
                    Value::Text(request.id.scope()),
                    Value::Text(request.id.key()),
                    Value::Bytes(fingerprint.as_ref().map(|it| &it.as_bytes()[..])),
                    Value::Bytes(Some(request.holder.as_bytes())),
                    Value::Number(i64::from(granted.attempt)),
                    Value::Maybe(granted.took_over.map(number)),
                    Value::Number(millis(retention)),
                    Value::Bytes(Some(result.as_bytes())),
                    Value::Number(self.names.keys(&request.id).watch),
                    Value::Text(&granted.number.text),
                    Value::Maybe(granted.seen.map(number)),
                    Value::Text(records::correlation(request)),
                    Value::Text(&channel),
                ];
                function(&self.names.of("record_result"), &values)
            }
            Of::Step(step) => {
                let values = [
                    Value::Text(step.request.scope()),
                    Value::Text(step.request.key()),
                    Value::Number(number(step.token)),
                    Value::Text(step.id.name()),
                    Value::Text(step.id.key()),
                    Value::Bytes(step.input.as_ref().map(|it| &it.as_bytes()[..])),
                    Value::Bytes(Some(result.as_bytes())),
                    Value::Text(&granted.number.text),
                ];
                function(&self.names.of("record_step_result"), &values)
            }
        };
        let mark = format!("oneflight_{}", granted.number.text);
        let mut seen = Seen::Nothing;
        // `sqlx` counts on, and needs a transaction to end: an empty one is begun.
        let put = async {
            let message = sqlx::raw_sql(AssertSqlSafe(format!("{record} AS {mark}; COMMIT; BEGIN")));
            let mut answers = message.fetch_many(&mut *connection);
            let mut done = 0;
            while let Some(answer) = answers.try_next().await? {
                match answer {
                    Either::Right(row) if row.columns().iter().any(|it| it.name() == mark) => seen = Seen::Record,
                    Either::Left(_) if seen == Seen::Record => done += 1,
                    Either::Left(_) | Either::Right(_) => {}
                }
            }
            match done {
                STATEMENTS => Ok(()),
                _ => Err(out_of_step()),
            }
        };
        let error = match self.in_time(Unheard::new(put)).await {
            Ok(()) => return Ok(Ended::Committed),
            Err(error) => error,
        };
        if seen == Seen::Record {
            return Ok(match is_refused_commit(&error) {
                true => Ended::Rejected(error),
                false => Ended::Unanswered(error, seen),
            });
        }
        if error.as_database_error().is_none() {
            return Ok(Ended::Unanswered(error, seen));
        }
        // If the error is of our message, the server did not come to the commit. That says nothing of a transaction that the work
        // had ended before, and of what it kept after that. If it is of an earlier one, so is the next answer, and it looks like
        // none to what was asked.
        match self.undo(connection, granted).await {
            Undone::Nothing => Ok(Ended::Before),
            Undone::Work if is_nothing_recorded(&error) => Err(taken(of)),
            Undone::Work => Err(not_recorded(error)),
            Undone::Unknown(undone) if is_session_over(&undone) => Err(not_recorded(error)),
            Undone::Unknown(_) => Ok(Ended::Unanswered(error, seen)),
        }
    }
}

/// The error of a claim that is another's by now.
fn taken(of: Of<'_>) -> StoreError {
    match of {
        Of::Request(_) => StoreError::rolled_back("the holder whose claim had been taken over came back meanwhile"),
        Of::Step(step) => StoreError::Outdated { token: step.token },
    }
}
