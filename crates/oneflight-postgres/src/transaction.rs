//! Mutation and record in one commit.
//!
//! ```text
//! BEGIN; ROLLBACK                     out of what somebody may have left the session in
//! BEGIN; try the lock; SAVEPOINT      one round trip with the line before, in place of the bare BEGIN; with a
//!                                     correlation id, the application is named by it until the transaction ends
//!   look                              reads the record; not the claim's holder, or an answer: ROLLBACK, that is all
//!     the work's statements
//!   ROLLBACK TO oneflight_work        if the work declined
//!   record                            completed at once: it was never in progress for anybody to see
//! COMMIT                              its answer lost: see `settle`
//! ```
//!
//! So a fresh execution takes one round trip more than the bare transaction: *look*. *record* goes out with the `COMMIT`,
//! in one message of the simple protocol. It is the call of a function then, which each session plans once, with its values
//! as [literals](super::call). If it wrote nothing, it fails, and the server ignores the rest of the message. A large result,
//! or work that has left a transaction of its own open, has *record* go out alone, as a statement.
//!
//! # Who holds the claim
//!
//! The claim of a transaction **is** the advisory lock on the identity's number: it is tried and never waited for,
//! lives and dies with the transaction, and is given up by the server *after* the commit is visible. Claims outside of
//! a transaction ([`Statements::claim`](super::statements::Statements)) take the same lock for the length of their one
//! statement, if the record may be claimed at all. `T` and `U` are transactions and `C` is a claim outside, all of one
//! identity:
//!
//! * **T, then U**: U's try for the lock fails. U rolls back, gives its connection back, and is "in progress".
//! * **U's lock, after T's end**: *look* is a statement of its own, begun when U had the lock; it sees T's record,
//!   since the lock was free only after that was visible. (In `REPEATABLE READ` it does not: the snapshot is as old as
//!   the try for the lock. Then *record* meets a row that it cannot see, the server refuses that as a serialization
//!   failure, and nothing of U is kept.)
//! * **C while T runs**: C's try for the lock fails; C writes nothing and is "in progress".
//! * **T while C decides**: T's try for the lock fails, as if C were a transaction.
//! * **T after C's grant**: T has the lock, and *look* sees C's lease. While that runs, T is "in progress". When it is
//!   over, policy says whether T may take over.
//! * **C's holder comes back while T, having taken over, works**: the holder renews, completes or releases without the
//!   lock, being known by its token. *record* writes only over what T may take over still: the very token, with its
//!   lease over. If the holder renewed or completed, *record* writes nothing, and T is rolled back. If it comes after
//!   *record*, it waits for T's row and finds another token in it: it is outdated. If T does not commit, the holder
//!   finds its own token.
//! * **`purge`** deletes only what is past its retention, which counts as absent in every case above.
//!
//! # Work that ends the transaction itself
//!
//! PostgreSQL has no hook that would refuse a `COMMIT`. But *look* gives the transaction a number that no other one
//! has, unless the server crashes, after which it gives out some numbers again: see [`Number`]. *record* writes only in
//! the transaction of that number, and after work that broke it is asked for as well. So no later transaction of the
//! work's can be mistaken for ours. What the work had committed by then stays. The caller learns it, and the request is
//! left in doubt rather than free, and held: no policy has it run again. If *record* fails, or its answer is lost, the
//! server is asked what became of that number. If that is not answered either, if the work's own `COMMIT` is still under
//! way, or if the server has crashed since, such work is taken for rolled back like any other: after a crash the two
//! cannot be told apart.
//!
//! # Work that does not give the transaction back
//!
//! It might say `COMMIT` at any time. So the session that is in the transaction of that number is terminated, and the
//! server asked about the number until it is over. If there was no such session, or the transaction was committed all
//! the same, it is as if the work had ended it. The same holds if this role may not terminate the session; while the
//! session exists, its lock is the claim.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor};
use tokio::time::{Instant, timeout};

