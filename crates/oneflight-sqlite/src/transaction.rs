//! Mutation and record in one commit.
//!
//! ```text
//! look                                 without the lock; an answer ends it here
//! BEGIN IMMEDIATE                      the one writer, among all processes
//!   look                               under the lock: still no record
//!   SAVEPOINT oneflight_work
//!     the work's statements
//!   ROLLBACK TO oneflight_work         if the work declined
//!   RELEASE oneflight_work
//!   record                             with the result
//! COMMIT
//! ```
//!
//! Each errand to the connection's thread costs more than a statement. So all before the work is one of them, if the look has
//! found no record, and all after it is another. The look is on the same connection, if it's this caller's turn at once; or it
//! goes out with what begins the transaction, if the request is [probably a new one](super::guess). Then the bare transaction
//! has as many errands.
//!
//! What has no record needs no claim in the transaction: nobody else can write until its end.
//!
//! Where connections share their cache, or may do so, tables are locked one by one, and the one of the records is locked by a
//! claim first.
//!
//! A record that the look has found, past its retention or without a holder, is decided about under the lock, one statement
//! at a time. So is what another caller has claimed since the look.
//!
//! While the work runs, the connection is [sealed](super::seal). If the work ends the transaction behind our back, or
//! goes on after SQLite ended it by itself, nothing of it is kept. The savepoint is gone then, so we know as well.

use std::error::Error;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;

use super::answers::{self, Completed};
use super::begun::Begun;
use super::busy::{is_plain, is_rejected_by_hook, is_violation};
use super::claims::{self, Claims};
use super::ending::{Commits, End, Ended};
use super::in_doubt::{Kept, look_step_up, look_up};
use super::manager;
use super::records::{self, Along};
use super::seal::{self, open_seal};
use super::steps;
use super::store::{Looked, SqliteStore};
use super::writer::{Turn, Writer};
use oneflight::identity::RequestIdentity;
use oneflight::record::HolderId;
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Decision, Denied, Ending, OpenTransaction, StepInTransaction, StepRecord, StoreError,
    TransactionalStepStore, TransactionalStore, decide,
};

impl TransactionalStore for SqliteStore {
    type Connection = SqliteConnection;
    /// The tables have the same names in every file.
    type Names = ();

