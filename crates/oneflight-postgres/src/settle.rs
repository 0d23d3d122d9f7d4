//! What became of a commit whose answer was lost.
//!
//! ```text
//! asked ──in progress──▶ asked again, until the patience is over ──▶ not known
//!   ├──committed, aborted, or too old to be known: it is over──▶ the record tells
//!   └──not that far yet: the server came back without it───────▶ the record tells
//! ```
//!
//! A transaction that is in progress for long, idle, never got its commit: the server does not know yet that its client
//! is gone. It is ended, so that it is known what became of it, and that it holds up nothing.
//!
//! A bare look at the record may come while the commit is still under way, and lie. So the server is asked first about
//! that very transaction, by its number, until it is over one way or the other; then the record is final. It is the
//! record that tells, not the number.

use std::error::Error;
use std::time::Duration;

use tokio::time::Instant;

use super::PostgresStore;
use super::ending::{Of, Seen};
use super::errors::is_unborn_transaction;
use super::number::Number;
use super::records::{column, only};
use super::retry::Pauses;
use super::way::SHORTEST_WAIT;
use oneflight::store::{Ending, StoreError};

/// How long a record is certain to be kept, if it was committed.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    since: Instant,
    at_least: Duration,
}

impl Kept {
    /// For a record that is sent from now on.
    pub(super) fn from_now(of: Of<'_>, ending: &Ending) -> Self {
        let retention = match (of, ending) {
            (Of::Request(_), Ending::Commit { retention, .. } | Ending::Decline { retention, .. }) => *retention,
            // That of a step is kept with its workflow.
            (Of::Step(_), _) | (_, Ending::RollBack) => Duration::MAX,
        };
        Self {
            since: Instant::now(),
            // Retentions end by another clock, which may be set.
            at_least: retention / 2,
        }
    }

    fn is_certain(self) -> bool {
        self.since.elapsed() < self.at_least
    }
}

impl PostgresStore {
    /// Returns if the transaction was committed, and fails with the reason if it was not.
    pub(super) async fn settle(
        &self,
        of: Of<'_>,
        number: &Number,
        seen: Seen,
        kept: Kept,
        lost: Box<dyn Error + Send + Sync>,
    ) -> Result<(), StoreError> {
        let begun = Instant::now();
        let mut pauses = Pauses::new();
        let mut ending = false;
        while begun.elapsed() < self.patience {
            if let Some(committed) = self.ended(number).await {
                match self.is_recorded(of).await {
                    Ok(true) => return Ok(()),
                    // It had no record of ours by then.
                    Ok(_) if committed && seen == Seen::Nothing && kept.is_certain() => {
                        return Err(StoreError::CommittedByWork);
                    }
                    // Its record was purged since, or the number was another one's. Neither is to be guessed about.
                    Ok(_) if committed => break,
                    Ok(_) => return Err(StoreError::rolled_back(lost)),
                    Err(_) => {}
                }
            } else if !ending && begun.elapsed() > self.patience / 2 {
                ending = self.terminate(number, "idle in transaction%").await;
            }
            pauses.pause().await;
        }
        Err(StoreError::unavailable(lost))
    }

    /// Returns whether what was to be recorded in a transaction that is over is recorded.
    async fn is_recorded(&self, of: Of<'_>) -> Result<bool, StoreError> {
        match of {
            Of::Request(request) => {
                let record = self.read_within(self.try_for(), &request.id).await?;
                Ok(record.is_some_and(|it| it.holder == request.holder && it.result().is_some()))
            }
            Of::Step(step) => self.is_step_recorded(self.try_for(), step).await,
        }
    }

    /// How long one question may take: a connection that is dead as well leaves time for others.
    fn try_for(&self) -> Duration {
        (self.patience / 8).max(SHORTEST_WAIT)
    }

    /// Ends a transaction that others hold, by ending its session. Returns whether it was that session, and nothing is
    /// kept.
    pub(super) async fn stop(&self, number: &Number) -> bool {
        let begun = Instant::now();
        let mut pauses = Pauses::new();
        let mut terminated = false;
        while begun.elapsed() < self.patience {
            terminated = terminated || self.terminate(number, "%").await;
            if let Some(committed) = self.ended(number).await {
                return terminated && !committed;
            }
            pauses.pause().await;
        }
        false
    }

    /// Ends the session that is in a transaction, if it is in such a state. Returns whether there was one that may be
    /// ended.
    async fn terminate(&self, number: &Number, state: &str) -> bool {
        let Number { text, incarnation } = number;
        let end = self.statements.terminate(text, incarnation.as_deref(), state);
        // Without the right to terminate it, it is waited for.
        let Ok(rows) = self.ask_within(self.try_for(), end).await else {
            return false;
        };
        only(&rows).and_then(|row| column(row, 0)).unwrap_or(false)
    }

    /// Returns whether a transaction that is over is known to have been committed, or `None` while it is not over or
    /// the server does not answer.
    pub(super) async fn ended(&self, number: &Number) -> Option<bool> {
        let ask = self.statements.ended(&number.text);
        let rows = match self.ask_within(self.try_for(), ask).await {
            Ok(rows) => rows,
            Err(error) if is_unborn_transaction(&error) => return Some(false),
            Err(_) => return None,
        };
        let row = only(&rows).ok()?;
        let (status, now) = (column::<Option<&str>>(row, 0).ok()?, column(row, 1).ok()?);
        match status {
            _ if number.is_past(now) => Some(false),
            Some("in progress") => None,
            status => Some(status == Some("committed")),
        }
    }
}
