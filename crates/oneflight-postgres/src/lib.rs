#![doc = include_str!("../README.md")]
//! # How it works
//!
//! Each operation is one call of a procedure (`procedures.rs`), hence one round trip and one transaction of its own, on
//! the server's clock. Claims and completions that are wanted at the same time share one (`together.rs`). No call waits for another's claim inside the server: a claim tries an advisory lock on the
//! identity's number, for the length of its statement or of its transaction. A claim that does not get the lock is "in
//! progress" and holds no connection. The head of `transaction.rs` has what happens when two claims meet; the head of
//! `listen.rs` has how callers that wait hear of changes.

#![deny(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions, PgRow};
use tokio::time::Instant;

use oneflight::identity::RequestIdentity;
use oneflight::record::{FencingToken, Record, RecordedResult};
use oneflight::store::{
    Claim, ClaimOutcome, ClaimRequest, DynStore, InDoubt, Purpose, Renewals, SchemaStatus, Store, StoreError, Watch,
    report_unreadable,
};

mod among_others;
mod borrowed;
mod call;
mod claiming;
mod completing;
mod ending;
mod errors;
mod foreign;
mod gathered;
mod listen;
mod manager;
mod names;
mod number;
mod outbox;
mod outbox_parts;
mod procedures;
mod quiet;
mod records;
mod renewals;
mod reserve;
mod retry;
mod schema;
mod settle;
mod shared;
mod sql;
mod statements;
mod step_statements;
mod steps;
mod together;
mod transaction;
mod transaction_statements;
mod unheard;
mod upkeep;
mod way;

use call::{Calls, Message, Value};
use claiming::Claiming;
use completing::Completing;
use listen::Ear;
use outbox_parts::Parts;
use renewals::Renewing;
use retry::{Tries, tried, tried_within};
use statements::Statements;
use together::Together;
use way::Way;

pub use names::Names;
pub use statements::Isolation;

/// Makes of an error of `sqlx`'s the one that a store answers with, for a program that asks the same server by itself.
///
/// It says what is wrong and what to do where that is known, and shows no line of the server's own source.
#[must_use]
pub fn store_error(error: sqlx::Error) -> StoreError {
    errors::unavailable(error)
}

