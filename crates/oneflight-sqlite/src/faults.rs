//! Faults that tests inject into the writer.

use std::sync::atomic::{AtomicBool, Ordering};

use super::batch::Ran;

/// Faults to inject.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) lose_commit_answer: AtomicBool,
}

impl Faults {
    pub(super) fn after_commit(&self, committed: sqlx::Result<()>) -> sqlx::Result<()> {
        if self.lose_commit_answer.swap(false, Ordering::SeqCst) {
            return committed.and(Err(sqlx::Error::WorkerCrashed));
        }
        committed
    }

    pub(super) fn after_batch(&self, ran: Ran) -> Ran {
        match ran {
            Ran::Committed(_) if self.lose_commit_answer.swap(false, Ordering::SeqCst) => {
                Ran::Unknown(sqlx::Error::WorkerCrashed)
            }
            ran => ran,
        }
    }
}
