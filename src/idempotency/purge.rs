//! Purging in the background, for as long as an `Idempotency` or a copy of it exists.
//!
//! ```text
//! `build`, or the first call ──▶ batch ──full──▶ short pause ──▶ batch ...
//!                                  └──not full, or an error──▶ pause until the next round ──▶ batch ...
//! the last copy is dropped ──▶ the pause, or the batch and then its pause, is the end
//! ```
//!
//! The task has the store only while a batch is deleted. If the task dies with its runtime, the next call begins
//! another one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::answer::answer_within;
use crate::store::Store;
use crate::telemetry;
use crate::timer::within;

/// How many records are deleted at a time: claims may wait for one batch.
const BATCH: usize = 50;
/// How long claims have the store to themselves between two batches.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the deletion of a batch is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The shortest pause between two rounds.
const LEAST: Duration = Duration::from_secs(1);

/// Has the store purged, until this is dropped.
#[derive(Debug)]
pub(super) struct Purging {
    every: Duration,
    /// Whether there is a task. The task takes this back itself, wherever it ends.
    runs: Arc<AtomicBool>,
    /// Never sent to: the task ends when it is dropped.
    stop: watch::Sender<()>,
}

impl Purging {
    pub(super) fn new(every: Duration) -> Self {
        Self {
            every: every.max(LEAST),
            runs: Arc::default(),
            stop: watch::Sender::default(),
        }
    }

    /// Begins on this runtime, or on the one that polls this if there is none or it is gone. Does nothing if it has begun,
    /// or if there is no runtime.
    pub(super) fn begin<S: Store>(&self, store: &Arc<S>, runtime: Option<&Handle>) {
        if self.runs.load(Ordering::Relaxed) {
            return;
        }
        for runtime in runtime.cloned().into_iter().chain(Handle::try_current().ok()) {
            if self.runs.swap(true, Ordering::SeqCst) {
                return;
            }
            let runs = Runs(Arc::clone(&self.runs));
            let (store, stopped) = (Arc::downgrade(store), self.stop.subscribe());
            let every = self.every;
            // A runtime that was shut down drops the task at once, which takes `runs` back.
            runtime.spawn(async move {
                let _runs = runs;
                rounds(store, every, stopped).await;
            });
        }
    }
}

struct Runs(Arc<AtomicBool>);

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

async fn rounds<S: Store>(store: Weak<S>, every: Duration, mut stopped: watch::Receiver<()>) {
    while let Some(store) = store.upgrade() {
        let pause = match batch(&*store).await {
            BATCH.. => PAUSE,
            _ => every,
        };
        drop(store);
        if within(pause, stopped.changed()).await.is_some() {
            return;
        }
    }
}

/// Returns how many records were deleted. An error leaves the rest to the next round.
async fn batch<S: Store>(store: &S) -> usize {
    match answer_within(PATIENCE, async { store.purge(BATCH).await }).await {
        Ok(purged) => purged,
        Err(error) => {
            telemetry::not_purged(&error);
            0
        }
    }
}
