//! What became of a transaction whose commit failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ending::{End, Ended};
use super::queue::Rank;
use super::records;
use super::steps;
use super::store::SqliteStore;
use oneflight::identity::RequestIdentity;
use oneflight::record::HolderId;
use oneflight::store::{Ending, StepInTransaction, StoreError};

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
pub(super) async fn look_step_up(
    store: &SqliteStore,
    step: StepInTransaction,
    error: sqlx::Error,
) -> Result<(), StoreError> {
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
