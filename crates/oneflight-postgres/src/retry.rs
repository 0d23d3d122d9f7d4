//! When the server is asked once more.
//!
//! | what a try says | is tried again | after |
//! | --- | --- | --- |
//! | the session is at fault: it is in a transaction, has other settings, or has forgotten what was prepared in it | on another connection; as often as the pool has any and twice more, for 5 s | 5 ms |
//! | the transaction lost to another one: a serialization failure or a deadlock | six tries in all | a pause, longer each time |
//! | the connection is lost, where [nothing has been done on it](Tries::past_lost_connections) | as often as is said | at once |
//! | anything else, where [it has to be done](Tries::insisting) | as often as is said, within a time | at once |
//! | anything else | no | |
//!
//! None of it goes on beyond the time that the whole [has](Tries::within).
//!
//! So no try before the last one has done anything, unless doing it twice is the same as doing it once. What was sent
//! and not answered is an error at once, and is not hidden by that of a later try.
//!
//! In a database whose transactions are serializable by default, two of our own statements that meet are a reason to
//! try again.

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::time::{Instant, sleep};

use super::errors::{is_conflict, is_lost, is_of_the_session, unavailable};
use oneflight::store::{StoreError, jitter};

/// How often a statement is tried that the transactions of others get in the way of.
const TRIES: u32 = 6;
/// How long it may be a session's fault that a statement of ours fails: a timeout that ends one after longer than that
/// is not what an earlier user left behind.
const SESSIONS_FOR: Duration = Duration::from_secs(5);
/// The server tells of an error before it lets go of what the transaction has locked. Without a pause, another session
/// would be told that a claim is being decided about: the one that has just failed.
const LET_GO_WITHIN: Duration = Duration::from_millis(5);
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Tries until there is an answer, or an error after which this does not try again.
pub(super) async fn tried<T, A>(mut tries: Tries, mut attempt: impl FnMut() -> A) -> Result<T, StoreError>
where
    A: Future<Output = sqlx::Result<T>>,
{
    loop {
        match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(error) => tries.after(error).await?,
        }
    }
}

/// The same within a time. Each attempt is told how much of it is left.
pub(super) async fn tried_within<T, A>(
    limit: Duration,
    tries: Tries,
    mut attempt: impl FnMut(Duration) -> A,
) -> Result<T, StoreError>
where
    A: Future<Output = sqlx::Result<T>>,
{
    let begun = Instant::now();
    tried(tries.within(limit), || attempt(limit.saturating_sub(begun.elapsed()))).await
}

/// What may still be tried. See the module's documentation.
pub(super) struct Tries {
    begun: Instant,
    /// How long all tries together may take.
    limit: Duration,
    conflicts: u32,
    pauses: Pauses,
    /// Each of these closes a connection. All connections of the pool may have been left in some state, and another one
    /// may be left so meanwhile.
    sessions: u32,
    lost_connections: u32,
    /// How often, and for how long.
    insists: (u32, Duration),
}

impl Tries {
    pub(super) fn on(pool: &PgPool) -> Self {
        Self {
            begun: Instant::now(),
            limit: Duration::MAX,
            conflicts: 0,
            pauses: Pauses::new(),
            sessions: pool.size().saturating_add(2),
            lost_connections: 0,
            insists: (0, Duration::ZERO),
        }
    }

    /// Tries no more once this time is over.
    fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Also tries again on another connection, so many times, when one turns out to be lost.
    pub(super) fn past_lost_connections(self, most: u32) -> Self {
        Self {
            lost_connections: most,
            ..self
        }
    }

    /// Also tries again after any other error, so many times within this time.
    pub(super) fn insisting(self, most: u32, within: Duration) -> Self {
        Self {
            insists: (most, within),
            ..self
        }
    }

    /// Returns, after a pause where that helps, if it is to be tried again on another connection.
    pub(super) async fn after(&mut self, error: sqlx::Error) -> Result<(), StoreError> {
        let waited = self.begun.elapsed();
        if waited >= self.limit {
            return Err(unavailable(error));
        }
        if is_of_the_session(&error) && self.sessions > 0 && waited < SESSIONS_FOR {
            self.sessions -= 1;
            sleep(LET_GO_WITHIN).await;
        } else if is_lost(&error) && self.lost_connections > 0 {
            self.lost_connections -= 1;
        } else if is_conflict(&error) && self.conflicts + 1 < TRIES {
            self.conflicts += 1;
            self.pauses.pause().await;
        } else if self.insists.0 > 0 && waited <= self.insists.1 {
            self.insists.0 -= 1;
        } else {
            return Err(unavailable(error));
        }
        Ok(())
    }
}

/// Pauses of random length, each about twice as long as the one before, up to some 30 ms.
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    pub(super) async fn pause(&mut self) {
        sleep(self.0 / 2 + jitter(self.0 / 2)).await;
        self.0 = (self.0 * 2).min(FIRST_PAUSE * 16);
    }
}
