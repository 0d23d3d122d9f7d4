//! Against what most people write: look the key up, do the work, store the answer. It gives no guarantee, and takes as long
//! as it takes; keeping what we promise may not take longer on the same store.
//!
//! Two kinds of work: some that is done elsewhere and takes no time here (`run`), and a row in the store's own database
//! (`run_in_tx`). All clients of a round are one task; `redis_calls.rs` has Redis with a task for each. Every call is the first of its key. The databases wait for the disk, as they do unless told otherwise.

use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use oneflight_redis::RedisStore;
use oneflight_sqlite::SqliteStore;
use redis::{AsyncCommands, SetExpiry, SetOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::figures::Figure;
use crate::rounds::{Compared, Rounds};
use crate::{Extent, Failure, postgres, redis_server};

/// One after another, and many at once.
const CLIENTS: [u64; 2] = [1, 16];

const DAY: u64 = 24 * 60 * 60;

fn rounds(extent: Extent, clients: u64) -> Rounds {
    Rounds {
        rounds: extent.of(15, 5),
        calls: extent.of(64, 32),
        clients,
    }
}

fn key(clients: u64, number: u64) -> String {
    format!("{clients:08x}-0000-4000-8000-{number:012x}")
}

fn id(route: &str, key: String) -> Result<RequestIdentity, Failure> {
    Ok(RequestIdentity::new(Scope::new("tenant-7").route(route), key)?)
}

fn figure(case: &str, compared: &[Compared]) -> Figure {
    let ratios: Vec<_> = compared.iter().map(|it| it.ratio).collect();
    let times: Vec<_> = compared.iter().map(ToString::to_string).collect();
    Figure::ratio_at_most(case, &ratios, 1.0, &times.join("; "))
}

/// The same for any database of `sqlx`, which has no type for that: written once, and compiled for each.
macro_rules! on_database {
    ($name:literal, $store:expr, $extent:expr) => {{
        const INSERT: &str = "INSERT INTO orders (item) VALUES ('tea')";
        const GET: &str = "SELECT answer FROM answers WHERE idempotency_key = $1";
        const SET: &str = "INSERT INTO answers (idempotency_key, answer) VALUES ($1, '1') ON CONFLICT DO NOTHING";

        let idem = Idempotency::builder($store).build();
        let pool = idem.store().pool().clone();
        let (mut elsewhere, mut within) = (Vec::new(), Vec::new());
        for clients in CLIENTS {
            let ours = async |number| {
                let _ = idem
                    .run(id("elsewhere", key(clients, number))?, |_| async { 1 })
                    .await?;
                Ok(())
            };
            let theirs = async |number| {
                let key = format!("elsewhere-{}", key(clients, number));
                let known: Option<String> = sqlx::query_scalar(GET).bind(&key).fetch_optional(&pool).await?;
                if known.is_none() {
                    sqlx::query(SET).bind(&key).execute(&pool).await?;
                }
                Ok(())
            };
            elsewhere.push(rounds($extent, clients).compare(ours, theirs).await?);

            let ours = async |number| {
                let work = idem.run_in_tx(id("within", key(clients, number))?, |mut tx| async move {
                    sqlx::query(INSERT).execute(&mut *tx).await?;
                    Ok(1)
                });
                let _ = work.await?;
                Ok(())
            };
            let theirs = async |number| {
                let key = format!("within-{}", key(clients, number));
                let known: Option<String> = sqlx::query_scalar(GET).bind(&key).fetch_optional(&pool).await?;
                if known.is_none() {
                    sqlx::query(INSERT).execute(&pool).await?;
                    sqlx::query(SET).bind(&key).execute(&pool).await?;
                }
                Ok(())
            };
            within.push(rounds($extent, clients).compare(ours, theirs).await?);
        }
        [
            figure(
                concat!($name, ", `run_in_tx` with an order: time against \"get, order, set\""),
                &within,
            ),
            figure(
                concat!($name, ", `run` with work elsewhere: time against \"get, work, set\""),
                &elsewhere,
            ),
        ]
    }};
}

pub(crate) async fn measure(extent: Extent) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    figures.extend(of_sqlite(extent).await?);
    figures.extend(of_postgres(extent).await?);
    figures.push(of_redis(extent).await?);
    Ok(figures)
}

async fn of_sqlite(extent: Extent) -> Result<[Figure; 2], Failure> {
    let folder = tempfile::tempdir()?;
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("racy.db"))
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
    Ok(on_database!("SQLite", SqliteStore::from_pool(pool).await?, extent))
}

async fn of_postgres(extent: Extent) -> Result<[Figure; 2], Failure> {
    let server = postgres::Server::start("");
    let pool = server.schema().await.pool(8);
    let tables = "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL);
                  CREATE TABLE answers (idempotency_key text PRIMARY KEY, answer text NOT NULL)";
    sqlx::raw_sql(tables).execute(&pool).await?;
    Ok(on_database!(
        "PostgreSQL",
        PostgresStore::from_pool(pool).await?,
        extent
    ))
}

async fn of_redis(extent: Extent) -> Result<Figure, Failure> {
    let server = redis_server::Server::start(&[]);
    let idem = Idempotency::builder(RedisStore::open(server.url()).await?).build();
    let connection = server.connection().await;
    let mut compared = Vec::new();
    for clients in CLIENTS {
        let ours = async |number| {
            let _ = idem
                .run(id("elsewhere", key(clients, number))?, |_| async { 1 })
                .await?;
            Ok(())
        };
        let theirs = async |number| {
            let mut connection = connection.clone();
            let key = format!("elsewhere-{}", key(clients, number));
            let known: Option<String> = connection.get(&key).await?;
            if known.is_none() {
                let expires = SetOptions::default().with_expiration(SetExpiry::EX(DAY));
                let _: () = connection.set_options(&key, "1", expires).await?;
            }
            Ok(())
        };
        compared.push(rounds(extent, clients).compare(ours, theirs).await?);
    }
    Ok(figure(
        "Redis, `run` with work elsewhere: time against \"get, work, set\"",
        &compared,
    ))
}
