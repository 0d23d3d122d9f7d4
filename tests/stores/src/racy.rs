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

use crate::by_hand::{self, INSERT, get_work_set};
use crate::figures::Figure;
use crate::rounds::{Compared, Rounds};
use crate::{Extent, Failure, postgres, redis_server};

/// One after another, and many at once.
const CLIENTS: [u64; 2] = [1, 16];

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
                get_work_set(&pool, key, async || Ok(())).await
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
            let work = async || {
                sqlx::query(INSERT).execute(&pool).await?;
                Ok::<_, Failure>(())
            };
            let theirs = async |number| get_work_set(&pool, format!("within-{}", key(clients, number)), work).await;
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
    let pool = by_hand::sqlite(folder.path()).await?;
    Ok(on_database!("SQLite", SqliteStore::from_pool(pool).await?, extent))
}

async fn of_postgres(extent: Extent) -> Result<[Figure; 2], Failure> {
    let server = postgres::Server::start("");
    let pool = by_hand::postgres(&server).await?;
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
            let key = format!("elsewhere-{}", key(clients, number));
            get_work_set(&connection, key, async || Ok(())).await
        };
        compared.push(rounds(extent, clients).compare(ours, theirs).await?);
    }
    Ok(figure(
        "Redis, `run` with work elsewhere: time against \"get, work, set\"",
        &compared,
    ))
}
