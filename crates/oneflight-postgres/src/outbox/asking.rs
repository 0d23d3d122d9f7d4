//! How the outbox asks the server: over a small pool of its own, in transactions that see what was committed before each of
//! their statements.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{Connection, Execute, Row, SqlStr};
use tokio::time::{Instant, timeout};

use crate::PostgresStore;
use crate::errors::{late, unavailable};
use crate::outbox_parts::{FITS, MUST_SAY};
use oneflight::store::StoreError;

/// How many connections the outbox has of its own.
const CONNECTIONS: u32 = 3;
/// How long one is kept without use.
const IDLE: Duration = Duration::from_secs(60);
/// Begins a transaction of the outbox's.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE";
/// Whether a transaction is like that unless it says otherwise.
const USUAL: &str =
    "SELECT pg_catalog.current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')
                        AND NOT pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool";

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

impl PostgresStore {
    /// The outbox's own pool.
    pub(super) fn line(&self) -> &PgPool {
        let options = self.pool.connect_options();
        if let Some(line) = self.outbox.pool.get() {
            // They may have other credentials by now.
            line.set_connect_options((*options).clone());
            return line;
        }
        self.outbox.pool.get_or_init(|| {
            let hooks = self.pool.options().clone();
            hooks
                .max_connections(CONNECTIONS)
                .min_connections(0)
                .idle_timeout(IDLE)
                .acquire_timeout(self.patience)
                .test_before_acquire(false)
                .connect_lazy_with((*options).clone())
        })
    }

    pub(super) fn query<'q>(&self, text: &SqlStr) -> Statement<'q> {
        sqlx::query(text.clone()).persistent(self.prepares)
    }

    /// Asks over the outbox's own pool. A connection that answers with an error, or not in time, is closed.
    pub(super) async fn ask_outbox(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, StoreError> {
        self.ask_outbox_within(self.patience, statement).await
    }

    /// The same within a time.
    pub(super) async fn ask_outbox_within(
        &self,
        limit: Duration,
        statement: Statement<'_>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let begun = Instant::now();
        let mut connection = timeout(limit, self.line().acquire())
            .await
            .unwrap_or_else(|_| Err(late()))
            .map_err(unavailable)?;
        let left = limit.saturating_sub(begun.elapsed());
        let answered = timeout(left, self.put(&mut connection, statement)).await;
        match answered.unwrap_or_else(|_| Err(late())) {
            Ok(rows) => Ok(rows),
            Err(error) => {
                if is_of_another_kind(&error) {
                    self.outbox.usual.store(MUST_SAY, Ordering::SeqCst);
                }
                drop(connection.detach());
                Err(unavailable(error))
            }
        }
    }

    /// Runs a statement in a transaction that sees what was committed before each of its statements, and may write. If
    /// that is what transactions are like here, the statement is one by itself.
    ///
    /// A statement that is not prepared for longer goes out in two halves, and a pooler that gives sessions to transactions may
    /// send them to two servers: so it is always in a transaction.
    async fn put(&self, connection: &mut PgConnection, statement: Statement<'_>) -> sqlx::Result<Vec<PgRow>> {
        let in_halves = !self.prepares || !Execute::<Postgres>::persistent(&statement);
        if !in_halves && self.outbox.usual.load(Ordering::SeqCst) == 0 {
            let fits: bool = sqlx::raw_sql(USUAL).fetch_one(&mut *connection).await?.try_get(0)?;
            let usual = if fits { FITS } else { MUST_SAY };
            self.outbox.usual.store(usual, Ordering::SeqCst);
        }
        if !in_halves && self.outbox.usual.load(Ordering::SeqCst) == FITS {
            return statement.fetch_all(connection).await;
        }
        let mut transaction = connection.begin_with(BEGIN).await?;
        let rows = statement.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    }
}

/// Whether the transaction was of another kind than the outbox needs: in this session it is, unless it says otherwise.
fn is_of_another_kind(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "0A000" || code == "25006")
}
