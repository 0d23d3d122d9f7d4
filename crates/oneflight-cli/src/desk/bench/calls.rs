//! What is measured: calls of the library, and beside each of them what the store costs without it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oneflight::store::{Store, StoreError, TransactionalStore};
use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_postgres::{PostgresStore, store_error};
use oneflight_sqlite::SqliteStore;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, query, query_scalar};

use crate::desk::server::{Server, lost};

type Called = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// A kind of call.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) name: &'static str,
    /// What it is compared with.
    pub(super) beside: Option<&'static str>,
    once: Arc<dyn Fn() -> Called + Send + Sync>,
}

impl Call {
    fn new<F: Future<Output = Result<(), StoreError>> + Send + 'static>(
        name: &'static str,
        beside: Option<&'static str>,
        once: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            beside,
            once: Arc::new(move || Box::pin(once())),
        }
    }

    pub(super) fn once(&self) -> Called {
        (self.once)()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Call").field(&self.name).finish()
    }
}

const ROUND_TRIP: &str = "round trip";
const TRANSACTION: &str = "transaction of one row";

/// The table of a transaction that is measured.
pub(super) fn table_name(name: &str) -> String {
    name.replace('-', "_")
}

impl Server {
    /// Makes the table whose rows are written. It is no temporary one: what is written to such a one is not kept, and costs no sync.
    pub(super) async fn make_table(&self, name: &str) -> Result<(), StoreError> {
        self.change(format!("CREATE TABLE {} (number BIGINT NOT NULL)", table_name(name)))
            .await
    }

    pub(super) async fn drop_table(&self, name: &str) -> Result<(), StoreError> {
        self.change(format!("DROP TABLE IF EXISTS {}", table_name(name))).await
    }

    /// Returns whether that table is there.
    pub(super) async fn has_table(&self, name: &str) -> Result<bool, StoreError> {
        let name = table_name(name);
        match self {
            Self::Sqlite(pool) => query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = $1)")
                .bind(name)
                .fetch_one(pool)
                .await
                .map_err(lost),
            Self::Postgres(pool) => query_scalar("SELECT to_regclass($1) IS NOT NULL")
                .bind(name)
                .fetch_one(pool)
                .await
                .map_err(store_error),
            Self::Redis(_) => Ok(false),
        }
    }

    async fn change(&self, text: String) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(pool) => query(AssertSqlSafe(text)).execute(pool).await.map(drop).map_err(lost),
            Self::Postgres(pool) => query(AssertSqlSafe(text))
                .execute(pool)
                .await
                .map(drop)
                .map_err(store_error),
            Self::Redis(_) => Ok(()),
        }
    }

    /// Writes a row in a transaction, as it is done by hand.
    async fn transaction(&self, statement: Arc<str>) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(pool) => loop {
                let written = async {
                    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
                    SqliteStore::write(&mut tx, &statement).await?;
                    tx.commit().await
                };
                match written.await {
                    // Others had the lock for long.
                    Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("5") => {}
                    written => return written.map_err(lost),
                }
            },
            Self::Postgres(pool) => {
                let mut tx = pool.begin().await.map_err(store_error)?;
                PostgresStore::write(&mut tx, &statement).await.map_err(store_error)?;
                tx.commit().await.map_err(store_error)
            }
            Self::Redis(_) => Ok(()),
        }
    }
}

/// Numbers that no other call has.
fn numbers() -> impl Fn() -> u64 + Send + Sync + 'static {
    let last = AtomicU64::new(0);
    move || last.fetch_add(1, Ordering::Relaxed)
}

fn identity(scope: &str, key: impl fmt::Display) -> Result<RequestIdentity, StoreError> {
    RequestIdentity::new(Scope::new(scope), key.to_string()).map_err(lost)
}

/// A failure of the store's, as it was before the library told the rest.
fn cause(error: &oneflight::Error) -> StoreError {
    match error.cause::<StoreError>() {
        Some(error) => error.clone(),
        None => lost(error.to_string()),
    }
}

/// The calls that keep records, and a round trip beside.
pub(super) fn of_records<S: Store>(server: &Server, idem: &Idempotency<S>, scope: &str) -> Vec<Call> {
    let (trips, anew, again) = (server.clone(), idem.clone(), idem.clone());
    let (fresh, same, next) = (scope.to_owned(), scope.to_owned(), numbers());
    vec![
        Call::new(ROUND_TRIP, None, move || {
            let server = trips.clone();
            async move { server.trip().await }
        }),
        Call::new("run, a new key", Some(ROUND_TRIP), move || {
            let (idem, id) = (anew.clone(), identity(&fresh, next()));
            async move {
                idem.run(id?, |_| async { 7_u64 })
                    .await
                    .map(drop)
                    .map_err(|error| cause(&error))
            }
        }),
        Call::new("run, a replay", Some(ROUND_TRIP), move || {
            let (idem, id) = (again.clone(), identity(&same, "same"));
            async move {
                idem.run(id?, |_| async { 7_u64 })
                    .await
                    .map(drop)
                    .map_err(|error| cause(&error))
            }
        }),
    ]
}

/// A store on whose connection a row can be written.
pub(super) trait Rows: TransactionalStore + Clone {
    fn write(
        connection: &mut Self::Connection,
        statement: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

impl Rows for SqliteStore {
    async fn write(connection: &mut SqliteConnection, statement: &str) -> Result<(), sqlx::Error> {
        query(AssertSqlSafe(statement.to_owned()))
            .execute(connection)
            .await
            .map(drop)
    }
}

impl Rows for PostgresStore {
    async fn write(connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
        query(AssertSqlSafe(statement.to_owned()))
            .execute(connection)
            .await
            .map(drop)
    }
}

/// The calls in a transaction, with one row of the user's.
pub(super) fn in_tx<S: Rows>(server: &Server, idem: &Idempotency<S>, scope: &str) -> Vec<Call> {
    let (server, idem, next, scope) = (server.clone(), idem.clone(), numbers(), scope.to_owned());
    let statement: Arc<str> = format!("INSERT INTO {} VALUES (7)", table_name(&scope)).into();
    let by_hand = Arc::clone(&statement);
    vec![
        Call::new(TRANSACTION, Some(ROUND_TRIP), move || {
            let (server, statement) = (server.clone(), Arc::clone(&by_hand));
            async move { server.transaction(statement).await }
        }),
        Call::new("run_in_tx, with that row", Some(TRANSACTION), move || {
            let (idem, id) = (idem.clone(), identity(&scope, format_args!("tx-{}", next())));
            let statement = Arc::clone(&statement);
            async move {
                let wrote = idem.run_in_tx(id?, |mut tx| async move {
                    S::write(&mut tx, &statement).await?;
                    Ok(7_u64)
                });
                wrote.await.map(drop).map_err(|error| cause(&error))
            }
        }),
    ]
}
