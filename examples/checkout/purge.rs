//! The broom: records past their retention are of no account, and take up space until somebody deletes them.
//!
//! Once a minute, in small batches: each is one write like any other, and orders are placed between two of them.

use std::time::Duration;

use oneflight::store::Store;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

const EVERY: Duration = Duration::from_secs(60);
/// Orders wait for a batch, so it is small.
const BATCH: usize = 50;
/// Between two batches, so that a long backlog does not keep the store busy.
const PAUSE: Duration = Duration::from_millis(20);

/// A task that purges until it is told to stop.
pub(crate) struct Purge {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Purge {
    /// Begins at once: what expired while no service ran goes first.
    pub(crate) fn begin(store: impl Store) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                // Stopped between two batches or in a pause, never within a batch.
                let wait = async {
                    ticks.tick().await;
                };
                if is_stopped(&mut stopped, wait).await {
                    return;
                }
                while purge(&store).await == BATCH {
                    if is_stopped(&mut stopped, sleep(PAUSE)).await {
                        return;
                    }
                }
            }
        });
        Self { stop, task }
    }

    /// Ends it, after the batch that is being deleted.
    pub(crate) async fn end(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the purge ended badly");
        }
    }
}

/// Waits, or hears that it is over. (The sender is never used: to drop it means stop.)
async fn is_stopped(stopped: &mut oneshot::Receiver<()>, wait: impl Future<Output = ()>) -> bool {
    tokio::select! {
        _ = stopped => true,
        () = wait => false,
    }
}

/// One batch: how many records went.
async fn purge(store: &impl Store) -> usize {
    match store.purge(BATCH).await {
        Ok(0) => 0,
        Ok(records) => {
            tracing::info!(records, "purged what is past its retention");
            records
        }
        Err(error) => {
            // Space can wait: the next minute tries again.
            tracing::warn!(%error, "not purged");
            0
        }
    }
}
