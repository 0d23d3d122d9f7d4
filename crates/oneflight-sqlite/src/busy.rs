//! Waiting for a lock that another process holds.
//!
//! SQLite's own busy handler sleeps in steps of up to 100 ms. That starves a process that competes with a busy writer
//! which leaves gaps of microseconds. Asking often, at random intervals, finds the gaps.

use std::time::{Duration, Instant};

use sqlx::error::DatabaseError;

use oneflight::store::{StoreError, jitter};

/// The primary result code of a statement that cannot be carried out as it stands.
const SQLITE_ERROR: u32 = 1;
/// The primary result codes that say that another connection holds a lock.
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
/// The primary result codes that say that what was asked for is not to be had.
const SQLITE_TOOBIG: u32 = 18;
const SQLITE_CONSTRAINT: u32 = 19;
const SQLITE_CONSTRAINT_COMMITHOOK: u32 = 531;
const SQLITE_MISMATCH: u32 = 20;

/// The shortest wait for what takes its time although nothing is in the way: being lent a connection, a read.
const ERRAND: Duration = Duration::from_millis(100);

/// Returns whether an error says "locked by another connection", and nothing more.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    primary_code(error).is_some_and(|code| code == SQLITE_BUSY || code == SQLITE_LOCKED)
}

/// Returns whether an error is about what was asked for, such as a savepoint that does not exist, and not about the
/// database.
pub(super) fn is_plain(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(SQLITE_ERROR)
}

/// Returns whether what was asked for is rejected, and will be again: a constraint, or a value.
pub(super) fn is_violation(error: &sqlx::Error) -> bool {
    // A commit that our seal rejects is no fault of the request, but of the work that asked for it.
    code(error) != Some(SQLITE_CONSTRAINT_COMMITHOOK)
        && primary_code(error).is_some_and(|code| [SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH].contains(&code))
}

/// Makes the error that the user of the store gets.
pub(super) fn unavailable(error: sqlx::Error) -> StoreError {
    match error {
        // Others had all connections for as long as the pool waits.
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => StoreError::NoConnection,
        error => StoreError::unavailable(error),
    }
}

fn code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error().and_then(DatabaseError::code)?.parse().ok()
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    // The lower byte of an extended result code is the primary one.
    Some(code(error)? & 0xff)
}

/// A deadline and the pauses until it.
pub(super) struct Patience {
    started: Instant,
    deadline: Duration,
    pauses: u32,
}

impl Patience {
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            started: Instant::now(),
            deadline,
            pauses: 0,
        }
    }

    /// Returns how long it has been so far.
    pub(super) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns what is left until the deadline.
    pub(super) fn remaining(&self) -> Duration {
        self.deadline.saturating_sub(self.started.elapsed())
    }

    /// Returns how long an operation may take that waits for others only if they are in the way.
    pub(super) fn for_an_errand(&self) -> Duration {
        self.remaining().max(ERRAND)
    }

    /// The error that says that the deadline has passed.
    pub(super) fn exhausted(&self) -> StoreError {
        StoreError::Busy {
            waited: self.started.elapsed(),
        }
    }

    /// Pauses for a random moment that grows from 1 ms to 10 ms, or fails when the deadline has passed.
    pub(super) async fn pause(&mut self) -> Result<(), StoreError> {
        let remaining = self.remaining();
        if remaining.is_zero() {
            return Err(self.exhausted());
        }
        self.pauses = self.pauses.saturating_add(1);
        let longest = u64::from(self.pauses.min(10)) * 1_000;
        let pause = Duration::from_micros(500) + jitter(Duration::from_micros(longest));
        tokio::time::sleep(pause.min(remaining)).await;
        Ok(())
    }
}
