//! What a claim costs among many records, against the same claim among few.
//!
//! Neither database waits for the disk here: that would hide what the index costs. (Redis finds a record by its hash, and
//! keeps all of them in memory; it is not filled here.)

use oneflight::store::{ClaimOutcome, ClaimRequest, Denied, Store};
use oneflight_postgres::PostgresStore;
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::SqliteSynchronous;
use std::time::Duration;

use crate::figures::Figure;
use crate::fill::{self, Retention};
use crate::rounds::{Compared, Rounds};
use crate::{Extent, Failure, postgres};

const FEW: u64 = 10_000;
const LEASE: Duration = Duration::from_secs(60);

pub(crate) async fn measure(extent: Extent) -> Result<Vec<Figure>, Failure> {
    let many = extent.of(10_000_000, 100_000);
    let mut figures = Vec::new();

    let server = postgres::server();
    let (of_few, of_many) = (server.schema().await, server.schema().await);
    let few = PostgresStore::from_pool(of_few.pool(1)).await?;
    let store = PostgresStore::from_pool(of_many.pool(1)).await?;
    fill::postgres(&few, FEW, Retention::Runs).await?;
    fill::postgres(&store, many, Retention::Runs).await?;
    figures.extend(claims("PostgreSQL", &few, &store, many, extent).await?);

    let folder = tempfile::tempdir()?;
    let options = SqliteStore::options().synchronous(SqliteSynchronous::Normal);
    let few = options.clone().open(folder.path().join("few.db")).await?;
    let store = options.open(folder.path().join("many.db")).await?;
    fill::sqlite(&few, FEW, Retention::Runs).await?;
    fill::sqlite(&store, many, Retention::Runs).await?;
    figures.extend(claims("SQLite", &few, &store, many, extent).await?);
    few.close().await;
    store.close().await;
    Ok(figures)
}

async fn claims<S: Store + Clone>(
    name: &str,
    few: &S,
    store: &S,
    many: u64,
    extent: Extent,
) -> Result<[Figure; 2], Failure> {
    let rounds = Rounds {
        rounds: extent.of(31, 5),
        calls: extent.of(200, 50),
        clients: 1,
    };
    let figure = |what: &str, compared: &Compared| {
        Figure::ratio_at_most(
            format!("{name}, {what}: time among {many} records against {FEW}"),
            &[compared.ratio],
            1.5,
            &compared.to_string(),
        )
    };

    // What is claimed stays: it is little beside what is there.
    let claim = |store: &S| {
        let store = store.clone();
        move |number| {
            let store = store.clone();
            async move {
                match store.claim(ClaimRequest::new(&fill::new(number)?, LEASE)).await? {
                    ClaimOutcome::Granted(_) => Ok(()),
                    other => Err(Failure::from(format!("a new key was not granted: {other:?}"))),
                }
            }
        }
    };
    let granted = rounds.compare(claim(store), claim(few)).await?;

    let replay = |store: &S, among| {
        let store = store.clone();
        move |_| {
            let store = store.clone();
            async move {
                let known = fill::known(fastrand::u64(1..=among))?;
                match store.claim(ClaimRequest::new(&known, LEASE)).await? {
                    ClaimOutcome::Denied(Denied::Completed(_)) => Ok(()),
                    other => Err(Failure::from(format!("a known key was not replayed: {other:?}"))),
                }
            }
        }
    };
    let replayed = rounds.compare(replay(store, many), replay(few, FEW)).await?;
    Ok([figure("claim of a new key", &granted), figure("replay", &replayed)])
}
