//! Faults that tests inject into the writer.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

/// Faults to inject.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) lose_commit_answer: AtomicBool,
    /// The number of pages that the file may have, or those that it has, from the next connection on that is lent for a turn.
    /// 0 is as many as ever.
    pub(super) most_pages: AtomicU32,
    /// The system gives no thread.
    pub(super) no_thread: AtomicBool,
    /// A thread gets no runtime.
    pub(super) no_runtime: AtomicBool,
}

impl Faults {
    pub(super) async fn limit(&self, connection: &mut SqliteConnection) {
        let most = self.most_pages.load(Ordering::SeqCst);
        if most > 0 {
            let limit = AssertSqlSafe(format!("PRAGMA max_page_count = {most}"));
            sqlx::raw_sql(limit).execute(connection).await.unwrap();
        }
    }

    pub(super) fn about_to_begin(&self, thread: thread::Builder) -> thread::Builder {
        match self.no_thread.load(Ordering::SeqCst) {
            // More than there are addresses for.
            true => thread.stack_size(1 << 50),
            false => thread,
        }
    }

    pub(super) fn gives_no_runtime(&self) -> bool {
        self.no_runtime.load(Ordering::SeqCst)
    }

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
