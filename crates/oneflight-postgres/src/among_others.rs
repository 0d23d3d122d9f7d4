//! Claims and completions, which are taken [together](super::together) with those of other callers, or alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::Value;
use super::claiming::Claiming;
use super::completing::Completing;
use super::retry::Tries;
use super::shared::Messenger;
use super::together::Taken;
use super::{Held, PostgresStore, records};
use oneflight::record::RecordedResult;
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, StoreError};

impl PostgresStore {
    /// Claims, together with others or alone.
    pub(super) async fn claim_among_others(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let (begun, limit) = (Instant::now(), self.limit(&request));
        let claiming = || Claiming {
            lock: self.names.keys(&request.id).claim,
            request: request.clone(),
        };
        match self
            .claims
            .take(&self.pool, || self.messenger(), limit, claiming)
            .await?
        {
            Taken::Together(outcome) => Ok(outcome),
            Taken::Alone(_under_way) => {
                let left = limit.saturating_sub(begun.elapsed());
                self.claim_as(left, &request, Held::No, Tries::on(&self.pool)).await
            }
        }
    }

    /// Returns how long the answer to a request for a claim may take.
    pub(super) fn limit(&self, request: &ClaimRequest) -> Duration {
        let patience = request.patience.unwrap_or(self.patience);
        patience.min(self.patience)
    }

    /// What a task has that sends for several callers.
    fn messenger(&self) -> Messenger {
        Messenger {
            way: self.way.clone(),
            statements: Arc::clone(&self.statements),
            channel: self.names.channel(),
            patience: self.patience,
        }
    }

    /// Completes, together with others or alone.
    pub(super) async fn complete_among_others(
        &self,
        claim: &Claim,
        result: &RecordedResult,
        retention: Duration,
    ) -> Result<(), StoreError> {
        let begun = Instant::now();
        let completing = || Completing {
            id: claim.id().clone(),
            token: claim.token(),
            result: result.clone(),
            retention,
            watch: self.names.keys(claim.id()).watch,
        };
        match self
            .completions
            .take(&self.pool, || self.messenger(), self.patience, completing)
            .await?
        {
            Taken::Together(()) => Ok(()),
            Taken::Alone(_under_way) => {
                let left = self.patience.saturating_sub(begun.elapsed());
                self.complete_alone(left, claim, result, retention).await
            }
        }
    }

    async fn complete_alone(
        &self,
        limit: Duration,
        claim: &Claim,
        result: &RecordedResult,
        retention: Duration,
    ) -> Result<(), StoreError> {
        let (id, token) = (claim.id(), claim.token());
        let values = [
            Value::Text(id.scope()),
            Value::Text(id.key()),
            Value::Number(records::number(token)),
            Value::Bytes(Some(result.as_bytes())),
            Value::Number(records::millis(retention)),
            Value::Number(self.names.keys(id).watch),
            Value::Text(&self.names.channel()),
        ];
        let (begun, complete) = (Instant::now(), &self.statements.complete);
        let rows = self.call_as_holder(limit, complete, &values).await?;
        let left = limit.saturating_sub(begun.elapsed());
        match records::changed(&rows, token) {
            // Perhaps this store completed it, and the answer was lost.
            Err(outdated @ StoreError::Outdated { .. }) => match self.read_within(left, id).await? {
                Some(record) if record.token == token && record.result().is_some() => Ok(()),
                _ => Err(outdated),
            },
            changed => changed,
        }
    }
}
