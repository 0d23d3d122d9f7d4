//! How a transaction is to end, and how it ended.

/// How a transaction is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commits {
    /// In WAL mode: no reader stands in the way.
    AtOnce,
    /// In any other: readers may have to go first, so a commit that finds the database busy is tried again.
    AfterReaders,
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
