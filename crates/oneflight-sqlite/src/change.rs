//! Changes that are one statement each.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;

use super::answers;
use super::erase;
use super::queue::Rank;
use super::renewed::Batch;
use super::{records, steps};
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{ScopeRange, Standing, StepId, StepRecord};

/// A change of records in one statement.
pub(super) enum Change {
    Renew {
        id: RequestIdentity,
        token: FencingToken,
        lease: Duration,
    },
    RenewAll(Arc<Batch>),
    EndLease {
        id: RequestIdentity,
        token: FencingToken,
        left: Duration,
    },
    Complete {
        id: RequestIdentity,
        token: FencingToken,
        result: RecordedResult,
        retention: Duration,
    },
    Release {
        id: RequestIdentity,
        token: FencingToken,
    },
    RecordStep {
        id: RequestIdentity,
        token: FencingToken,
        step: StepRecord,
    },
    SettleStep {
        id: RequestIdentity,
        token: FencingToken,
        step: StepId,
        answer: Option<RecordedResult>,
    },
    SetStanding {
        id: RequestIdentity,
        token: FencingToken,
        standing: Standing,
    },
    Hold {
        id: RequestIdentity,
        token: FencingToken,
    },
    Erase {
        range: ScopeRange,
        limit: i64,
    },
    EraseOne {
        id: RequestIdentity,
        token: FencingToken,
    },
    Purge {
        limit: i64,
    },
}

impl Change {
    pub(super) fn rank(&self) -> Rank {
        match self {
            Self::Renew { .. }
            | Self::RenewAll(_)
            | Self::EndLease { .. }
            | Self::Complete { .. }
            | Self::Release { .. }
            | Self::Hold { .. }
            | Self::SetStanding { .. } => Rank::Lease,
            Self::RecordStep { .. } | Self::SettleStep { .. } => Rank::Step,
            Self::Erase { .. } | Self::EraseOne { .. } | Self::Purge { .. } => Rank::Business,
        }
    }

    pub(super) fn is_renewal(&self) -> bool {
        matches!(self, Self::Renew { .. } | Self::RenewAll(_))
    }

    /// Returns the token of the claim that it is about, if it is about one.
    pub(super) fn token(&self) -> Option<FencingToken> {
        match self {
            Self::Renew { token, .. }
            | Self::EndLease { token, .. }
            | Self::Complete { token, .. }
            | Self::Release { token, .. }
            | Self::RecordStep { token, .. }
            | Self::SettleStep { token, .. }
            | Self::SetStanding { token, .. }
            | Self::Hold { token, .. }
            | Self::EraseOne { token, .. } => Some(*token),
            _ => None,
        }
    }

    /// Returns the size of the result in it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Complete { result, .. } => result.as_bytes().len(),
            _ => 0,
        }
    }

    /// Makes the change, and returns how many rows it changed.
    pub(super) async fn make(&self, connection: &mut SqliteConnection) -> sqlx::Result<u64> {
        let statement = match self {
            Self::Renew { id, token, lease } => records::renew(id, *token, *lease),
            Self::RenewAll(batch) => return batch.make(connection).await,
            Self::EndLease { id, token, left } => records::end_lease(id, *token, *left),
            Self::Complete {
                id,
                token,
                result,
                retention,
            } => records::complete(id, *token, result, *retention),
            Self::Release { id, token } => records::release(id, *token),
            Self::RecordStep { id, token, step } => steps::record(id, *token, step),
            Self::SettleStep {
                id,
                token,
                step,
                answer,
            } => steps::settle(id, *token, step, answer.as_ref()),
            Self::SetStanding { id, token, standing } => steps::set_standing(id, *token, *standing),
            Self::Hold { id, token } => records::hold(id, *token),
            Self::Erase { range, limit } => erase::erase_records(range, *limit),
            Self::EraseOne { id, token } => erase::erase_record(id, *token),
            Self::Purge { limit } => records::purge(*limit),
        };
        answers::changed(connection, statement).await
    }
}
