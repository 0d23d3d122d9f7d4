//! Faults that tests inject into the writer.

use std::sync::atomic::{AtomicBool, Ordering};

/// Faults to inject.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) lose_commit_answer: AtomicBool,
}

impl Faults {
    pub(super) fn after_commit(&self, committed: sqlx::Result<()>) -> sqlx::Result<()> {
        if self.loses_answer() {
            return committed.and(Err(sqlx::Error::WorkerCrashed));
        }
        committed
    }

    /// Returns whether the answer to a commit is to be lost.
    pub(super) fn loses_answer(&self) -> bool {
        self.lose_commit_answer.swap(false, Ordering::SeqCst)
    }
}
