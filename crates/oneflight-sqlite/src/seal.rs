//! While work runs in a transaction of ours, nothing that is done on its connection is committed.
//!
//! ```text
//! open ──the claim is written──▶ closed ──the record is completed, or the work undone──▶ open
//!                                   └──anything else happens──▶ closed for good: the connection is closed
//! ```
//!
//! Work may say `COMMIT`. Or SQLite ends the transaction by itself, as it does after some errors, and the work's next
//! statement would commit on its own. Either way, rows would be kept without a record of them. SQLite asks a *commit
//! hook* before every commit, also of a single statement; ours rejects it while the seal is closed.
//!
//! The seal is closed and opened in SQL, among the statements that claim and record. So it costs no errand to the
//! connection's thread, and nothing that the work left under way there comes between. What SQL can reach is a
//! *collation*, which orders nothing: comparing two equal words under it is how the seal is told.
//!
//! A seal belongs to one connection, and stays on it. A hook of somebody else's takes the place of ours: then the seal
//! says that it does not hold, and is put on anew.

use std::cmp::Ordering as Order;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::sqlite::SqliteConnection;

/// An expression that is true if the connection has a seal that holds. Without a seal, it is an error.
macro_rules! is_sealable {
    () => {
        "'holds' = 'holds' COLLATE oneflight_seal"
    };
}
pub(super) use is_sealable;

/// Closes the seal, and answers whether it holds.
macro_rules! close_seal {
    () => {
        "SELECT 'close' = 'close' COLLATE oneflight_seal"
    };
}
pub(super) use close_seal;

/// Opens the seal.
macro_rules! open_seal {
    () => {
        "SELECT 'open' = 'open' COLLATE oneflight_seal"
    };
}
pub(super) use open_seal;

/// What a statement that records answers: not null, and the seal is opened, for a row that it wrote, unless another file
/// is attached to the connection. The word depends on the row: SQLite evaluates what does not before it knows of any.
macro_rules! open_seal_for_record {
    () => {
        " RETURNING CASE (SELECT count(*) FROM pragma_database_list WHERE seq > 1 AND file <> '')
                    WHEN 0 THEN 'open' = iif(token IS NULL, '', 'open') COLLATE oneflight_seal END"
    };
}
pub(super) use open_seal_for_record;

#[derive(Default)]
struct Seal {
    is_closed: AtomicBool,
    /// Whether the hook is gone.
    is_off: AtomicBool,
}

/// Part of the hook, and dropped with it.
struct Hooked(Arc<Seal>);

impl Hooked {
    fn lets_pass(&self) -> bool {
        !self.0.is_closed.load(Ordering::SeqCst)
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        self.0.is_off.store(true, Ordering::SeqCst);
    }
}

impl Seal {
    /// Does what it is told by two equal words. Returns whether it holds.
    fn is_told(&self, word: &str) -> bool {
        match word {
            "close" => self.is_closed.store(true, Ordering::SeqCst),
            "open" => self.is_closed.store(false, Ordering::SeqCst),
            _ => {}
        }
        !self.is_off.load(Ordering::SeqCst)
    }
}

/// Puts a new, open seal on a connection, in place of any other hook.
pub(super) async fn install(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let seal = Arc::new(Seal::default());
    let hooked = Hooked(Arc::clone(&seal));
    let mut handle = connection.lock_handle().await?;
    handle.set_commit_hook(move || hooked.lets_pass());
    handle.create_collation("oneflight_seal", move |left, right| {
        match left == right && seal.is_told(left) {
            true => Order::Equal,
            false => Order::Less,
        }
    })
}

/// Closes the seal of a connection, which is put on it if there is none, or none that holds.
pub(super) async fn close(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    if let Ok(true) = tell_to_close(connection).await {
        return Ok(());
    }
    install(connection).await?;
    match tell_to_close(connection).await? {
        true => Ok(()),
        false => Err(sqlx::Error::Protocol(
            "a commit hook of ours was taken off while it was put on".to_owned(),
        )),
    }
}

async fn tell_to_close(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar(close_seal!()).fetch_one(connection).await
}

/// Opens the seal of a connection whose transaction is known to be ours still.
pub(super) async fn open(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query(open_seal!()).execute(connection).await.map(drop)
}
