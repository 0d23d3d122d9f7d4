//! The store, as the contract for steps asks for it.

use std::sync::Arc;
use std::time::Instant;

use super::change::Change;
use super::ending::Ended;
use super::queue::Rank;
use super::steps;
use super::store::SqliteStore;
use oneflight::identity::RequestIdentity;
use oneflight::record::FencingToken;
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Denied, Standing, StepId, StepRecord, StepStore, StepsClaim, StoreError,
    UnfinishedQuery, UnfinishedSteps, WorkflowRecord, WorkflowStart,
};

impl StepStore for SqliteStore {
    async fn begin_steps(
        &self,
        request: ClaimRequest,
        start: WorkflowStart,
    ) -> Result<ClaimOutcome<StepsClaim>, StoreError> {
        let asked = Instant::now();
        if let Some(ClaimOutcome::Denied(
            denied @ (Denied::Completed(_) | Denied::InProgress { .. } | Denied::Conflict),
        )) = self.answer_from_read(&request).await?
        {
            return Ok(ClaimOutcome::Denied(denied));
        }
        let patience = request.patience.map(|it| it.saturating_sub(asked.elapsed()));
        let file = Arc::clone(&self.writer.file);
        let ended = self
            .writer
            .transaction(Rank::Business, patience, move |connection| {
                Box::pin(async move { steps::begin(connection, &request, start, &file).await })
            })
            .await?;
        match ended {
            Ended::Committed(outcome) | Ended::RolledBack(outcome) => Ok(outcome),
            Ended::Unknown(_, error) => Err(self.writer.unavailable(error)),
        }
    }

    async fn record_step(&self, id: &RequestIdentity, token: FencingToken, step: StepRecord) -> Result<(), StoreError> {
        let id = id.clone();
        match self.writer.change(Change::RecordStep { id, token, step }).await? {
            0 => Err(StoreError::Outdated { token }),
            _ => Ok(()),
        }
    }

    async fn forget_step(&self, id: &RequestIdentity, token: FencingToken, step: &StepId) -> Result<(), StoreError> {
        let (id, step) = (id.clone(), step.clone());
        match self.writer.change(Change::ForgetStep { id, token, step }).await? {
            0 => Err(StoreError::Outdated { token }),
            _ => Ok(()),
        }
    }

    async fn load_steps(&self, id: &RequestIdentity) -> Result<Option<WorkflowRecord>, StoreError> {
        let rows = self.fetch(None, || steps::load(id)).await?;
        steps::known(&rows)
    }

    async fn unfinished_steps(&self, query: UnfinishedQuery) -> Result<Vec<UnfinishedSteps>, StoreError> {
        let kinds = query.kinds.as_ref().map(serde_json::to_string).transpose();
        let kinds = kinds.map_err(StoreError::unavailable)?;
        let rows = self.fetch(None, || steps::unfinished(&query, kinds.clone())).await?;
        let listed: Result<Vec<_>, _> = rows.iter().map(steps::listed).collect();
        Ok(listed?.into_iter().flatten().collect())
    }

    async fn set_standing(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        standing: Standing,
    ) -> Result<(), StoreError> {
        let id = id.clone();
        match self.writer.change(Change::SetStanding { id, token, standing }).await? {
            0 => Err(StoreError::Outdated { token }),
            _ => Ok(()),
        }
    }
}
