//! The shop's database where it is a PostgreSQL, for a program that is built with the feature `postgres`.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::database::{CONNECTIONS, Database, Entry, Failure, Orders, about};

/// Sent as one, it is one transaction. The lock is there because services that make the same table at the same time get
/// in each other's way.
const SCHEMA: &str = "
    SELECT pg_advisory_xact_lock(7308604759);
    CREATE TABLE IF NOT EXISTS orders (
        id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        idempotency_key TEXT NOT NULL,
        correlation_id  TEXT NOT NULL,
        payment         TEXT NOT NULL,
        item            TEXT NOT NULL,
        quantity        BIGINT NOT NULL,
        placed_at       TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    CREATE INDEX IF NOT EXISTS orders_by_key ON orders (idempotency_key);
    CREATE TABLE IF NOT EXISTS answers (
        idempotency_key TEXT PRIMARY KEY,
        answer          TEXT NOT NULL
    );
";

impl Database {
    /// Connects to a server, and makes the tables if need be.
    pub(crate) async fn connect(options: &PgConnectOptions) -> Result<Self, Failure> {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
        let open = async {
            // A pool would go on trying for half a minute, and then not tell why.
            let mut connection = options.connect().await?;
            sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
            connection.close().await?;
            Self::Postgres(pool.connect_lazy_with(options.clone())).checked().await
        };
        open.await.map_err(|error| {
            let advice = "does the server run, and is it a database in which this user may make tables?";
            about(&named(options), "opened", &error, advice)
        })
    }

    /// Connects to the database of a shop that is there, to look into it.
    pub(crate) async fn look_into(options: &PgConnectOptions) -> Result<Self, Failure> {
        let pool = PgPoolOptions::new().max_connections(1);
        let look = async {
            options.connect().await?.close().await?;
            Self::Postgres(pool.connect_lazy_with(options.clone())).checked().await
        };
        look.await.map_err(|error| {
            let advice = "is it the database that the service writes to?";
            about(&named(options), "read", &error, advice)
        })
    }
}

impl Orders for PgConnection {
    async fn enter(&mut self, entry: &Entry<'_>) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar(
            "INSERT INTO orders (idempotency_key, correlation_id, payment, item, quantity) VALUES ($1, $2, $3, $4, $5) \
             RETURNING id",
        )
        .bind(entry.key)
        .bind(entry.correlation_id)
        .bind(entry.payment)
        .bind(&entry.order.item)
        .bind(i64::from(entry.order.quantity))
        .fetch_one(self)
        .await
    }
}

/// A database on a server, as it may be shown: without what is secret in its URL.
fn named(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or("of the user's name");
    format!("{database} at {}:{}", options.get_host(), options.get_port())
}
