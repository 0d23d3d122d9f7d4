//! Mutation and record in one commit.
//!
//! ```text
//! BEGIN IMMEDIATE                      the one writer, among all processes
//!   claim                              a record in progress, whose lease is over at once
//!   SAVEPOINT oneflight_work
//!     the work's statements
//!   RELEASE, or ROLLBACK TO and RELEASE if the work declined
//!   complete
//! COMMIT
//! ```
//!
//! While the work runs, the connection is [sealed](super::seal). If the work ends the transaction behind our back, or
//! goes on after SQLite ended it by itself, nothing of it is kept. The savepoint is gone then, so we know as well.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;

use super::busy::{is_plain, is_violation, unavailable};
use super::ending::{Commits, End, Ended};
use super::queue::Rank;
use super::records::{self, Claims, Completed};
use super::steps;
use super::store::SqliteStore;
use super::writer::Turn;
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, HolderId};
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Denied, Ending, OpenTransaction, StepInTransaction, StepRecord, StoreError,
    TransactionalStepStore, TransactionalStore,
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
        let asked = Instant::now();
        if let Some(answer) = self.answer_from_read(&request).await? {
            return Ok(ClaimOutcome::Denied(not_granted(answer)));
        }
        let writer = &self.writer;
        let patience = request.patience.map(|it| it.saturating_sub(asked.elapsed()));
        let mut request = request;
        request.lease = Duration::ZERO;
        let mut turn = writer.begin(Rank::Business, patience).await?;
        let claims = Claims::InTransaction(writer.commits);
        let claim = match records::claim(&mut turn, &request, claims, &writer.file).await {
            Ok((End::Commit, ClaimOutcome::Granted(claim))) => claim,
            Ok((_, outcome)) => {
                let _ = writer.end(turn, End::RollBack, ()).await;
                return Ok(ClaimOutcome::Denied(not_granted(outcome)));
            }
            Err(error) => return Err(writer.fail(turn, error).await),
        };
        let of = Of::Request {
            id: request.id.clone(),
            token: claim.token(),
            holder: request.holder,
        };
        let value = run_within(self, turn, of, claim.attempt(), work).await?;
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
        let writer = &self.writer;
        let mut turn = writer.begin(Rank::Business, None).await?;
        match steps::hold(&mut turn, &step.request, step.token, &writer.file).await {
            Ok(databases) if writer.commits == Commits::AtOnce && databases.has_attached() => {
                return Err(writer.fail(turn, records::attached()).await);
            }
            Ok(_) => {}
            Err(error) => return Err(writer.fail(turn, error).await),
        }
        let attempt = step.attempt;
        run_within(self, turn, Of::Step(step), attempt, work).await
    }
}

/// What a transaction is of, and so what is recorded in it.
enum Of {
    Request {
        id: RequestIdentity,
        token: FencingToken,
        holder: HolderId,
    },
    Step(StepInTransaction),
}

/// Runs the work in a transaction that has its savepoint, and ends it as the work says.
async fn run_within<W, F, R>(
    store: &SqliteStore,
    mut turn: Turn,
    of: Of,
    attempt: u32,
    work: W,
) -> Result<R, StoreError>
where
    W: FnOnce(OpenTransaction<SqliteConnection, ()>) -> F + Send + 'static,
    F: Future<Output = (Ending, R)> + Send + 'static,
    R: Send + 'static,
{
    let writer = &store.writer;
    let seal = match writer.seal(&mut turn).await {
        Ok(seal) => seal,
        Err(error) => return Err(writer.fail(turn, unavailable(error)).await),
    };
    seal.close();
    let (open, loan) = OpenTransaction::lend(turn, (), attempt);
    let (ending, value) = writer.within(work(open)).await;
    let kept = Kept::from_now(&ending);
    let mut turn = match loan.take_back() {
        Ok(turn) => turn,
        // Its seal is never opened again.
        Err(_) if matches!(ending, Ending::RollBack) => return Ok(value),
        Err(_) => return Err(StoreError::TransactionEscaped),
    };
    let end = match end(&mut turn, &of, &ending, writer.commits).await {
        Ok(end) => {
            seal.open();
            end
        }
        Err(Failed::Transaction) if matches!(ending, Ending::RollBack) => End::Close,
        Err(failed) => {
            let _ = writer.end(turn, End::Close, ()).await;
            return Err(match failed {
                Failed::Transaction => StoreError::TransactionEnded,
                Failed::Record(error) => StoreError::rolled_back(error),
                Failed::Attached => StoreError::rolled_back(records::attached()),
            });
        }
    };
    match (writer.end(turn, end, value).await, of) {
        (Ended::Committed(value) | Ended::RolledBack(value), _) => Ok(value),
        (Ended::Unknown(value, error), Of::Request { id, holder, .. }) => {
            look_up(store, &id, holder, kept, error).await?;
            Ok(value)
        }
        (Ended::Unknown(value, error), Of::Step(step)) => {
            look_step_up(store, step, error).await?;
            Ok(value)
        }
    }
}

