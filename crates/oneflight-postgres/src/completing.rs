//! Completions that [go together](super::together).
//!
//! A message completes what its tokens hold and nobody has locked. It says nothing of the others.

use std::future::Future;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgRow, Postgres};

use super::call::{Message, Value};
use super::records::{self, column};
use super::shared::{Messenger, Step};
use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, RecordedResult};
use oneflight::store::StoreError;

/// A completion that is wanted.
pub(super) struct Completing {
    pub(super) id: RequestIdentity,
    pub(super) token: FencingToken,
    pub(super) result: RecordedResult,
    pub(super) retention: Duration,
    /// The number of those that watch.
    pub(super) watch: i64,
}

impl Step for Completing {
    type Answer = ();

    fn bytes(&self) -> usize {
        self.id.scope().len() + self.id.key().len() + self.result.as_bytes().len()
    }

    fn lend(messenger: &Messenger) -> impl Future<Output = sqlx::Result<PoolConnection<Postgres>>> + Send {
        messenger.way.reserve.lend(messenger.patience, &messenger.way.pool)
    }

    fn message(messenger: &Messenger, steps: &[Self]) -> Message {
        let retentions = steps.iter().map(|it| records::millis(it.retention));
        messenger.way.message(
            &messenger.statements.complete_together,
            &[
                Value::Texts(&steps.iter().map(|it| it.id.scope()).collect::<Vec<_>>()),
                Value::Texts(&steps.iter().map(|it| it.id.key()).collect::<Vec<_>>()),
                Value::Numbers(&steps.iter().map(|it| records::number(it.token)).collect::<Vec<_>>()),
                Value::ManyBytes(&steps.iter().map(|it| Some(it.result.as_bytes())).collect::<Vec<_>>()),
                Value::Numbers(&retentions.collect::<Vec<_>>()),
                Value::Numbers(&steps.iter().map(|it| it.watch).collect::<Vec<_>>()),
                Value::Text(&messenger.channel),
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
