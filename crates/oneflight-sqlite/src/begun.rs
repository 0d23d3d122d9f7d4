//! A transaction in a turn to write: how it begins, and how it ends.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use sqlx::SqlStr;
use sqlx::sqlite::SqliteConnection;

use super::busy::{Patience, is_busy, is_constraint, is_of_the_connection, is_plain, is_too_big, unavailable};
use super::claims;
use super::ending::{Commits, End, Ended};
use super::manager;
use super::queue::Rank;
use super::seal;
use super::writer::{Turn, Writer};
use oneflight::store::{ClaimRequest, StoreError};

/// What a transaction begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seal {
    /// Nothing that the [seal] is needed for.
    Aside,
    Closed,
    /// The same, after a look at the record in the same errand.
    ClosedAfterLook,
}

impl Seal {
    /// Returns whether an error says that there is a record.
    fn is_of_a_record(self, error: &sqlx::Error) -> bool {
        match self {
            Self::Aside => false,
            Self::Closed => is_constraint(error),
            Self::ClosedAfterLook => is_constraint(error) || is_too_big(error),
        }
    }
}

/// Whether a transaction was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Yes,
    /// There is a record, or something else to decide about, and nothing is begun.
    No,
}

/// The future of the body of a transaction.
pub(super) type Body<'t, R> = Pin<Box<dyn Future<Output = Result<(End, R), StoreError>> + Send + 't>>;

impl Writer {
    /// Runs a body between `BEGIN IMMEDIATE` and the end that it wants. If the body fails, its transaction is rolled
    /// back.
    pub(super) async fn transaction<R>(
        &self,
        rank: Rank,
        limit: Option<Duration>,
        body: impl for<'t> FnOnce(&'t mut SqliteConnection) -> Body<'t, R> + Send,
    ) -> Result<Ended<R>, StoreError> {
        let mut turn = self.begin(rank, limit).await?;
        match body(&mut turn).await {
            Ok((end, value)) => Ok(self.end(turn, end, value).await),
            Err(error) => Err(self.fail(turn, error).await),
        }
    }

    /// Waits for a turn, and begins a transaction in it. A turn that is dropped has its transaction rolled back.
    pub(super) async fn begin(&self, rank: Rank, limit: Option<Duration>) -> Result<Turn, StoreError> {
        let begun = async {
            let mut turn = self.turn(rank, limit).await?;
            self.begin_within(&mut turn, Seal::Aside, |_| self.settings.and_begin())
                .await?;
            Ok(turn)
        };
        begun.await.map_err(|error| self.file.named(error))
    }

    /// Begins a transaction in a turn.
    pub(super) async fn begin_in(&self, turn: &mut Turn) -> Result<(), StoreError> {
        let begun = self
            .begin_within(turn, Seal::Aside, |_| self.settings.and_begin())
            .await;
        begun.map(drop).map_err(|error| self.file.named(error))
    }

    /// Begins a transaction in a turn for what has no record, closes the seal, and sets the savepoint of the work, all in
    /// one errand. If there is a record, nothing is begun: what was not looked at before is looked at first, without the
    /// lock.
    pub(super) async fn begin_new(
        &self,
        turn: &mut Turn,
        request: &ClaimRequest,
        is_looked_at: bool,
    ) -> Result<Begun, StoreError> {
        let statements = |turn: &Turn| {
            let before = match is_looked_at {
                true => String::new(),
                false => claims::unless_recorded(&request.id),
            };
            let file = (!turn.is_known).then_some(&*self.file);
            let within = claims::hold_new(&request.id, file);
            self.settings.and_begin_between(&before, &within)
        };
        let seal = match is_looked_at {
            true => Seal::Closed,
            false => Seal::ClosedAfterLook,
        };
        let begun = self.begin_within(turn, seal, statements).await;
        begun.map_err(|error| self.file.named(error))
    }

    async fn begin_within(
        &self,
        turn: &mut Turn,
        seal: Seal,
        statements: impl Fn(&Turn) -> SqlStr,
    ) -> Result<Begun, StoreError> {
        let (mut unusable, mut has_seal) = (0, seal == Seal::Aside);
        loop {
            let begin = statements(turn);
            let error = match manager::begin(turn, begin).await {
                Ok(()) => return Ok(Begun::Yes),
                Err(error) => error,
            };
            if is_busy(&error) {
                self.pause(&mut turn.patience).await?;
            } else if seal.is_of_a_record(&error) {
                return Ok(Begun::No);
            } else if !has_seal && is_plain(&error) && seal::install(turn).await.is_ok() {
                has_seal = true;
            } else if is_of_the_connection(&error) && unusable < self.pool.options().get_max_connections() {
                // Most likely one on which a transaction was left open, or which may only read.
                unusable += 1;
                has_seal = seal == Seal::Aside;
                self.replace(turn).await?;
            } else {
                return Err(unavailable(error));
            }
        }
    }

    /// Ends the turn of a transaction that was committed in an errand of the caller's, which begins another one: `sqlx`
    /// needs one to end, for what it counts as open.
    pub(super) fn end_committed(&self, mut turn: Turn) {
        // Nothing waits for it. It is done before the connection's next use, and what is open holds no lock.
        manager::start_rollback(&mut turn);
        self.hand_on(&mut turn);
    }

    /// Ends the transaction of a turn, and the turn.
    pub(super) async fn end<R>(&self, mut turn: Turn, end: End, value: R) -> Ended<R> {
        let rolled_back = match end {
            End::Commit => {
                return match self.commit(&mut turn).await {
                    Ok(()) => {
                        self.hand_on_if_idle(&mut turn).await;
                        Ended::Committed(value)
                    }
                    Err(error) => {
                        turn.connection.close().await;
                        Ended::Unknown(value, error)
                    }
                };
            }
            End::Close => false,
            End::RollBack => manager::rollback(&mut turn).await.is_ok(),
        };
        match rolled_back {
            true => self.hand_on_if_idle(&mut turn).await,
            false => turn.connection.close().await,
        }
        Ended::RolledBack(value)
    }

    /// Rolls the transaction of a turn back for an error, and ends the turn. Returns the error as the user of the store
    /// gets it.
    pub(super) async fn fail(&self, turn: Turn, error: StoreError) -> StoreError {
        let (Ended::Committed(error) | Ended::RolledBack(error) | Ended::Unknown(error, _)) =
            self.end(turn, End::RollBack, error).await;
        self.file.named(error)
    }

    async fn commit(&self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        let committed = match self.commits {
            Commits::AtOnce => manager::commit(connection).await,
            Commits::AfterReaders => {
                self.commit_patiently(connection).await?;
                // What `sqlx` counts as open is over. It needs one to end.
                sqlx::query("BEGIN").execute(&mut *connection).await?;
                manager::rollback(connection).await
            }
        };
        #[cfg(test)]
        let committed = self.faults.after_commit(committed);
        committed
    }

    /// Commits, and tries again while the database is busy: the transaction is still open then.
    async fn commit_patiently(&self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        let mut patience = Patience::new(self.deadline());
        loop {
            match sqlx::query("COMMIT").execute(&mut *connection).await {
                Ok(_) => return Ok(()),
                Err(error) if is_busy(&error) => patience.pause().await.map_err(|_| error)?,
                Err(error) => return Err(error),
            }
        }
    }
}
