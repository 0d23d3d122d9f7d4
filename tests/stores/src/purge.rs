//! Claims while what has expired is deleted, against claims while it is not.
//!
//! Four clients claim and complete new keys at a steady pace, all the time. Windows in which the purge runs alternate with
//! windows in which it doesn't, so that whatever else the machine does falls on both. The purge is paced as it would be in
//! a service: small batches, and a pause after each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oneflight::store::{ClaimOutcome, ClaimRequest, Store};
use oneflight_postgres::PostgresStore;
use oneflight_sqlite::SqliteStore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::figures::Figure;
use crate::fill::{self, Retention};
use crate::{Extent, Failure, postgres};

const CLIENTS: u64 = 4;
/// Between two claims of a client.
const PACE: Duration = Duration::from_millis(4);
const WINDOW: Duration = Duration::from_millis(500);
const HOUR: Duration = Duration::from_secs(3600);

/// How a purge is paced.
#[derive(Debug, Clone, Copy)]
struct Pace {
    batch: usize,
    pause: Duration,
}

// What the clients are told.
const QUIET: u8 = 0;
const PURGING: u8 = 1;
const OVER: u8 = 2;

pub(crate) async fn measure(extent: Extent) -> Result<Vec<Figure>, Failure> {
    let records = extent.of(1_000_000, 20_000);
    // As it is unless told otherwise: it waits for the disk.
    let server = postgres::Server::start("");
    let store = PostgresStore::from_pool(server.schema().await.pool(8)).await?;
    fill::postgres(&store, records, Retention::IsOver).await?;
    let pace = Pace {
        batch: 500,
        pause: Duration::from_millis(10),
    };
    let of_postgres = purge("PostgreSQL", store, records, pace).await?;

    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(folder.path().join("expired.db")).await?;
    fill::sqlite(&store, records, Retention::IsOver).await?;
    // There is one writer, and while a batch is deleted that is the purge: 100 at a time are too many.
    let pace = Pace {
        batch: 50,
        pause: Duration::from_millis(20),
    };
    let of_sqlite = purge("SQLite", store.clone(), records, pace).await?;
    store.close().await;
    Ok(vec![of_postgres, of_sqlite])
}

async fn purge<S: Store + Clone>(name: &str, store: S, records: u64, pace: Pace) -> Result<Figure, Failure> {
    let phase = Arc::new(AtomicU8::new(QUIET));
    let numbers = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(claim_steadily(store.clone(), Arc::clone(&phase), Arc::clone(&numbers)));
    }

    let mut deleted = 0;
    let mut spent = Duration::ZERO;
    let mut is_left = true;
    while is_left {
        phase.store(QUIET, Ordering::SeqCst);
        sleep(WINDOW).await;
        phase.store(PURGING, Ordering::SeqCst);
        let begun = Instant::now();
        while is_left && begun.elapsed() < WINDOW {
            let batch = store.purge(pace.batch).await?;
            deleted += batch as u64;
            is_left = batch > 0;
            sleep(pace.pause).await;
        }
        spent += begun.elapsed();
    }
    phase.store(OVER, Ordering::SeqCst);

    let (mut quiet, mut purging) = (Vec::new(), Vec::new());
    while let Some(seen) = clients.join_next().await {
        for (phase, latency) in seen?? {
            match phase {
                QUIET => quiet.push(latency),
                _ => purging.push(latency),
            }
        }
    }
    if deleted != records {
        return Err(format!("{name}: {deleted} records were purged, and {records} had expired").into());
    }
    let (quiet, purging) = (p99(quiet), p99(purging));
    Ok(Figure::ratio_at_most(
        format!(
            "{name}, purge of {records} expired records, {} at a time with {:?} after each: p99 of claims against none",
            pace.batch, pace.pause
        ),
        &[purging.as_secs_f64() / quiet.as_secs_f64()],
        2.0,
        &format!(
            "{:.1} ms against {:.1} ms; {:.0} records/s",
            purging.as_secs_f64() * 1e3,
            quiet.as_secs_f64() * 1e3,
            deleted as f64 / spent.as_secs_f64()
        ),
    ))
}

/// Claims and completes until it is over: in which phase each claim began, and how long it took.
async fn claim_steadily<S: Store>(
    store: S,
    phase: Arc<AtomicU8>,
    numbers: Arc<AtomicU64>,
) -> Result<Vec<(u8, Duration)>, Failure> {
    let mut seen = Vec::new();
    loop {
        let now = phase.load(Ordering::SeqCst);
        if now == OVER {
            return Ok(seen);
        }
        let id = fill::new(numbers.fetch_add(1, Ordering::SeqCst))?;
        let begun = Instant::now();
        let claimed = store.claim(ClaimRequest::new(&id, HOUR)).await?;
        seen.push((now, begun.elapsed()));
        match claimed {
            ClaimOutcome::Granted(claim) => store.complete(claim, fill::result(), HOUR).await?,
            other => return Err(format!("a new key was not granted: {other:?}").into()),
        }
        sleep(PACE).await;
    }
}

fn p99(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    let rank = (latencies.len() * 99).div_ceil(100).max(1);
    latencies.get(rank - 1).copied().unwrap_or_default()
}
