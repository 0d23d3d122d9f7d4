//! A change that is made alone: as one statement, or in a transaction on a connection that the user's pool lends.
//!
//! Most are made in a turn of their caller's. [Renewals](super::renewals) are made in one of the thread's, as what goes
//! [together](super::together) is: a task of the user's runtime may get the turn and not be polled.

use futures_util::future::{Either, select};
use tracing::Instrument;

use super::busy::{is_busy, unavailable};
use super::change::Change;
use super::ending::{End, Ended};
use super::gathered::{Answer, Waiting};
use super::writer::{Connections, Turn, Writer};
use oneflight::store::StoreError;

impl Writer {
    /// Makes one change in a turn of its caller's, and returns how many rows it changed.
    pub(super) async fn change_alone(&self, change: &Change) -> Result<u64, StoreError> {
        let turn = self.turn(change.rank(), None).await;
        self.change_in(turn.map_err(|error| self.file.named(error))?, change)
            .await
    }

    /// Makes one change of those that have waited in line, in a turn of the thread's.
    pub(super) async fn change_in_line(&self, mut turn: Turn, mut waiting: Waiting, change: &Change) {
        let (limit, waited) = waiting.limit();
        turn.patience = self.patience(limit, waited);
        let span = waiting.span.clone();
        let make = Box::pin(self.change_in(turn, change).instrument(span));
        let changed = match change {
            // Others wait for it than the task that has asked.
            Change::RenewAll(batch) => {
                let changed = make.await;
                if changed.is_ok() {
                    batch.answer();
                }
                changed
            }
            _ => match select(make, Box::pin(waiting.left())).await {
                Either::Left((changed, _)) => changed,
                Either::Right(((), _)) => return,
            },
        };
        waiting.tell(changed.map_or_else(Answer::Failed, Answer::Changed));
    }

    async fn change_in(&self, turn: Turn, change: &Change) -> Result<u64, StoreError> {
        match self.connections {
            Connections::Own => {
                let changed = self.change_in_statement(turn, change).await;
                changed.map_err(|error| self.file.named(error))
            }
            // It is not known whether the user left a transaction open there: then a statement would be part of it.
            Connections::Users => self.change_in_transaction(turn, change).await,
        }
    }

    async fn change_in_statement(&self, mut turn: Turn, change: &Change) -> Result<u64, StoreError> {
        self.set_if_changed(&mut turn).await;
        let mut replaced = false;
        loop {
            let error = match change.make(&mut turn.connection).await {
                Ok(rows) => {
                    turn.connection.give_back();
                    return Ok(rows);
                }
                Err(error) => error,
            };
            // Either may be because of what work has set on the connection.
            if is_busy(&error) {
                self.pause(&mut turn.patience).await?;
                // If it fails, so does the next try.
                let _ = self.settings.set(&mut turn.connection).await;
            } else if !replaced {
                replaced = true;
                self.replace(&mut turn).await?;
                self.set_if_changed(&mut turn).await;
            } else {
                return Err(unavailable(error));
            }
        }
    }

    async fn change_in_transaction(&self, mut turn: Turn, change: &Change) -> Result<u64, StoreError> {
        self.begin_in(&mut turn).await?;
        let rows = async {
            let rows = change.make(&mut turn).await.map_err(unavailable)?;
            if rows == 0 {
                // In another file there is nothing to change, which says nothing of this one.
                self.file.is_open_on(&mut turn).await?;
            }
            Ok(rows)
        };
        let rows = rows.await;
        match rows {
            Ok(rows) => match self.end(turn, End::Commit, rows).await {
                Ended::Committed(rows) | Ended::RolledBack(rows) => Ok(rows),
                Ended::Unknown(_, error) => Err(self.unavailable(error)),
            },
            Err(error) => Err(self.fail(turn, error).await),
        }
    }
}