    async fn transact<W, F, R>(&self, request: ClaimRequest, work: W) -> Result<ClaimOutcome<R>, StoreError>
    where
        W: FnOnce(OpenTransaction<SqliteConnection, ()>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static,
    {
        let (asked, limit, mut request) = (Instant::now(), request.patience, request);
        let left = || limit.map(|it| it.saturating_sub(asked.elapsed()));
        if let Some(turn) = self.guess.begin(&self.works, &request).await? {
            return run_new(self, turn, request, work).await;
        }
        request.patience = left();
        let Looked {
            record,
            mut connection,
            databases,
        } = self.look_first(&request).await?;
        let is_new = record.is_none();
        self.guess.saw(is_new);
        if let Decision::Unchanged(answer) = decide(record, &request) {
            connection.give_back();
            return Ok(ClaimOutcome::Denied(not_granted(answer)));
        }
        let writer = &self.works;
        request.lease = Duration::ZERO;
        let mut turn = writer.turn_after_look(connection, &databases, left()).await?;
        let is_at_once = is_new && writer.begins_at_once();
        if is_at_once && writer.begin_new(&mut turn, &request, true).await? == Begun::Yes {
            return run_new(self, turn, request, work).await;
        }
        let (turn, attempt) = match claim_in(writer, turn, &request).await? {
            ClaimOutcome::Granted(claimed) => claimed,
            ClaimOutcome::Denied(denied) => return Ok(ClaimOutcome::Denied(denied)),
        };
        let of = Of::Request {
            id: request.id.clone(),
            holder: request.holder,
        };
        let value = run_within(self, turn, of, attempt, work).await?;
        Ok(ClaimOutcome::Granted(value))
    }

    fn is_violation(&self, error: &(dyn Error + 'static)) -> bool {
        is_violation(error)
    }
}

impl TransactionalStepStore for SqliteStore {
    async fn transact_step<W, F, R>(&self, step: StepInTransaction, work: W) -> Result<R, StoreError>
    where
        W: FnOnce(OpenTransaction<SqliteConnection, ()>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static,
    {
        let writer = &self.works;
        let mut turn = writer.begin(writer.rank_of_work(), None).await?;
        match steps::hold(&mut turn, &step.request, step.token, &writer.file).await {
            Ok(databases) if writer.commits == Commits::AtOnce && databases.has_attached() => {
                return Err(writer.fail(turn, records::attached()).await);
            }
            Ok(_) => {}
            Err(error) => return Err(writer.fail(turn, error).await),
        }
        let turn = sealed(writer, turn).await?;
        let attempt = step.attempt;
        run_within(self, turn, Of::Step(step), attempt, work).await
    }
}

/// Claims in a transaction whatever there is, and has it sealed.
async fn claim_in(
    writer: &Writer,
    mut turn: Turn,
    request: &ClaimRequest,
) -> Result<ClaimOutcome<(Turn, u32)>, StoreError> {
    writer.begin_in(&mut turn).await?;
    let claims = Claims::InTransaction(writer.commits);
    match claims::claim(&mut turn, request, claims, &writer.file).await {
        Ok((End::Commit, ClaimOutcome::Granted(claim))) => {
            let turn = sealed(writer, turn).await?;
            Ok(ClaimOutcome::Granted((turn, claim.attempt())))
        }
        Ok((_, outcome)) => {
            let _ = writer.end(turn, End::RollBack, ()).await;
            Ok(ClaimOutcome::Denied(not_granted(outcome)))
        }
        Err(error) => Err(writer.fail(turn, error).await),
    }
}

/// Closes the seal of a turn's connection.
async fn sealed(writer: &Writer, mut turn: Turn) -> Result<Turn, StoreError> {
    match seal::close(&mut turn).await {
        Ok(()) => Ok(turn),
        Err(error) => {
            let _ = writer.end(turn, End::Close, ()).await;
            Err(writer.unavailable(error))
        }
    }
}

/// Runs the work of a request that has no record, as its transaction has seen.
async fn run_new<W, F, R>(
    store: &SqliteStore,
    turn: Turn,
    request: ClaimRequest,
    work: W,
) -> Result<ClaimOutcome<R>, StoreError>
where
    W: FnOnce(OpenTransaction<SqliteConnection, ()>) -> F + Send + 'static,
    F: Future<Output = (Ending, R)> + Send + 'static,
    R: Send + 'static,
{
    let of = Of::New(request, Instant::now());
    let value = run_within(store, turn, of, 1, work).await?;
    Ok(ClaimOutcome::Granted(value))
}

/// What a transaction is of, and so what is recorded in it.
enum Of {
    /// A request without a record, and since when its transaction is open.
    New(ClaimRequest, Instant),
    /// One that was claimed in the transaction.
    Request {
        id: RequestIdentity,
        holder: HolderId,
    },
    Step(StepInTransaction),
}

/// Runs the work in a transaction that is sealed and has its savepoint, and ends it as the work says.
async fn run_within<W, F, R>(store: &SqliteStore, turn: Turn, of: Of, attempt: u32, work: W) -> Result<R, StoreError>
where
    W: FnOnce(OpenTransaction<SqliteConnection, ()>) -> F + Send + 'static,
    F: Future<Output = (Ending, R)> + Send + 'static,
    R: Send + 'static,
{
    let writer = &store.works;
    let (open, loan) = OpenTransaction::lend(turn, (), attempt);
    let (ending, value) = writer.within(work(open)).await;
    let kept = Kept::from_now(&ending);
    let mut turn = match loan.take_back() {
        Ok(turn) => turn,
        // Its seal is never opened again.
        Err(_) if matches!(ending, Ending::RollBack) => return Ok(value),
        Err(_) => return Err(StoreError::TransactionEscaped),
    };
    let ended = match end(&mut turn, &of, &ending, writer).await {
        Ok(Ready::Committed) => {
            writer.end_committed(turn);
            Ended::Committed(value)
        }
        Ok(Ready::Lost(error)) => {
            turn.connection.close().await;
            drop(turn);
            Ended::Unknown(value, error)
        }
        Ok(Ready::To(end)) => writer.end(turn, end, value).await,
        Err(Failed::Transaction) if matches!(ending, Ending::RollBack) => writer.end(turn, End::Close, value).await,
        Err(failed) => {
            let _ = writer.end(turn, End::Close, ()).await;
            return Err(match failed {
                Failed::Transaction => StoreError::TransactionEnded,
                Failed::Record(error) => StoreError::rolled_back(error),
                Failed::Attached => StoreError::rolled_back(records::attached()),
            });
        }
    };
    match (ended, of) {
        (Ended::Committed(value) | Ended::RolledBack(value), _) => Ok(value),
        (Ended::Unknown(value, error), Of::New(ClaimRequest { id, holder, .. }, _) | Of::Request { id, holder }) => {
            look_up(store, &id, holder, kept, error).await?;
            Ok(value)
        }
        (Ended::Unknown(value, error), Of::Step(step)) => {
            look_step_up(store, step, error).await?;
            Ok(value)
        }
    }
}

/// How far a transaction has come to its end.
enum Ready {
    /// It is to end like this.
    To(End),
    /// It was committed along with the record.
    Committed,
    /// The commit that went along with the record failed.
    Lost(sqlx::Error),
}

/// Why the transaction cannot end as the work wants. The connection is still sealed, so nothing of it is kept.
enum Failed {
    /// The transaction that was begun is not the one that is open now, if any is.
    Transaction,
    /// The record could not be written.
    Record(sqlx::Error),
    /// The commit would be one for each of several files.
    Attached,
}

/// Why nothing is granted here. A claim of this very holder outside of a transaction counts as another's for this
/// transaction.
fn not_granted(answer: ClaimOutcome) -> Denied {
    match answer {
        ClaimOutcome::Granted(claim) => Denied::InProgress {
            lease_remaining: Duration::ZERO,
            attempt: claim.attempt(),
        },
        ClaimOutcome::Denied(denied) => denied,
    }
}

/// Runs a constant statement, which is prepared once.
async fn run(connection: &mut SqliteConnection, statement: &'static str) -> sqlx::Result<()> {
    sqlx::query(statement).execute(connection).await.map(drop)
}

/// Ends the work's part as the work wants. The commit goes along with the record, if it is one of a kind that does not
/// have to be tried again, and if the work has left no transaction of its own open, as which `sqlx` would have it.
async fn end(connection: &mut SqliteConnection, of: &Of, ending: &Ending, writer: &Writer) -> Result<Ready, Failed> {
    let over = |_| Failed::Transaction;
    let (result, retention) = match ending {
        Ending::RollBack => {
            // If the savepoint still exists, so does the transaction.
            run(connection, concat!("ROLLBACK TO oneflight_work; ", open_seal!()))
                .await
                .map_err(over)?;
            return Ok(Ready::To(End::RollBack));
        }
        Ending::Commit { result, retention } | Ending::Decline { result, retention } => (result, *retention),
    };
    if let Ending::Decline { .. } = ending {
        run(connection, "ROLLBACK TO oneflight_work").await.map_err(over)?;
    }
    let along = match writer.commits {
        Commits::AtOnce if manager::depth(connection) == 1 => Along::Commit,
        Commits::AtOnce | Commits::AfterReaders => Along::Nothing,
    };
    let (completed, done) = match of {
        Of::New(request, begun) => {
            let record = records::release_and_record(along, request, begun.elapsed(), result, retention);
            answers::put(connection, along, record).await
        }
        Of::Request { id, holder } => {
            let record = records::release_and_complete(along, id, *holder, result, retention);
            answers::put(connection, along, record).await
        }
        Of::Step(step) => {
            let record = StepRecord {
                id: step.id.clone(),
                input: step.input,
                result: Some(result.clone()),
            };
            let record = steps::release_and_record(along, &step.request, step.token, &record);
            answers::put(connection, along, record).await
        }
    };
    match (completed, done) {
        // If the commit went along, the seal has rejected it.
        (Completed::BesideAttached, _) if writer.commits == Commits::AtOnce => Err(Failed::Attached),
        (Completed::Yes, done) if along == Along::Commit => {
            #[cfg(test)]
            let done = writer.faults.after_commit(done);
            Ok(done.map_or_else(Ready::Lost, |()| Ready::Committed))
        }
        (Completed::Yes, Ok(())) => Ok(Ready::To(End::Commit)),
        (Completed::BesideAttached, Ok(())) => match seal::open(connection).await {
            Ok(()) => Ok(Ready::To(End::Commit)),
            Err(error) => Err(Failed::Record(error)),
        },
        (Completed::No, Ok(())) => Err(Failed::Transaction),
        // The savepoint is gone, and the transaction with it; or the record, without which the seal rejects a commit.
        (_, Err(error)) if is_plain(&error) || is_rejected_by_hook(&error) => Err(Failed::Transaction),
        (_, Err(error)) => Err(Failed::Record(error)),
    }
}