/// Keeps records in a PostgreSQL database (13 or newer), over `sqlx` 0.9. Clones share it.
///
/// The tables and procedures are ours, and begin with `oneflight_` unless set otherwise. They are created and upgraded
/// when the store is opened; any number of processes may do so at once. A database that a newer version has upgraded is
/// opened as well, unless it says that this version does not work with it any more.
///
/// # Connections
///
/// The pool is the user's. An operation takes one of its connections for one round trip, claims and completions of the same
/// moment take one together (on a runtime of several threads), and
/// [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) one for its transaction. A call that waits for a
/// request in progress elsewhere holds none. Each store in a process has up to two connections more, outside of the
/// pool and with the pool's options as they are when these connect:
///
/// * One listens for all calls that wait, from the first wait on. It takes one lock for each key that is waited for, up
///   to half of the places that one connection adds to the server's table of locks (`max_locks_per_transaction`, 64
///   unless set). Calls that wait for other keys then poll. While it begins to listen, there is another one for a
///   moment.
/// * One is in reserve for holders of claims: they renew, complete and release over it when the pool has no connection
///   to lend at once. So no claim is lost because all connections of the pool are in use, for however long. It is
///   opened with the pool's hooks when it is first needed, and closed after a minute without use.
///
/// Renewals wait for one another for up to a sixteenth of a third of the lease, and 2 s at most. So a process takes some 16
/// round trips in a third of a lease to renew 16,000 of one length. A renewal that comes alone is sent at once.
///
/// The state in which the pool lends a connection does not matter. What an operation answers is committed: an operation
/// is an error inside of a transaction that was left open, failed or not, and
/// [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) leaves such a transaction first. Either way that
/// transaction is rolled back; its owner had dropped it. A connection that answers with an error is closed rather than
/// given back. If the error may come from its state (a transaction, a role, a timeout, an encoding, what was prepared),
/// the operation is tried on others, as many as the pool has and two more.
///
/// Three things are taken as they are:
///
/// * `synchronous_commit`;
/// * operators that were made in a schema *before* `pg_catalog` in the search path of a session that runs work in a
///   transaction;
/// * the search path when a store is opened without [a schema of its own](PostgresOptions::schema).
///
/// Our procedures are written in PL/pgSQL, which every database has unless it was dropped. A role needs the right to
/// execute them, which `PUBLIC` has unless it was revoked (without that to `claim_together` and `complete_together`, each call goes
/// alone, and an event says so; without that to `renew_together`, each renewal does); and so it is with the right to read `oneflight_incarnation`, a row
/// that tells numbers of transactions from those that a crash of the server gave out again.
///
/// # What the server shows
///
/// [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) writes its record in one message with the `COMMIT`. A result of up to
/// 16 KiB, scope and key stand in its text, in hexadecimal digits. So they are seen where the server shows statements: in its log if it
/// logs them, and in `pg_stat_activity`, by roles that may see the statements of others. The server logs a statement that fails unless
/// told otherwise (`log_min_error_statement` is `error`), and so the text of a record that it rejects. What must not be seen there is
/// sealed by [a codec](oneflight::idempotency::IdempotencyBuilder::codec).
///
/// The application's own log does not show them. `sqlx` logs the text of its statements at `DEBUG`, and of slow ones at `WARN`, but this
/// message is sent with a subscriber of `tracing` that hears nothing. In a program that has a logger of `log` for `sqlx::query`, and no
/// subscriber of `tracing`, the values are bound, and the `COMMIT` is one round trip more.
///
/// # Poolers
///
/// In a mode in which a pooler shares sessions between transactions, such as PgBouncer's transaction mode, three things
/// are different:
///
/// * Nothing is heard in a session that is shared. That is found out before any lock is taken in it, and checked again
///   every five minutes. Calls that wait poll.
/// * `sqlx` prepares every statement in a session, and uses it later, perhaps in another one. A pooler that keeps track
///   of prepared statements makes up for that (PgBouncer from 1.21, with `max_prepared_statements`). With any other,
///   another service's statement of the same name may be executed in place of the one that was meant: set
///   [`without_prepared_statements`](PostgresOptions::without_prepared_statements), and make the work's own statements
///   `persistent(false)`. `statement_cache_capacity(0)` is not enough: the statements have names and are shared all the
///   same. An operation fails with [`StoreError::Unsupported`] if a statement does not exist, nor on other connections
///   that are tried.
/// * PgBouncer has to ignore a parameter of `sqlx`'s (`ignore_startup_parameters = extra_float_digits`), or the options
///   leave it out (`extra_float_digits(None)`). Before 1.20 it knows no `options` at all, such as a search path: name
///   the [schema](PostgresOptions::schema).
///
/// In session mode nothing is different. Statement mode refuses transactions, and is of no use.
///
/// # In the server's log
///
/// A transaction of [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) that belongs to a request with a
/// [correlation id](oneflight::correlation) has that id as its `application_name`. So the server's log shows it beside each
/// statement of the work (`log_line_prefix = '%a …'`), and so does `pg_stat_activity`. The name is set in the message that
/// begins the transaction, and is the pool's own again after it. Without a correlation id it stays what it is. A
/// transaction of another driver (`PostgresStore::foreign`) is named as well, from our first statement in it on.
///
/// The server keeps 63 bytes of a name. Of a longer id these are the first ones; a UUID has 36, a trace id 32.
///
/// Operations outside of a transaction do not show the id. Each is one call of a procedure that begins transactions of its
/// own, so that a name that is to end with a transaction would end before its statements. One that lasts longer would be
/// left in the pool's session, and a comment would have each call prepared anew.
///
/// # Durability
///
/// What was acknowledged is as durable as `synchronous_commit` makes it. `on`, the default, survives a crash of the
/// server. `off` does not, and a claim that is lost is a mutation that may be done twice. After a failover to a replica
/// that lags behind, what the replica had not received is gone, and so is the knowledge of which tokens were drawn: use
/// synchronous replication where that matters.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use oneflight::{Idempotency, RequestIdentity, Scope};
/// use oneflight_postgres::PostgresStore;
/// use sqlx::postgres::PgPool;
///
/// let pool = PgPool::connect("postgres://shop@localhost/shop").await?;
/// let idem = Idempotency::builder(PostgresStore::from_pool(pool).await?).build();
///
/// let id = RequestIdentity::new(Scope::new("tenant-7").route("POST /orders"), "a7f3")?;
/// let order: i64 = *idem
///     .run_in_tx(id, |mut tx| async move {
///         let insert = sqlx::query_scalar("INSERT INTO orders (item) VALUES ('tea') RETURNING id");
///         Ok(insert.fetch_one(&mut *tx).await?)
///     })
///     .await?;
/// # let _ = order;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    pool: PgPool,
    names: Arc<Names>,
    statements: Arc<Statements>,
    ear: Ear,
    patience: Duration,
    prepares: bool,
    way: Way,
    renewals: Renewals<Renewing>,
    outbox: Arc<Parts>,
    claims: Together<Claiming>,
    completions: Together<Completing>,
}