/// How long a record is certain to be kept, if it was committed.
pub(super) struct Kept {
    since: Instant,
    at_least: Duration,
}

impl Kept {
    pub(super) fn from_now(ending: &Ending) -> Self {
        let retention = match ending {
            Ending::Commit { retention, .. } | Ending::Decline { retention, .. } => *retention,
            Ending::RollBack => Duration::MAX,
        };
        Self {
            since: Instant::now(),
            // Retentions end by another clock, which may be set.
            at_least: retention / 2,
        }
    }

    fn is_certain(&self) -> bool {
        self.since.elapsed() < self.at_least
    }
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

/// Ends the work's part as the work wants, up to the commit.
async fn end(connection: &mut SqliteConnection, of: &Of, ending: &Ending, commits: Commits) -> Result<End, Failed> {
    let over = |_| Failed::Transaction;
    let (result, retention) = match ending {
        Ending::RollBack => {
            // If the savepoint still exists, so does the transaction.
            run(connection, "ROLLBACK TO oneflight_work").await.map_err(over)?;
            return Ok(End::RollBack);
        }
        Ending::Commit { result, retention } | Ending::Decline { result, retention } => (result, *retention),
    };
    if let Ending::Decline { .. } = ending {
        run(connection, "ROLLBACK TO oneflight_work").await.map_err(over)?;
    }
    let recorded = match of {
        Of::Request { id, token, .. } => records::release_and_complete(connection, id, *token, result, retention).await,
        Of::Step(step) => {
            let record = StepRecord {
                id: step.id.clone(),
                input: step.input,
                result: Some(result.clone()),
            };
            steps::release_and_record(connection, &step.request, step.token, &record).await
        }
    };
    match recorded {
        Ok(Completed::BesideAttached) if commits == Commits::AtOnce => Err(Failed::Attached),
        Ok(Completed::Yes | Completed::BesideAttached) => Ok(End::Commit),
        Ok(Completed::No) => Err(Failed::Transaction),
        // The savepoint is gone, and the transaction with it.
        Err(error) if is_plain(&error) => Err(Failed::Transaction),
        Err(error) => Err(Failed::Record(error)),
    }
}

/// Asks the database what became of a transaction whose connection is closed.
///
/// It asks under the write lock, which the old transaction must have given up by then: the answer cannot change any
/// more. The holder tells, not the token: a token that was rolled back is drawn again. A record that may be past its
/// retention by then does not count as missing for certain.
pub(super) async fn look_up(
    store: &SqliteStore,
    id: &RequestIdentity,
    holder: HolderId,
    kept: Kept,
    error: sqlx::Error,
) -> Result<(), StoreError> {
    let (id, file) = (id.clone(), Arc::clone(&store.writer.file));
    let looked = store
        .writer
        .transaction(Rank::Lease, None, move |connection| {
            Box::pin(async move {
                let (record, _) = records::select_within(connection, &id, &file).await?;
                Ok((End::RollBack, record))
            })
        })
        .await;
    let record = match looked {
        Ok(Ended::Committed(record) | Ended::RolledBack(record) | Ended::Unknown(record, _)) => record,
        // Not the reason why it cannot be found out: of a lock that others hold, for example, it is known that nothing
        // was done under it.
        Err(_) => return Err(store.writer.unavailable(error)),
    };
    match record {
        Some(record) if record.holder == holder => match record.result() {
            Some(_) => Ok(()),
            None => Err(StoreError::Corrupt {
                what: "a transaction was committed before it had its result",
            }),
        },
        _ if kept.is_certain() => Err(StoreError::rolled_back(error)),
        _ => Err(store.writer.unavailable(error)),
    }
}

/// The same for the transaction of a step. Its mutation is there for as long as its claim is held, so a step that is not
/// there was not committed.
async fn look_step_up(store: &SqliteStore, step: StepInTransaction, error: sqlx::Error) -> Result<(), StoreError> {
    let looked = store
        .writer
        .transaction(Rank::Lease, None, move |connection| {
            Box::pin(async move {
                let recorded = steps::is_recorded(connection, &step.request, step.token, &step.id).await?;
                Ok((End::RollBack, recorded))
            })
        })
        .await;
    match looked {
        Ok(Ended::Committed(recorded) | Ended::RolledBack(recorded) | Ended::Unknown(recorded, _)) => match recorded {
            Some(true) => Ok(()),
            Some(false) => Err(StoreError::rolled_back(error)),
            None => Err(store.writer.unavailable(error)),
        },
        Err(_) => Err(store.writer.unavailable(error)),
    }
}
