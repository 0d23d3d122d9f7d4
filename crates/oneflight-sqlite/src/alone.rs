//! A change that is made alone: as one statement, or in a transaction on a pool of the user's.

use std::sync::Arc;

use super::busy::{is_busy, unavailable};
use super::change::Change;
use super::ending::{End, Ended};
use super::writer::{Connections, Writer};
use oneflight::store::StoreError;

impl Writer {
    /// Makes one change in a transaction of its own, and returns how many rows it changed.
    pub(super) async fn change_alone(&self, change: Arc<Change>) -> Result<u64, StoreError> {
        match self.connections {
            Connections::Own => {
                let changed = self.change_in_statement(&change).await;
                changed.map_err(|error| self.file.named(error))
            }
            // It is not known whether the user left a transaction open there: then a statement would be part of it.
            Connections::Users => self.change_in_transaction(change).await,
        }
    }

    async fn change_in_statement(&self, change: &Change) -> Result<u64, StoreError> {
        let mut turn = self.turn(change.rank(), None).await?;
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

    async fn change_in_transaction(&self, change: Arc<Change>) -> Result<u64, StoreError> {
        let file = Arc::clone(&self.file);
        let changed = self.transaction(change.rank(), None, move |connection| {
            Box::pin(async move {
                let rows = change.make(connection).await.map_err(unavailable)?;
                if rows == 0 {
                    // In another file there is nothing to change, which says nothing of this one.
                    file.is_open_on(connection).await?;
                }
                Ok((End::Commit, rows))
            })
        });
        match changed.await? {
            Ended::Committed(rows) | Ended::RolledBack(rows) => Ok(rows),
            Ended::Unknown(_, error) => Err(self.unavailable(error)),
        }
    }
}