/// Whether a claim leaves a request that [waits for a decision](Record::held).
#[derive(Clone, Copy)]
enum Held {
    No,
    Yes,
}

/// How a [`PostgresStore`] is opened. Made by [`PostgresStore::options`].
#[derive(Clone, Debug)]
#[must_use = "options open nothing by themselves"]
pub struct PostgresOptions {
    names: Names,
    isolation: Option<Isolation>,
    migrate: bool,
    migration_lock_timeout: Option<Duration>,
    patience: Duration,
    prepares: bool,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            names: Names {
                schema: None,
                prefix: "oneflight_".to_owned(),
            },
            isolation: None,
            migrate: true,
            migration_lock_timeout: None,
            patience: Duration::from_secs(30),
            prepares: true,
        }
    }
}

impl PostgresOptions {
    /// Sets the schema of our tables, which is created if it is missing. The default is the first schema of the
    /// connection's search path.
    ///
    /// A name may have ASCII letters, digits and underscores, does not begin with a digit, and has 32 bytes at most.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.names.schema = Some(schema.into());
        self
    }

    /// Sets the prefix of our tables' names. The default is `oneflight_`.
    ///
    /// A prefix may have ASCII letters, digits and underscores, does not begin with a digit, and has 32 bytes at most.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.names.prefix = prefix.into();
        self
    }

    /// Sets how the transactions of [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) are isolated. The
    /// default is that of the connection.
    ///
    /// Above [`Isolation::ReadCommitted`] the server refuses some transactions that met others; see
    /// [`run_in_tx_retrying`](oneflight::idempotency::Idempotency::run_in_tx_retrying).
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// Leaves the tables as they are. Apply [`migrations_sql`](Self::migrations_sql) by other means, before the store
    /// is opened.
    pub fn without_migrations(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Limits the time for which migrations wait for each lock. Without it the server's own limit counts, which is none unless set.
    ///
    /// A migration waits for transactions that have read our tables, and all that come after it wait behind it. If the time is over,
    /// nothing is changed, and opening the store fails; try again later.
    pub fn migration_lock_timeout(mut self, longest: Duration) -> Self {
        self.migration_lock_timeout = Some(longest);
        self
    }

    /// Limits the time that an operation may take, before its connection is given up. The default is 30 s. Getting a
    /// connection is included, and so are all tries: whatever the server or the way to it does, an operation is over by then.
    ///
    /// A transaction of the work's has that time for its beginning, for its record, and for its commit. After that, the server
    /// is asked for as long once more what became of the commit. The server gives up a transaction of ours whose client is
    /// gone after about twice as long.
    ///
    /// A claim takes no longer than its caller [waits](oneflight::idempotency::IdempotencyBuilder::wait), or 1 s if
    /// that is less. While the server is away, `sqlx` tries to connect for as long as the pool's `acquire_timeout`, if that is
    /// shorter. The statements of the work are its own affair. A batch of [`purge`](Store::purge) has to be small
    /// enough to be done in that time.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Leaves no prepared statement in a session after a transaction.
    ///
    /// This is for a pooler that shares sessions between transactions and does not keep track of prepared statements.
    /// See [Poolers](PostgresStore#poolers).
    ///
    /// Each operation is still one round trip: a message in which its values stand, as literals. So where the server
    /// shows statements, as in its log, it shows keys and results as well, in hexadecimal digits. The application's own log
    /// [does not](PostgresStore#what-the-server-shows), if there is a subscriber of `tracing`. Where there is only a logger of
    /// `log`, `sqlx` tells it these texts, at `DEBUG`, and at `WARN` if they took long: turn its target `sqlx::query` off, or have
    /// the pool's options log no statements (`disable_statement_logging`).
    ///
    /// Of the two statements that [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx) adds to a transaction, the first takes two round
    /// trips, since it is prepared there anew, and so does the other, if its result is large.
    pub fn without_prepared_statements(mut self) -> Self {
        self.prepares = false;
        self
    }

    /// Returns our tables as one SQL script for an empty database, for a service that runs its migrations by other
    /// means.
    ///
    /// ```
    /// use oneflight_postgres::PostgresStore;
    ///
    /// let script = PostgresStore::options().schema("shop").migrations_sql()?;
    /// assert!(script.contains(r#"CREATE TABLE "shop"."oneflight_records""#));
    /// # Ok::<(), oneflight::store::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidName`] if the schema or the prefix is not valid.
    pub fn migrations_sql(&self) -> Result<String, StoreError> {
        self.upgrade_sql(0)
    }

    /// Returns what a database of an earlier version lacks, as one SQL script. The version is the largest in our table
    /// `migrations`.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidName`] if the schema or the prefix is not valid.
    pub fn upgrade_sql(&self, from: usize) -> Result<String, StoreError> {
        self.names.validate()?;
        Ok(schema::print(&self.names, from))
    }

    /// Returns which migrations a database has, and which it lacks. Nothing is changed.
    ///
    /// # Errors
    ///
    /// * The URL is not valid, or the database cannot be reached.
    /// * [`StoreError::InvalidName`] if the schema or the prefix is not valid.
    pub async fn schema_status(&self, url: &str) -> Result<SchemaStatus, StoreError> {
        let mut names = self.names.clone();
        names.validate()?;
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(self.patience);
        let pool = pool.connect(url).await.map_err(errors::unavailable)?;
        let status = async {
            if names.schema.is_none() {
                names.schema = Some(schema::current(&pool).await?);
            }
            schema::status(&pool, &names).await
        };
        let status = status.await;
        pool.close().await;
        status
    }

    /// Connects to a database, by a URL such as `postgres://user@localhost/shop`, with a pool of sqlx's defaults.
    /// Creates or upgrades our tables there.
    ///
    /// # Errors
    ///
    /// As for [`from_pool`](Self::from_pool); also if the URL is not valid.
    pub async fn open(self, url: &str) -> Result<PostgresStore, StoreError> {
        let pool = PgPool::connect(url).await.map_err(errors::unavailable)?;
        self.from_pool(pool).await
    }

    /// Uses a pool of the caller's, and creates or upgrades our tables in its database.
    ///
    /// # Errors
    ///
    /// * The database cannot be reached.
    /// * [`StoreError::SchemaTooNew`] if a newer version of this crate changed the database so that this one does not work with it.
    /// * [`StoreError::InvalidName`] if the schema or the prefix is not valid.
    pub async fn from_pool(self, pool: PgPool) -> Result<PostgresStore, StoreError> {
        let mut names = self.names;
        names.validate()?;
        // What is told apart by name must not depend on the search path of each connection.
        if names.schema.is_none() {
            names.schema = Some(schema::current(&pool).await?);
        }
        match self.migrate {
            true => schema::migrate(&pool, &names, self.migration_lock_timeout).await?,
            false => schema::check(&pool, &names).await?,
        }
        let outbox = Arc::new(Parts::new(&names));
        let statements = Arc::new(Statements::new(&names, self.isolation, self.patience));
        let way = Way::new(pool.clone(), self.patience, self.prepares);
        Ok(PostgresStore {
            pool,
            renewals: Renewing::gathered(way.clone(), Arc::clone(&statements), self.patience),
            statements,
            ear: Ear::new(names.channel()),
            names: Arc::new(names),
            patience: self.patience,
            prepares: self.prepares,
            way,
            outbox,
            claims: Together::default(),
            completions: Together::default(),
        })
    }
}

