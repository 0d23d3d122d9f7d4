//! SQLite: how many orders a second go through `run_in_tx`, against the bare transaction on a pool of the same settings.

use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_sqlite::SqliteStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::by_hand::bare;
use crate::figures::Figure;
use crate::ours::run_in_tx;
use crate::rounds::Rounds;
use crate::{Extent, Failure};

pub(crate) async fn measure(extent: Extent) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    for (name, synchronous, at_least) in [
        ("FULL", SqliteSynchronous::Full, 0.7),
        ("NORMAL", SqliteSynchronous::Normal, 0.6),
    ] {
        let folder = tempfile::tempdir()?;
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("orders.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous);
        let pool = SqlitePoolOptions::new()
            .max_connections(8)
            .connect_with(options)
            .await?;
        sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")
            .execute(&pool)
            .await?;
        let idem = Idempotency::builder(SqliteStore::from_pool(pool.clone()).await?).build();

        let (mut ratios, mut times) = (Vec::new(), Vec::new());
        for clients in [1, 8] {
            let id = move |number| {
                let key = format!("{clients:08x}-0000-4000-8000-{number:012x}");
                RequestIdentity::new(Scope::new("tenant-7"), key)
            };
            let rounds = Rounds {
                rounds: extent.of(15, 5),
                calls: extent.of(400, 80),
                clients,
            };
            let compared = rounds.compare(run_in_tx!(idem, id), bare!(pool)).await?;
            ratios.push(compared.ratio.recip());
            times.push(compared.to_string());
        }
        figures.push(Figure::ratio_at_least(
            format!("SQLite at {name}, `run_in_tx`: throughput against the bare transaction"),
            &ratios,
            at_least,
            &times.join("; "),
        ));
    }
    Ok(figures)
}
