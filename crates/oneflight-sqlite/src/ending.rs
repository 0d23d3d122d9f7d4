//! How a transaction is to end, and how it ended.

use oneflight::store::StoreError;

/// How a transaction is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commits {
    /// In WAL mode: no reader stands in the way.
    AtOnce,
    /// In any other: readers may have to go first, so a commit that finds the database busy is tried again.
    AfterReaders,
}

impl Commits {
    /// Returns how a transaction is committed in this journal mode. It is a property of the file, which may be changed later: then
    /// a commit can fail for want of a lock, and is rolled back.
    pub(super) fn in_mode(mode: &str) -> Result<Self, StoreError> {
        match mode {
            "wal" => Ok(Self::AtOnce),
            "off" => Err(StoreError::Unsupported {
                advice: "with journal_mode=OFF nothing can be rolled back; use WAL",
            }),
            _ => Ok(Self::AfterReaders),
        }
    }
}

/// How the body of a transaction wants it to end.
pub(super) enum End {
    Commit,
    RollBack,
    /// The transaction is not what it should be, and nothing was or is committed: close the connection.
    Close,
}

/// How a transaction ended.
#[must_use]
pub(super) enum Ended<R> {
    Committed(R),
    RolledBack(R),
    /// The commit failed. The connection is closed, for good: what a look-up finds from now on is final.
    Unknown(R, sqlx::Error),
}
