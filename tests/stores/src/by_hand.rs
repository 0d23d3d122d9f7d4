//! The handler that most people write: look the key up, do the work, store the answer. It gives no guarantee, and takes as long as
//! it takes. And what it stands on: a database with a table of orders and one of answers, or Redis.

use std::future::Future;
use std::path::Path;

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, SetExpiry, SetOptions};
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use crate::{Failure, postgres};

/// The work in a database.
pub(crate) const INSERT: &str = "INSERT INTO orders (item) VALUES ('tea')";

const GET: &str = "SELECT answer FROM answers WHERE idempotency_key = $1";
const SET: &str = "INSERT INTO answers (idempotency_key, answer) VALUES ($1, '1') ON CONFLICT DO NOTHING";
const DAY: u64 = 24 * 60 * 60;

/// Where answers are kept by hand.
pub(crate) trait Answers: Sync {
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<String>, Failure>> + Send;

    fn set(&self, key: &str) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The same for each database of `sqlx`.
macro_rules! in_database {
    ($pool:ty) => {
        impl Answers for $pool {
            async fn get(&self, key: &str) -> Result<Option<String>, Failure> {
                Ok(sqlx::query_scalar(GET).bind(key).fetch_optional(self).await?)
            }

            async fn set(&self, key: &str) -> Result<(), Failure> {
                sqlx::query(SET).bind(key).execute(self).await?;
                Ok(())
            }
        }
    };
}

in_database!(SqlitePool);
in_database!(PgPool);

impl Answers for MultiplexedConnection {
    async fn get(&self, key: &str) -> Result<Option<String>, Failure> {
        Ok(AsyncCommands::get(&mut self.clone(), key).await?)
    }

    async fn set(&self, key: &str) -> Result<(), Failure> {
        let expires = SetOptions::default().with_expiration(SetExpiry::EX(DAY));
        Ok(self.clone().set_options(key, "1", expires).await?)
    }
}

/// Looks the key up, does the work, stores the answer.
pub(crate) async fn get_work_set(
    answers: &impl Answers,
    key: String,
    work: impl Future<Output = Result<(), Failure>> + Send,
) -> Result<(), Failure> {
    if answers.get(&key).await?.is_none() {
        work.await?;
        answers.set(&key).await?;
    }
    Ok(())
}

/// An order, as the bare transaction of each database of `sqlx` has it.
macro_rules! bare {
    ($pool:expr) => {{
        let pool = $pool.clone();
        move |_| {
            let pool = pool.clone();
            async move {
                let mut transaction = pool.begin().await?;
                sqlx::query(crate::by_hand::INSERT).execute(&mut *transaction).await?;
                transaction.commit().await?;
                Ok(())
            }
        }
    }};
}

/// An order under a key that is looked up first and stored afterwards, by the key that a number stands for.
macro_rules! get_order_set {
    ($pool:expr, $key:expr) => {{
        let (pool, key) = ($pool.clone(), $key);
        move |number| {
            let pool = pool.clone();
            async move {
                let work = async {
                    sqlx::query(crate::by_hand::INSERT).execute(&pool).await?;
                    Ok(())
                };
                crate::by_hand::get_work_set(&pool, key(number), work).await
            }
        }
    }};
}

/// "Get, work, set" with work that takes no time, by the key that a number stands for.
macro_rules! get_set {
    ($answers:expr, $key:expr) => {{
        let (answers, key) = ($answers.clone(), $key);
        move |number| {
            let answers = answers.clone();
            async move { crate::by_hand::get_work_set(&answers, key(number), async { Ok(()) }).await }
        }
    }};
}

pub(crate) use {bare, get_order_set, get_set};

/// A new file in this folder, which waits for the disk.
pub(crate) async fn sqlite(folder: &Path) -> Result<SqlitePool, Failure> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join("orders.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = SqlitePoolOptions::new()
        .max_connections(8)
        .connect_with(options)
        .await?;
    let tables = "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL);
                  CREATE TABLE answers (idempotency_key TEXT PRIMARY KEY, answer TEXT NOT NULL)";
    sqlx::raw_sql(tables).execute(&pool).await?;
    Ok(pool)
}

/// A new schema of this server.
pub(crate) async fn postgres(server: &postgres::Server) -> Result<PgPool, Failure> {
    let pool = server.schema().await.pool(8);
    let tables = "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL);
                  CREATE TABLE answers (idempotency_key text PRIMARY KEY, answer text NOT NULL)";
    sqlx::raw_sql(tables).execute(&pool).await?;
    Ok(pool)
}
