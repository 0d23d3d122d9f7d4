//! The stores, as workers use them and as the checker looks into them. The only part that knows of SQL.

use std::future::Future;
use std::time::Duration;

use clap::ValueEnum;
use oneflight::idempotency::{Error, Idempotency, Reply};
use oneflight::identity::RequestId;
use oneflight::store::{PostgresStore, RedisStore, SqliteStore, Store};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;

use crate::work::InTransaction;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum StoreName {
    Sqlite,
    Postgres,
    Redis,
}

impl StoreName {
    pub fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }
}

/// How long a process waits for a connection, and for the answer to a commit.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is done in a transaction: a row for each execution, so that a second one shows.
const EFFECTS: &str = "CREATE TABLE IF NOT EXISTS effects (key text NOT NULL, mark text NOT NULL)";
const INSERT: &str = "INSERT INTO effects (key, mark) VALUES ($1, $2)";
const SELECT: &str = "SELECT key, mark FROM effects WHERE key LIKE $1 || '.%'";

pub trait Backend: Clone + Send + Sync + Sized + 'static {
    type Store: Store + Clone;
    const TRANSACTIONS: bool;

    fn open(url: &str) -> impl Future<Output = Self> + Send;

    fn store(&self) -> Self::Store;

    /// Executes a request in a transaction of the store.
    fn in_transaction(
        idem: &Idempotency<Self::Store>,
        id: RequestId,
        work: InTransaction,
    ) -> impl Future<Output = Result<Reply<String>, Error>> + Send;

    /// Makes the table of effects.
    fn prepare(&self) -> impl Future<Output = ()> + Send;

    /// The effects of a round's transactions: keys and marks.
    fn effects(&self, round: &str) -> impl Future<Output = Vec<(String, String)>> + Send;
}

/// What is the same for any database of `sqlx`, which has no type for that: written once, and compiled for each.
macro_rules! on_database {
    ($store:ty) => {
        async fn in_transaction(
            idem: &Idempotency<$store>,
            id: RequestId,
            work: InTransaction,
        ) -> Result<Reply<String>, Error> {
            idem.run_in_tx(id, move |tx| {
                Box::pin(async move {
                    let mark = work.begin(tx.context()).await;
                    for _ in 0..work.times {
                        let insert = sqlx::query(INSERT).bind(work.key.text()).bind(&mark);
                        insert.execute(tx.connection()).await?;
                    }
                    work.end().await;
                    Ok(mark)
                })
            })
            .await
        }

        async fn prepare(&self) {
            sqlx::query(EFFECTS)
                .execute(self.0.pool())
                .await
                .expect("the table can be made");
        }

        async fn effects(&self, round: &str) -> Vec<(String, String)> {
            let effects = sqlx::query_as(SELECT).bind(round).fetch_all(self.0.pool()).await;
            effects.expect("the effects can be read")
        }
    };
}

#[derive(Clone)]
pub struct Sqlite(SqliteStore);

impl Backend for Sqlite {
    type Store = SqliteStore;
    const TRANSACTIONS: bool = true;

    async fn open(url: &str) -> Self {
        Self(SqliteStore::open(url).await.expect("the file can be opened"))
    }

    fn store(&self) -> SqliteStore {
        self.0.clone()
    }

    on_database!(SqliteStore);
}

#[derive(Clone)]
pub struct Postgres(PostgresStore);

impl Backend for Postgres {
    type Store = PostgresStore;
    const TRANSACTIONS: bool = true;

    async fn open(url: &str) -> Self {
        let pool = PgPoolOptions::new().max_connections(6).acquire_timeout(PATIENCE);
        let pool = pool.connect_lazy(url).expect("it is a URL");
        // While the server is away, opening fails; a service would be started again.
        for _ in 0..100 {
            if let Ok(store) = PostgresStore::options().patience(PATIENCE).open(pool.clone()).await {
                return Self(store);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the store cannot be opened")
    }

    fn store(&self) -> PostgresStore {
        self.0.clone()
    }

    on_database!(PostgresStore);
}

#[derive(Clone)]
pub struct Redis(RedisStore);

impl Backend for Redis {
    type Store = RedisStore;
    const TRANSACTIONS: bool = false;

    async fn open(url: &str) -> Self {
        for _ in 0..100 {
            if let Ok(store) = RedisStore::options().patience(PATIENCE).open(url).await {
                return Self(store);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the store cannot be opened")
    }

    fn store(&self) -> RedisStore {
        self.0.clone()
    }

    async fn in_transaction(
        _: &Idempotency<RedisStore>,
        _: RequestId,
        _: InTransaction,
    ) -> Result<Reply<String>, Error> {
        unreachable!("Redis has no transactions that work could run in")
    }

    async fn prepare(&self) {}

    async fn effects(&self, _: &str) -> Vec<(String, String)> {
        Vec::new()
    }
}
