//! Against what most people write: look the key up, do the work, store the answer. It gives no guarantee, and takes as long
//! as it takes; keeping what we promise may not take longer on the same store.
//!
//! Two kinds of work: some that is done elsewhere and takes no time here (`run`), and a row in the store's own database
//! (`run_in_tx`). Every call is the first of its key. The databases wait for the disk, as they do unless told otherwise. Redis is in
//! `redis_calls.rs`, with the processor time behind it.

use oneflight::idempotency::Idempotency;
use oneflight::identity::{IdentityError, RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use oneflight_sqlite::SqliteStore;

use crate::by_hand::{self, get_order_set, get_set};
use crate::figures::Figure;
use crate::ours::{run, run_in_tx};
use crate::rounds::{Compared, Rounds, named};
use crate::{Extent, Failure, postgres};

/// How many clients, and the ratio that is aimed at with so many.
type Crowds = [(u64, f64); 3];

fn rounds(extent: Extent, clients: u64) -> Rounds {
    Rounds {
        rounds: extent.of(15, 5),
        calls: extent.of(64, 32).max(clients * 8),
        clients,
    }
}

fn key(clients: u64, number: u64) -> String {
    format!("{clients:08x}-0000-4000-8000-{number:012x}")
}

fn id(route: &str, key: String) -> Result<RequestIdentity, IdentityError> {
    RequestIdentity::new(Scope::new("tenant-7").route(route), key)
}

fn figure(case: &str, compared: &Compared, at_most: f64) -> Figure {
    let of = named(compared.clients);
    Figure::ratio_at_most(
        format!("{case}, {of}: time against \"get, work, set\""),
        &[compared.ratio],
        at_most,
        &compared.times(),
    )
}

/// The same for any database of `sqlx`, which has no type for that: written once, and compiled for each.
macro_rules! on_database {
    ($name:literal, $store:expr, $extent:expr, $crowds:expr) => {{
        let idem = Idempotency::builder($store).build();
        let pool = idem.store().pool().clone();
        let (mut elsewhere, mut within) = (Vec::new(), Vec::new());
        for (clients, at_most) in $crowds {
            let rounds = rounds($extent, clients);
            let ours = run!(idem, move |number| id("elsewhere", key(clients, number)));
            let theirs = get_set!(pool, move |number| format!("elsewhere-{}", key(clients, number)));
            let compared = rounds.compare(ours, theirs).await?;
            elsewhere.push(figure(
                concat!($name, ", `run` with work elsewhere"),
                &compared,
                at_most,
            ));

            let ours = run_in_tx!(idem, move |number| id("within", key(clients, number)));
            let theirs = get_order_set!(pool, move |number| format!("within-{}", key(clients, number)));
            let compared = rounds.compare(ours, theirs).await?;
            within.push(figure(
                concat!($name, ", `run_in_tx` with an order"),
                &compared,
                at_most,
            ));
        }
        elsewhere.append(&mut within);
        Ok(elsewhere)
    }};
}

pub(crate) async fn measure(extent: Extent) -> Result<Vec<Figure>, Failure> {
    let mut figures = of_sqlite(extent, [(1, 1.8), (16, 1.0), (64, 0.4)]).await?;
    figures.extend(of_postgres(extent, [(1, 1.8), (16, 1.0), (64, 0.6)]).await?);
    Ok(figures)
}

async fn of_sqlite(extent: Extent, crowds: Crowds) -> Result<Vec<Figure>, Failure> {
    let folder = tempfile::tempdir()?;
    let pool = by_hand::sqlite(folder.path()).await?;
    on_database!("SQLite", SqliteStore::from_pool(pool).await?, extent, crowds)
}

async fn of_postgres(extent: Extent, crowds: Crowds) -> Result<Vec<Figure>, Failure> {
    let server = postgres::Server::start("");
    let pool = by_hand::postgres(&server).await?;
    on_database!("PostgreSQL", PostgresStore::from_pool(pool).await?, extent, crowds)
}
