//! Waiting for a lock that another process holds.
//!
//! SQLite's own busy handler sleeps in steps of up to 100 ms. That starves a process that competes with a busy writer
//! which leaves gaps of microseconds. Asking often, at random intervals, finds the gaps.

use std::error::Error;
use std::time::{Duration, Instant};

use sqlx::error::DatabaseError;

use oneflight::store::{StoreError, StoreFailure, is_caused_by, jitter};

/// The primary result code of a statement that cannot be carried out as it stands.
const SQLITE_ERROR: u32 = 1;
/// The primary result codes that say that another connection holds a lock.
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
/// The primary result code of a connection, or a file, that may only be read.
const SQLITE_READONLY: u32 = 8;
/// The primary result codes of a file that cannot be read or written, has no room, or is no database.
const SQLITE_IOERR: u32 = 10;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
const SQLITE_NOTADB: u32 = 26;
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

/// Returns whether an error may come from the state of the one connection: a transaction was left open on it, or it may only read.
/// A file that is full, or damaged, is the same on another.
pub(super) fn is_of_the_connection(error: &sqlx::Error) -> bool {
    match primary_code(error) {
        Some(code) => code == SQLITE_ERROR || code == SQLITE_READONLY,
        // It is not the database that says so, but `sqlx`, which counts transactions.
        None => true,
    }
}

/// Returns whether a constraint was violated, that of a commit hook included.
pub(super) fn is_constraint(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(SQLITE_CONSTRAINT)
}

/// Returns whether a value was larger than any may be.
pub(super) fn is_too_big(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(SQLITE_TOOBIG)
}

/// Returns whether a commit hook rejected a commit.
pub(super) fn is_rejected_by_hook(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(code) == Some(SQLITE_CONSTRAINT_COMMITHOOK)
}

/// Returns whether the database rejected what it was asked for and will again: a constraint, or a value.
pub(super) fn is_violation(error: &(dyn Error + 'static)) -> bool {
    is_caused_by_database(error, |error| {
        // A commit that our seal rejects is no fault of the request, but of the work that asked for it.
        code(error).is_some_and(|code| {
            code != SQLITE_CONSTRAINT_COMMITHOOK
                && [SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH].contains(&primary(code))
        })
    })
}

/// Returns whether an error may be about one of many rows, in place of the whole database: any that SQLite tells, but that it is locked,
/// full, may only be read, or cannot be read or written.
pub(super) fn is_perhaps_of_a_row(error: &(dyn Error + 'static)) -> bool {
    const OF_ALL: [u32; 7] = [
        SQLITE_BUSY,
        SQLITE_LOCKED,
        SQLITE_READONLY,
        SQLITE_IOERR,
        SQLITE_FULL,
        SQLITE_CANTOPEN,
        SQLITE_NOTADB,
    ];
    is_caused_by_database(error, |error| {
        code(error).is_some_and(|code| !OF_ALL.contains(&primary(code)))
    })
}

/// Returns whether an error, or one among its causes, is one of the database that satisfies `is_it`.
///
/// A wrapper may leave out the `sqlx::Error` and return only what is inside of it as its source, as
/// `#[error(transparent)]` and `anyhow` do.
fn is_caused_by_database(error: &(dyn Error + 'static), is_it: impl Fn(&dyn DatabaseError) -> bool) -> bool {
    is_caused_by(error, |error: &sqlx::Error| {
        error.as_database_error().is_some_and(&is_it)
    }) || is_caused_by::<Box<dyn DatabaseError>>(error, |error| is_it(&**error))
}

/// Makes the error that the user of the store gets.
pub(super) fn unavailable(error: sqlx::Error) -> StoreError {
    match error {
        // Others had all connections for as long as the pool waits.
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => StoreError::NoConnection,
        error => match primary_code(&error).and_then(failure) {
            Some(failure) => StoreError::failed(failure, error),
            None => StoreError::unavailable(error),
        },
    }
}

/// Returns what a primary result code says of the database, if it says what is to be done.
fn failure(code: u32) -> Option<StoreFailure> {
    /// An access permission that the file system, or an authorizer, does not give.
    const PERM: u32 = 3;
    const AUTH: u32 = 23;
    const INTERRUPT: u32 = 9;
    const CORRUPT: u32 = 11;

    Some(match code {
        PERM | AUTH => StoreFailure::Forbidden,
        SQLITE_BUSY | SQLITE_LOCKED => StoreFailure::Locked,
        SQLITE_READONLY => StoreFailure::ReadOnly,
        INTERRUPT => StoreFailure::Cancelled,
        CORRUPT | SQLITE_NOTADB => StoreFailure::Damaged,
        SQLITE_FULL => StoreFailure::Full,
        SQLITE_CANTOPEN => StoreFailure::NotFound,
        _ => return None,
    })
}

fn code(error: &dyn DatabaseError) -> Option<u32> {
    error.code()?.parse().ok()
}

/// The lower byte of an extended result code is the primary one.
fn primary(code: u32) -> u32 {
    code & 0xff
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error().and_then(code).map(primary)
}

/// How many pauses go by before something is looked for that was left in the way, and how often it is looked for again.
const PAUSES_BEFORE_A_LOOK: u32 = 4;
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// A deadline and the pauses until it.
pub(super) struct Patience {
    started: Instant,
    deadline: Duration,
    pauses: u32,
    looked: Option<Instant>,
}

impl Patience {
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            started: Instant::now(),
            deadline,
            pauses: 0,
            looked: None,
        }
    }

    /// Returns whether there were so many pauses that what was left in the way is to be looked for, and none has looked for some
    /// time. Then it counts as looked for.
    pub(super) fn is_time_to_look(&mut self) -> bool {
        let is_time = self.pauses >= PAUSES_BEFORE_A_LOOK && self.looked.is_none_or(|it| it.elapsed() >= BETWEEN_LOOKS);
        if is_time {
            self.looked = Some(Instant::now());
        }
        is_time
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_left_in_the_way_is_looked_for_after_some_pauses_and_then_now_and_again() {
        let mut patience = Patience::new(Duration::from_secs(50));
        for _ in 0..PAUSES_BEFORE_A_LOOK {
            assert!(!patience.is_time_to_look());
            patience.pause().await.unwrap();
        }
        let looks = Instant::now();
        assert!(patience.is_time_to_look());
        assert!(!patience.is_time_to_look() || looks.elapsed() >= BETWEEN_LOOKS);
        patience.looked = looks.checked_sub(BETWEEN_LOOKS);
        assert!(patience.is_time_to_look());
    }
}
