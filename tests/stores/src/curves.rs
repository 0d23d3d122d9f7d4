//! Calls a second against the number of clients: ours, the bare mutation, and the handler that most people write.
//!
//! In the databases the mutation is a row, and ours is `run_in_tx`. Redis keeps no rows of users, so that ours is `run` with work
//! that takes no time, and bare is one `SET`. Every call is the first of its key.

use oneflight::idempotency::Idempotency;
use oneflight::identity::{IdentityError, RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use oneflight_redis::RedisStore;
use oneflight_sqlite::SqliteStore;

use crate::by_hand::{self, Answers, bare, get_order_set, get_set};
use crate::ours::{run, run_in_tx};
use crate::rounds::{Compared, Rounds};
use crate::{Extent, Failure, postgres, redis_server};

const CLIENTS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// What was measured on one store.
#[derive(Debug)]
pub(crate) struct Curves {
    pub(crate) store: &'static str,
    /// Ours, bare, racy.
    pub(crate) lines: [Line; 3],
}

/// Calls a second, by clients.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Curves {
    fn new(store: &'static str, names: [&'static str; 3], compared: &[(Compared, Compared)]) -> Self {
        let line = |name, time: fn(&(Compared, Compared)) -> f64| Line {
            name,
            points: compared
                .iter()
                .map(|both| (both.0.clients as f64, 1.0 / time(both)))
                .collect(),
        };
        let [ours, bare, racy] = names;
        Self {
            store,
            lines: [
                line(ours, |(with_bare, _)| with_bare.ours.as_secs_f64()),
                line(bare, |(with_bare, _)| with_bare.theirs.as_secs_f64()),
                line(racy, |(_, with_racy)| with_racy.theirs.as_secs_f64()),
            ],
        }
    }
}

/// Writes all of it down as a table: a row for each store and each number of clients.
pub(crate) fn table(all: &[Curves]) -> String {
    use std::fmt::Write;

    let mut table = String::from(
        "| store | clients | oneflight, calls/s | the bare mutation | get, work, set |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for curves in all {
        let [ours, bare, racy] = &curves.lines;
        for (at, (clients, calls)) in ours.points.iter().enumerate() {
            let (bare, racy) = (bare.points[at].1, racy.points[at].1);
            // Writing into a string does not fail.
            let _ = writeln!(
                table,
                "| {}, {} | {clients} | {calls:.0} | {bare:.0} | {racy:.0} |",
                curves.store, ours.name
            );
        }
    }
    table
}

fn rounds(extent: Extent, clients: u64) -> Rounds {
    Rounds {
        rounds: extent.of(7, 3),
        calls: clients * extent.of(16, 4) + extent.of(64, 16),
        clients,
    }
}

fn key(clients: u64, number: u64, beside: &str) -> String {
    format!("{clients:08x}-0000-4000-8000-{number:012x}-{beside}")
}

fn id(key: String) -> Result<RequestIdentity, IdentityError> {
    RequestIdentity::new(Scope::new("tenant-7"), key)
}

/// The same for any database of `sqlx`, which has no type for that: written once, and compiled for each.
macro_rules! on_database {
    ($name:literal, $store:expr, $extent:expr) => {{
        let idem = Idempotency::builder($store).build();
        let pool = idem.store().pool().clone();
        let mut compared = Vec::new();
        for clients in CLIENTS {
            let ours = |beside| run_in_tx!(idem, move |number| id(key(clients, number, beside)));
            let racy = get_order_set!(pool, move |number| key(clients, number, "racy"));
            let rounds = rounds($extent, clients);
            compared.push((
                rounds.compare(ours("bare"), bare!(pool)).await?,
                rounds.compare(ours("racy"), racy).await?,
            ));
        }
        let names = ["run_in_tx", "the bare transaction", "get, order, set"];
        Curves::new($name, names, &compared)
    }};
}

pub(crate) async fn measure(extent: Extent) -> Result<Vec<Curves>, Failure> {
    Ok(vec![
        of_sqlite(extent).await?,
        of_postgres(extent).await?,
        of_redis(extent).await?,
    ])
}

async fn of_sqlite(extent: Extent) -> Result<Curves, Failure> {
    let folder = tempfile::tempdir()?;
    let pool = by_hand::sqlite(folder.path()).await?;
    Ok(on_database!("SQLite", SqliteStore::from_pool(pool).await?, extent))
}

async fn of_postgres(extent: Extent) -> Result<Curves, Failure> {
    let server = postgres::Server::start("");
    let pool = by_hand::postgres(&server).await?;
    Ok(on_database!(
        "PostgreSQL",
        PostgresStore::from_pool(pool).await?,
        extent
    ))
}

async fn of_redis(extent: Extent) -> Result<Curves, Failure> {
    let server = redis_server::Server::start(&[]);
    let idem = Idempotency::builder(RedisStore::open(server.url()).await?).build();
    let connection = server.connection().await;
    let mut compared = Vec::new();
    for clients in CLIENTS {
        let ours = |beside| run!(idem, move |number| id(key(clients, number, beside)));
        let bare = {
            let connection = connection.clone();
            move |number| {
                let connection = connection.clone();
                async move { connection.set(&key(clients, number, "set")).await }
            }
        };
        let racy = get_set!(connection, move |number| key(clients, number, "get-set"));
        let rounds = rounds(extent, clients);
        compared.push((
            rounds.compare(ours("bare"), bare).await?,
            rounds.compare(ours("racy"), racy).await?,
        ));
    }
    Ok(Curves::new("Redis", ["run", "one SET", "get, work, set"], &compared))
}