use super::borrowed::Borrowed;
use super::ending::{Ended, Granted, Of, Seen};
use super::errors::{is_conflict, is_refused_commit, is_violation, late, rolled_back, unavailable};
use super::manager;
use super::names::Names;
use super::number::Number;
use super::quiet::quiet;
use super::records::{column, number, record, untold};
use super::retry::Tries;
use super::settle::Kept;
use super::statements::turn;
use super::{Held, PostgresStore};
use oneflight::correlation;
use oneflight::record::Record;
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Decision, Denied, Ending, OpenTransaction, StepInTransaction, StoreError,
    TransactionalStepStore, TransactionalStore, decide,
};

/// The number of connections of the pool that may turn out to be lost before that is an answer.
const DEAD_CONNECTIONS: u32 = 2;
/// How often a request, of which the work has committed a part, is tried to be held.
const HOLD_TRIES: u32 = 3;

impl TransactionalStore for PostgresStore {
    type Connection = PgConnection;
    type Names = Arc<Names>;

    async fn transact<W, F, R>(&self, request: ClaimRequest, work: W) -> Result<ClaimOutcome<R>, StoreError>
    where
        W: FnOnce(OpenTransaction<PgConnection, Arc<Names>>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static,
    {
        let ended = self.run(Of::Request(&request), work).await;
        if let Err(StoreError::CommittedByWork) = ended {
            self.hold(request).await;
        }
        ended
    }

    fn is_conflict(&self, error: &(dyn Error + 'static)) -> bool {
        is_conflict(error)
    }

    fn is_violation(&self, error: &(dyn Error + 'static)) -> bool {
        is_violation(error)
    }
}

impl TransactionalStepStore for PostgresStore {
    async fn transact_step<W, F, R>(&self, step: StepInTransaction, work: W) -> Result<R, StoreError>
    where
        W: FnOnce(OpenTransaction<PgConnection, Arc<Names>>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static,
    {
        match self.run(Of::Step(&step), work).await? {
            ClaimOutcome::Granted(value) => Ok(value),
            ClaimOutcome::Denied(_) => Err(StoreError::Outdated { token: step.token }),
        }
    }
}

impl PostgresStore {
    async fn run<W, F, R>(&self, of: Of<'_>, work: W) -> Result<ClaimOutcome<R>, StoreError>
    where
        W: FnOnce(OpenTransaction<PgConnection, Arc<Names>>) -> F + Send + 'static,
        F: Future<Output = (Ending, R)> + Send + 'static,
        R: Send + 'static,
    {
        // The caller's time, as long as nothing has been done.
        let limit = match of {
            Of::Request(request) => self.limit(request),
            Of::Step(_) => self.patience,
        };
        let begun = Instant::now();
        let left = || limit.saturating_sub(begun.elapsed());
        let correlation = correlation::current();
        let begin = match of {
            Of::Request(request) => {
                let keys = self.names.keys(&request.id);
                self.statements.begin(keys, request.holder, correlation.as_ref())
            }
            Of::Step(step) => self.statements.begin_step(&step_turn(step), correlation.as_ref()),
        };
        let mut tries = Tries::on(&self.pool).past_lost_connections(DEAD_CONNECTIONS);
        let mut is_incarnated = false;
        // If it is dropped, it is closed, and the transaction with it.
        let mut borrowed = self.borrow(left()).await?;
        let row = loop {
            let begins = manager::begin(&mut borrowed, begin.clone());
            let error = match in_time(left(), begins).await {
                Ok(()) => match self.read_in(left(), &mut borrowed, of).await {
                    // The server has crashed. Begun anew, the transaction has a number that can be told from those before.
                    Ok(row) if !is_incarnated && Number::lacks_incarnation(&row, number_at(of))? => {
                        is_incarnated = true;
                        let incarnated = async {
                            manager::rollback(&mut borrowed).await?;
                            borrowed.execute(self.statements.incarnate.clone()).await
                        };
                        if in_time(left(), incarnated).await.is_err() {
                            drop(borrowed);
                            borrowed = self.borrow(left()).await?;
                        }
                        continue;
                    }
                    Ok(row) => break row,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            // Most likely one that was lost while it lay in the pool, or that was left in some state. Nothing has been
            // done so far.
            tries.after(error).await?;
            // Closed first: the pool may have no other place.
            drop(borrowed);
            borrowed = self.borrow(left()).await?;
        };
        let granted = match of {
            Of::Request(request) => granted(&row, request)?,
            Of::Step(step) => step_granted(&row, step)?,
        };
        let granted = match granted {
            ClaimOutcome::Granted(granted) => granted,
            ClaimOutcome::Denied(denied @ Denied::InDoubt { .. }) => {
                // It may be asked about again at once, to be taken over, and must not find our own lock.
                if in_time(left(), manager::rollback(&mut borrowed)).await.is_ok() {
                    borrowed.give_back();
                }
                return Ok(ClaimOutcome::Denied(denied));
            }
            ClaimOutcome::Denied(denied) => {
                // The rollback goes out with the connection's way back to the pool. Nothing waits for it.
                manager::start_rollback(&mut borrowed);
                borrowed.give_back();
                return Ok(ClaimOutcome::Denied(denied));
            }
        };
        let (open, loan) = OpenTransaction::lend(borrowed, Arc::clone(&self.names), granted.attempt);
        let (ending, value) = work(open).await;
        let mut borrowed = match loan.take_back() {
            Ok(borrowed) => borrowed,
            // Kept until the session is ended: while its connection is not closed, it is found by the transaction's
            // number.
            Err(_loan) => {
                return match (self.stop(&granted.number).await, ending) {
                    (true, Ending::RollBack) => Ok(ClaimOutcome::Granted(value)),
                    (true, _) => Err(StoreError::TransactionEscaped),
                    (false, _) => Err(StoreError::CommittedByWork),
                };
            }
        };
        let kept = Kept::from_now(of, &ending);
        match self.end(&mut borrowed, of, &granted, &ending).await {
            Ok(Ended::Ready) => {}
            Ok(Ended::Committed) => {
                // Of the empty one that was begun. It goes out with the connection's way back to the pool.
                manager::start_rollback(&mut borrowed);
                borrowed.give_back();
                return Ok(ClaimOutcome::Granted(value));
            }
            Ok(Ended::Rejected(error)) => return Err(rolled_back(error)),
            Ok(Ended::Unanswered(error, seen)) => {
                drop(borrowed);
                self.settle(of, &granted.number, seen, kept, error.into()).await?;
                return Ok(ClaimOutcome::Granted(value));
            }
            Ok(Ended::Before) => return Err(StoreError::CommittedByWork),
            broken @ (Ok(Ended::Lost) | Err(_)) => {
                drop(borrowed);
                // We have not said `COMMIT`. Perhaps the work has.
                if self.ended(&granted.number).await == Some(true) {
                    return Err(StoreError::CommittedByWork);
                }
                return broken.map(|_| ClaimOutcome::Granted(value));
            }
            Ok(Ended::RolledBack) => {
                let rollback = manager::rollback(&mut borrowed);
                let rolled_back = self.in_time(rollback).await.is_ok();
                self.tell_and_give_back(borrowed, rolled_back, of).await;
                return Ok(ClaimOutcome::Granted(value));
            }
        }
        let lost = match self.in_time(manager::commit(&mut borrowed)).await {
            Ok(()) if borrowed.is_in_transaction() => {
                // The work left a transaction of its own inside ours, which is what was committed. The connection is
                // closed, and so everything is rolled back.
                return Err(StoreError::TransactionEnded);
            }
            Ok(()) => {
                borrowed.give_back();
                return Ok(ClaimOutcome::Granted(value));
            }
            Err(error) if is_refused_commit(&error) => return Err(rolled_back(error)),
            Err(error) => error,
        };
        drop(borrowed);
        self.settle(of, &granted.number, Seen::Record, kept, quiet(lost).into())
            .await?;
        Ok(ClaimOutcome::Granted(value))
    }

    /// Leaves a request that is not free for the next call to execute, under no policy: a record in progress, whose
    /// lease is over, and which is held. If that cannot be done, the caller knows all the same.
    pub(super) async fn hold(&self, request: ClaimRequest) {
        let mut doubtful = request;
        (doubtful.lease, doubtful.patience) = (Duration::ZERO, None);
        let tries = Tries::on(&self.pool).insisting(HOLD_TRIES - 1, self.patience);
        let _ = self.claim_as(self.patience, &doubtful, Held::Yes, tries).await;
    }

    /// Notifies those that wait for what was rolled back, so that they try it now. Nobody waits for a step.
    async fn tell_and_give_back(&self, mut borrowed: Borrowed, rolled_back: bool, of: Of<'_>) {
        if rolled_back && !borrowed.is_in_transaction() {
            let Of::Request(request) = of else {
                borrowed.give_back();
                return;
            };
            let keys = self.names.keys(&request.id);
            let notify = borrowed.execute(self.statements.notify(keys));
            if self.in_time(notify).await.is_ok() {
                borrowed.give_back();
            }
        }
    }

    async fn borrow(&self, limit: Duration) -> Result<Borrowed, StoreError> {
        Borrowed::within(limit, &self.pool).await.map_err(unavailable)
    }

    /// Waits for the server no longer than our patience. The connection must not be used any more then.
    pub(super) async fn in_time<T>(&self, answer: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        in_time(self.patience, answer).await
    }

    /// Reads the record, and gives the transaction its number.
    async fn read_in(&self, limit: Duration, connection: &mut PgConnection, of: Of<'_>) -> sqlx::Result<PgRow> {
        let look = match of {
            Of::Request(request) => sqlx::query(self.statements.look.clone())
                .bind(request.id.scope())
                .bind(request.id.key())
                .bind(turn(request.holder)),
            Of::Step(step) => sqlx::query(self.statements.steps.look.clone())
                .bind(step.request.scope())
                .bind(step.request.key())
                .bind(number(step.token))
                .bind(step_turn(step)),
        };
        let look = look.persistent(self.prepares);
        in_time(limit, look.fetch_one(connection)).await
    }
}

/// The columns of the number in what is looked at, before that of the incarnation.
const NUMBER_OF_REQUEST: usize = 12;
const NUMBER_OF_STEP: usize = 2;

fn number_at(of: Of<'_>) -> usize {
    match of {
        Of::Request(_) => NUMBER_OF_REQUEST,
        Of::Step(_) => NUMBER_OF_STEP,
    }
}

/// Waits for the server no longer than this. The connection must not be used any more then.
async fn in_time<T>(limit: Duration, answer: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout(limit, answer).await.unwrap_or_else(|_| Err(late()))
}

/// What follows from the record as it was read.
fn granted(row: &PgRow, request: &ClaimRequest) -> Result<ClaimOutcome<Granted>, StoreError> {
    let (record, locked) = (record(row)?, column::<bool>(row, 11)?);
    let seen = record.as_ref().map(|record| record.token);
    let attempt = record.as_ref().map_or(1, |record: &Record| record.attempt);
    Ok(match decide(record, request) {
        // A claim of this very holder outside counts as another's for this transaction.
        Decision::Unchanged(ClaimOutcome::Granted(_)) => ClaimOutcome::Denied(untold(1)),
        Decision::Unchanged(ClaimOutcome::Denied(denied)) => ClaimOutcome::Denied(denied),
        Decision::Grant { .. } if !locked => ClaimOutcome::Denied(untold(attempt)),
        Decision::Grant { attempt, took_over } => ClaimOutcome::Granted(Granted {
            attempt,
            took_over,
            seen,
            number: Number::of(row, NUMBER_OF_REQUEST)?,
        }),
    })
}

/// What stands in `oneflight.turn` during the transaction of a step.
fn step_turn(step: &StepInTransaction) -> String {
    format!("step {}", step.token)
}

/// What follows from the claim as it was read for a step.
fn step_granted(row: &PgRow, step: &StepInTransaction) -> Result<ClaimOutcome<Granted>, StoreError> {
    let (ours, held) = (column::<bool>(row, 0)?, column::<bool>(row, 1)?);
    Ok(match ours && held {
        true => ClaimOutcome::Granted(Granted {
            attempt: step.attempt,
            took_over: None,
            seen: None,
            number: Number::of(row, NUMBER_OF_STEP)?,
        }),
        // Something else has the session, or the claim.
        false if !ours => {
            return Err(StoreError::rolled_back(
                "the session is not in the transaction that was begun",
            ));
        }
        false => ClaimOutcome::Denied(untold(step.attempt)),
    })
}
