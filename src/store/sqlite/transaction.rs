//! Mutation and record in one commit.
//!
//! ```text
//! BEGIN IMMEDIATE                      the one writer, among all processes
//!   claim                              a record in progress, whose lease is over at once
//!   SAVEPOINT oneflight_work
//!     the work's statements
//!   RELEASE, or ROLLBACK TO and RELEASE if the work was refused
//!   complete
//! COMMIT
//! ```
//!
//! The record is written *before* the work, although nobody sees it: should the work end the transaction behind
//! our back, its rows and a record in doubt are committed together, instead of rows that nobody knows of.
//! The savepoint's release then fails, so we know as well. (It also fails when SQLite ended the transaction by
//! itself, which it does on some errors, and the work went on regardless: outside of any transaction.)

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use super::writer::{End, Ended};
use super::{SqliteStore, records};
use crate::identity::RequestId;
use crate::record::{FencingToken, HolderId};
use crate::store::{ClaimOutcome, ClaimRequest, Ending, OpenTransaction, StoreError, TransactionalStore, WorkFuture};

impl TransactionalStore for SqliteStore {
    type Connection = SqliteConnection;

    async fn transact<W, R>(&self, request: ClaimRequest<'_>, work: W) -> Result<ClaimOutcome<R>, StoreError>
    where
        W: for<'t> FnOnce(OpenTransaction<'t, SqliteConnection>) -> WorkFuture<'t, R> + Send + 'static,
        R: Send + 'static,
    {
        if let Some(answer) = self.answer_from_read(&request).await? {
            return Ok(not_granted(answer));
        }
        let (id, writer) = (request.id.clone(), self.writer.clone());
        let ClaimRequest { holder, takeover, .. } = request;
        let ended = self
            .writer
            .transaction(move |connection| {
                Box::pin(async move {
                    let request = ClaimRequest {
                        id: &id,
                        holder,
                        lease: Duration::ZERO,
                        takeover,
                    };
                    let claim = match records::claim(connection, &request).await? {
                        (End::Commit, ClaimOutcome::Granted(claim)) => claim,
                        (_, outcome) => return Ok((End::RollBack, Worked::No(outcome))),
                    };
                    let (token, attempt) = (claim.token(), claim.attempt());
                    run(connection, "SAVEPOINT oneflight_work")
                        .await
                        .map_err(StoreError::unavailable)?;
                    let (ending, value) = writer.within(work(OpenTransaction::new(connection, attempt))).await;
                    Ok(match end(connection, &id, token, ending).await {
                        Ok(end) => (end, Worked::Yes(value)),
                        Err(error) => (End::Abandon(error), Worked::Astray),
                    })
                })
            })
            .await?;
        match ended {
            Ended::Committed(Worked::Yes(value)) | Ended::RolledBack(Worked::Yes(value)) => {
                Ok(ClaimOutcome::Granted(value))
            }
            Ended::Unknown(Worked::Yes(value), error) => {
                look_up(self, request.id, holder, error).await?;
                Ok(ClaimOutcome::Granted(value))
            }
            Ended::Committed(Worked::No(outcome)) | Ended::RolledBack(Worked::No(outcome)) => Ok(not_granted(outcome)),
            Ended::Committed(Worked::Astray)
            | Ended::RolledBack(Worked::Astray)
            | Ended::Unknown(Worked::Astray, _) => Err(StoreError::TransactionEnded),
            Ended::Unknown(Worked::No(_), error) => Err(StoreError::unavailable(error)),
        }
    }
}

/// Whether the work was called.
enum Worked<R> {
    Yes(R),
    /// And it ended the transaction, or had SQLite end it and went on regardless.
    Astray,
    No(ClaimOutcome),
}

/// An answer that grants nothing here. A claim of this very holder outside of a transaction is somebody
/// else's as far as this transaction goes.
fn not_granted<R>(answer: ClaimOutcome) -> ClaimOutcome<R> {
    match answer {
        ClaimOutcome::Granted(claim) => ClaimOutcome::InProgress {
            lease_remaining: Duration::ZERO,
            attempt: claim.attempt(),
        },
        ClaimOutcome::Completed(record) => ClaimOutcome::Completed(record),
        ClaimOutcome::Conflict => ClaimOutcome::Conflict,
        ClaimOutcome::InProgress {
            lease_remaining,
            attempt,
        } => ClaimOutcome::InProgress {
            lease_remaining,
            attempt,
        },
        ClaimOutcome::InDoubt { token, attempt } => ClaimOutcome::InDoubt { token, attempt },
    }
}

/// Runs a constant statement, which is prepared once.
async fn run(connection: &mut SqliteConnection, statement: &'static str) -> sqlx::Result<()> {
    sqlx::query(statement).execute(connection).await.map(drop)
}

/// Does what the work wants for an end, up to the commit. An error says that the transaction which was begun is
/// not the one that is open now.
async fn end(
    connection: &mut SqliteConnection,
    id: &RequestId,
    token: FencingToken,
    ending: Ending,
) -> sqlx::Result<End> {
    let (result, retention) = match &ending {
        Ending::RollBack => return Ok(End::RollBack),
        Ending::Commit { result, retention } | Ending::Refuse { result, retention } => (result, *retention),
    };
    if let Ending::Refuse { .. } = ending {
        run(connection, "ROLLBACK TO oneflight_work").await?;
    }
    run(connection, "RELEASE oneflight_work").await?;
    let completed = records::complete(id, token, result, retention)
        .execute(connection)
        .await;
    Ok(match completed.map(|done| done.rows_affected()) {
        Ok(1) => End::Commit,
        Ok(_) => End::Abandon(sqlx::Error::RowNotFound),
        Err(error) => End::Abandon(error),
    })
}

/// Asks the database what became of a transaction whose connection is closed. It asks under the write lock,
/// which the old transaction must have given up by then: the answer cannot change any more. The holder
/// tells, not the token: a token that was rolled back is drawn again.
async fn look_up(store: &SqliteStore, id: &RequestId, holder: HolderId, error: sqlx::Error) -> Result<(), StoreError> {
    let id = id.clone();
    let ended = store
        .writer
        .transaction(move |connection| {
            Box::pin(async move {
                let record = records::select(connection, &id)
                    .await
                    .map_err(StoreError::unavailable)?
                    .transpose()?;
                Ok((End::RollBack, record))
            })
        })
        .await?;
    let (Ended::Committed(record) | Ended::RolledBack(record) | Ended::Unknown(record, _)) = ended;
    match record {
        Some(record) if record.holder == holder => match record.result() {
            Some(_) => Ok(()),
            None => Err(StoreError::TransactionEnded),
        },
        _ => Err(StoreError::RolledBack { source: error.into() }),
    }
}