impl PostgresStore {
    /// Connects to a database, by a URL such as `postgres://user@localhost/shop`, with a pool of sqlx's defaults.
    /// Creates or upgrades our tables there.
    ///
    /// # Errors
    ///
    /// As for [`from_pool`](Self::from_pool); also if the URL is not valid.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::options().open(url).await
    }

    /// Uses a pool of the caller's, and creates or upgrades our tables in its database.
    ///
    /// # Errors
    ///
    /// * The database cannot be reached.
    /// * [`StoreError::SchemaTooNew`] if a newer version of this crate changed the database so that this one does not work with it.
    pub async fn from_pool(pool: PgPool) -> Result<Self, StoreError> {
        Self::options().from_pool(pool).await
    }

    /// Returns options to open a store with.
    pub fn options() -> PostgresOptions {
        PostgresOptions::default()
    }

    /// Returns the pool, for the caller's own tables.
    ///
    /// For what must be committed with the record, use [`run_in_tx`](oneflight::idempotency::Idempotency::run_in_tx).
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Claims. A request that is held is afterwards only granted to a claim that names this claim's token.
    async fn claim_as(
        &self,
        limit: Duration,
        request: &ClaimRequest,
        held: Held,
        tries: Tries,
    ) -> Result<ClaimOutcome, StoreError> {
        let fingerprint = request.id.fingerprint();
        let begun = Instant::now();
        let values = [
            Value::Text(request.id.scope()),
            Value::Text(request.id.key()),
            Value::Bytes(fingerprint.as_ref().map(|it| &it.as_bytes()[..])),
            Value::Bytes(Some(&request.holder.as_bytes()[..])),
            Value::Number(records::millis(request.lease)),
            Value::Number(records::takeover(request.takeover)),
            Value::Number(self.names.keys(&request.id).claim),
            Value::Flag(matches!(held, Held::Yes)),
            Value::Text(records::correlation(request)),
        ];
        let rows = tried(tries, || {
            let claim = self.message(&self.statements.claim, &values);
            self.ask(limit.saturating_sub(begun.elapsed()), claim)
        });
        records::claimed_alone(records::only(&rows.await?)?, request)
    }

    /// Reads the record, past its retention or not.
    async fn read(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        self.read_within(self.patience, id).await
    }

    async fn read_within(&self, limit: Duration, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        let values = [Value::Text(id.scope()), Value::Text(id.key())];
        let rows = self.call_as_holder(limit, &self.statements.load, &values).await?;
        records::record(records::only(&rows)?)
    }

    async fn list_in_doubt(&self, after: i64, limit: usize) -> Result<Vec<PgRow>, StoreError> {
        tried_within(self.patience, Tries::on(&self.pool), |left| {
            let list = self.statements.in_doubt(after, records::rows(limit));
            self.ask(left, list)
        })
        .await
    }

    /// Calls a procedure of ours for a holder.
    async fn call_as_holder(
        &self,
        limit: Duration,
        calls: &Calls,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>, StoreError> {
        self.way.call_as_holder(limit, calls, values).await
    }

    /// A call of a procedure of ours.
    fn message(&self, calls: &Calls, values: &[Value<'_>]) -> Message {
        self.way.message(calls, values)
    }

    /// Returns what the server answers within this time, which is also that of getting a connection of the pool.
    async fn ask(&self, limit: Duration, message: Message) -> sqlx::Result<Vec<PgRow>> {
        self.way.ask(limit, message).await
    }

    /// The same for a holder, however long others keep the pool's connections.
    async fn ask_within(&self, limit: Duration, message: Message) -> sqlx::Result<Vec<PgRow>> {
        self.way.ask_within(limit, message).await
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl From<PostgresStore> for DynStore {
    fn from(store: PostgresStore) -> Self {
        Self::new(store)
    }
}

impl Store for PostgresStore {
    async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        if request.purpose == Purpose::Resolve {
            match self.claim_to_resolve(&request).await {
                // A role that has rights on the records alone, as it had before there were steps.
                Err(error) if errors::is_no_privilege(&error) => {}
                claimed => return claimed,
            }
        }
        self.claim_among_others(request).await
    }

    async fn renew(&self, id: &RequestIdentity, token: FencingToken, lease: Duration) -> Result<(), StoreError> {
        self.renewals.renew(id, token, lease).await
    }

    async fn end_lease(&self, id: &RequestIdentity, token: FencingToken, left: Duration) -> Result<(), StoreError> {
        let values = [
            Value::Text(id.scope()),
            Value::Text(id.key()),
            Value::Number(records::number(token)),
            Value::Number(records::millis(left)),
            Value::Number(self.names.keys(id).watch),
            Value::Text(&self.names.channel()),
        ];
        let end = &self.statements.end_lease;
        let rows = self.call_as_holder(self.patience, end, &values).await?;
        records::changed(&rows, token)
    }

    async fn complete(&self, claim: Claim, result: RecordedResult, retention: Duration) -> Result<(), StoreError> {
        self.complete_among_others(&claim, &result, retention).await
    }

    async fn release(&self, claim: Claim) -> Result<(), StoreError> {
        let (id, token) = (claim.id(), claim.token());
        let values = [
            Value::Text(id.scope()),
            Value::Text(id.key()),
            Value::Number(records::number(token)),
            Value::Number(self.names.keys(id).watch),
            Value::Text(&self.names.channel()),
        ];
        let release = &self.statements.release;
        let rows = self.call_as_holder(self.patience, release, &values).await?;
        records::changed(&rows, token)
    }

    async fn load(&self, id: &RequestIdentity) -> Result<Option<Record>, StoreError> {
        let record = self.read(id).await?;
        Ok(record.filter(|record| !record.is_past_retention()))
    }

    async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        let values = [Value::Number(records::rows(limit))];
        let rows = tried_within(self.patience, Tries::on(&self.pool), |left| {
            let purge = self.message(&self.statements.purge, &values);
            self.ask(left, purge)
        });
        let purged: i64 = records::column(records::only(&rows.await?)?, 0)?;
        if usize::try_from(purged).is_ok_and(|purged| purged < limit) {
            match self.keep_outbox_if_used().await {
                // A role that has rights on the records alone, as it had before there was an outbox.
                Err(error) if errors::is_no_privilege(&error) => {}
                kept => kept?,
            }
        }
        Ok(usize::try_from(purged).unwrap_or(0))
    }

    async fn in_doubt(&self, limit: usize, after: Option<FencingToken>) -> Result<Vec<InDoubt>, StoreError> {
        let mut doubtful = Vec::new();
        let mut after = after.map_or(0, records::number);
        while doubtful.len() < limit {
            let missing = limit - doubtful.len();
            let rows = self.list_in_doubt(after, missing).await?;
            for row in &rows {
                after = records::column(row, 2)?;
                match records::doubtful(row) {
                    Ok(found) => doubtful.push(found),
                    Err(error) => report_unreadable(FencingToken::new(after.cast_unsigned()), &error),
                }
            }
            if rows.len() < missing {
                break;
            }
        }
        Ok(doubtful)
    }

    async fn watch(&self, id: &RequestIdentity) -> Watch {
        self.ear.watch(&self.pool, self.names.keys(id)).await
    }
}
