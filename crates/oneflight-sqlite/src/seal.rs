//! While work runs in a transaction of ours, nothing that is done on its connection is committed.
//!
//! ```text
//! open ──work begins──▶ sealed ──our COMMIT or ROLLBACK is next──▶ open
//!                          └──anything else happens──▶ sealed for good: the connection is closed
//! ```
//!
//! Work may say `COMMIT`. Or SQLite ends the transaction by itself, as it does after some errors, and the work's next
//! statement would commit on its own. Either way, rows would be kept without a record of them. SQLite asks a *commit
//! hook* before every commit, also of a single statement; ours rejects it while the seal is on.
//!
//! A seal belongs to one connection and is never opened for another one's sake: a connection that is given up may still
//! have statements to run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use sqlx::sqlite::SqliteConnection;

/// The seal of one connection.
#[derive(Clone, Default)]
pub(super) struct Seal(Arc<AtomicBool>);

impl Seal {
    /// Puts a hook with a new, open seal on a connection, in place of any other hook.
    pub(super) async fn install(connection: &mut SqliteConnection) -> sqlx::Result<Self> {
        let seal = Self::default();
        let sealed = Arc::clone(&seal.0);
        let mut handle = connection.lock_handle().await?;
        handle.set_commit_hook(move || !sealed.load(Ordering::SeqCst));
        Ok(seal)
    }

    /// Lets nothing be committed from now on.
    pub(super) fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Lets commits pass again.
    pub(super) fn open(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Where the seal of a connection is found.
#[derive(Clone)]
pub(super) enum Seals {
    /// For a pool of ours, which has one connection at a time: made with the connection.
    Kept(Arc<Mutex<Option<Seal>>>),
    /// For a pool of the user's, whose connections do other things as well: made anew each time.
    New,
}

impl Seals {
    pub(super) async fn of(&self, connection: &mut SqliteConnection) -> sqlx::Result<Seal> {
        if let Self::Kept(kept) = self {
            let kept = kept.lock().clone();
            if let Some(seal) = kept {
                return Ok(seal);
            }
        }
        Seal::install(connection).await
    }
}
