//! Completions that [go together](super::together).
//!
//! A message completes what its tokens hold and nobody has locked. It says nothing of the others.

use std::future::Future;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgRow, Postgres};
use tokio::time::Instant;

use super::PostgresStore;
use super::call::{Message, Value};
use super::records::{self, column};
use super::together::{LENT_WITHIN, Step, Taken};
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::{Claim, StoreError};

/// A completion that is wanted.
pub(super) struct Completing {
    id: RequestIdentity,
    token: FencingToken,
    result: RecordedResult,
    retention: Duration,
    /// The number of those that watch.
    watch: i64,
}

impl PostgresStore {
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
        match self.completions.take(self, self.patience, completing).await? {
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

impl Step for Completing {
    type Answer = ();

    fn id(&self) -> &RequestIdentity {
        &self.id
    }

    fn bytes(&self) -> usize {
        self.id.scope().len() + self.id.key().len() + self.result.as_bytes().len()
    }

    fn lend(store: &PostgresStore) -> impl Future<Output = sqlx::Result<PoolConnection<Postgres>>> + Send {
        store.reserve.lend(LENT_WITHIN, &store.pool)
    }

    fn message(store: &PostgresStore, steps: &[Self]) -> Message {
        let retentions = steps.iter().map(|it| records::millis(it.retention));
        store.message(
            &store.statements.complete_together,
            &[
                Value::Texts(&steps.iter().map(|it| it.id.scope()).collect::<Vec<_>>()),
                Value::Texts(&steps.iter().map(|it| it.id.key()).collect::<Vec<_>>()),
                Value::Numbers(&steps.iter().map(|it| records::number(it.token)).collect::<Vec<_>>()),
                Value::ManyBytes(&steps.iter().map(|it| Some(it.result.as_bytes())).collect::<Vec<_>>()),
                Value::Numbers(&retentions.collect::<Vec<_>>()),
                Value::Numbers(&steps.iter().map(|it| it.watch).collect::<Vec<_>>()),
                Value::Text(&store.names.channel()),
            ],
        )
    }

    fn answers(steps: &[Self], rows: &[PgRow]) -> Result<Vec<Option<()>>, StoreError> {
        let places: Option<Vec<i64>> = column(records::only(rows)?, 0)?;
        let mut answers = vec![None; steps.len()];
        for place in places.unwrap_or_default() {
            // From 1 on.
            let answer = usize::try_from(place - 1).ok().and_then(|place| answers.get_mut(place));
            *answer.ok_or(StoreError::Corrupt {
                what: "a completion that was not asked for was answered",
            })? = Some(());
        }
        Ok(answers)
    }
}
