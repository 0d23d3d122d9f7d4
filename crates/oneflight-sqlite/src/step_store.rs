//! The store, as the contract for steps asks for it.

use std::sync::Arc;
use std::time::Instant;

use super::change::Change;
use super::ending::Ended;
use super::queue::Rank;
use super::records;
use super::steps;
use super::store::SqliteStore;
use super::unfinished;
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{
    ClaimOutcome, ClaimRequest, Denied, Standing, StepId, StepRecord, StepStore, StepsClaim, StoreError,
    UnfinishedQuery, UnfinishedSteps, WorkflowRecord, WorkflowStart, report_unreadable,
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

    async fn settle_step(
        &self,
        id: &RequestIdentity,
        token: FencingToken,
        step: &StepId,
        answer: Option<RecordedResult>,
    ) -> Result<(), StoreError> {
        let change = Change::SettleStep {
            id: id.clone(),
            token,
            step: step.clone(),
            answer,
        };
        match self.writer.change(change).await? {
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
        // As many more as cannot be read: they must not take the places of others.
        let (limit, mut unreadable) = (query.limit, 0);
        let mut query = query;
        loop {
            query.limit = limit.saturating_add(unreadable);
            let rows = self
                .fetch(None, || unfinished::unfinished(&query, kinds.clone()))
                .await?;
            let found: Vec<_> = rows.iter().map(|row| (row, unfinished::listed(row))).collect();
            let failed = found.iter().filter(|(_, found)| found.is_err()).count();
            if failed > unreadable && rows.len() >= query.limit {
                unreadable = failed;
                continue;
            }
            let readable = found.into_iter().filter_map(|(row, found)| {
                found.unwrap_or_else(|error| {
                    let token = records::column::<i64>(row, 0).unwrap_or_default();
                    report_unreadable(FencingToken::new(token.cast_unsigned()), &error);
                    None
                })
            });
            return Ok(readable.take(limit).collect());
        }
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
