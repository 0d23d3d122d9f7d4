//! A store in a file of its own, and how a test sees what waits for its writer.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::future::poll_immediate;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use tempfile::TempDir;

use super::super::queue::Rank;
use super::super::writer::Turn;
use super::super::{SqliteOptions, SqliteStore};
use super::id;
use oneflight::record::{CodecId, RecordedResult, Verdict};
use oneflight::store::{Claim, ClaimOutcome, ClaimRequest, Store, StoreError};

pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// What nothing here takes, however busy the machine is.
pub(super) const LONG: Duration = Duration::from_secs(50);

/// For how long a caller waits that is to give up.
pub(super) const SOON: Duration = Duration::from_secs(2);

pub(super) struct Shop {
    pub(super) folder: TempDir,
    pub(super) store: SqliteStore,
}

impl Shop {
    pub(super) async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteStore::options().busy_deadline(LONG);
        let store = options.open(folder.path().join("shop.db")).await.unwrap();
        Self { folder, store }
    }

    /// On a pool of the user's.
    pub(super) async fn lent() -> Self {
        Self::lent_of(3).await
    }

    /// On a pool of the user's, of so many connections.
    pub(super) async fn lent_of(connections: u32) -> Self {
        Self::lent_by(SqliteStore::options().busy_deadline(LONG), connections).await
    }

    /// On a pool of the user's, beside which there can be no connection of the store's own.
    pub(super) async fn on_the_pool_alone(deadline: Duration) -> Self {
        let mut options = SqliteStore::options().busy_deadline(deadline);
        options.is_on_the_pool_alone = true;
        Self::lent_by(options, 3).await
    }

    async fn lent_by(store: SqliteOptions, connections: u32) -> Self {
        Self::on(SqlitePoolOptions::new().max_connections(connections), store).await
    }

    /// On a pool of the user's that is made like this.
    pub(super) async fn on_a_pool(pool: SqlitePoolOptions) -> Self {
        Self::on(pool, SqliteStore::options().busy_deadline(LONG)).await
    }

    async fn on(pool: SqlitePoolOptions, store: SqliteOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("shop.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let pool = pool.connect_with(options).await.unwrap();
        let store = store.from_pool(pool).await.unwrap();
        Self { folder, store }
    }

    pub(super) async fn each() -> [Self; 3] {
        [
            Self::open().await,
            Self::lent().await,
            Self::on_the_pool_alone(LONG).await,
        ]
    }

    /// The number of commits that the log of the file has. It begins anew only after many more than there are in a test.
    pub(super) fn commits(&self) -> usize {
        commits(&self.folder.path().join("shop.db-wal"))
    }

    pub(super) async fn turn(&self) -> Turn {
        self.store.writer.turn(Rank::Business, None).await.unwrap()
    }

    pub(super) async fn claim(&self, key: &str) -> Result<ClaimOutcome, StoreError> {
        self.store.claim(ClaimRequest::new(&id(key), MINUTE)).await
    }

    pub(super) async fn granted(&self, key: &str) -> Claim {
        granted(self.claim(key).await)
    }

    /// Polls futures until so many of them wait in line.
    pub(super) async fn lined_up<F: Future>(&self, rank: Rank, many: usize, futures: &mut [Pin<Box<F>>]) {
        let begun = Instant::now();
        while self.waiting(rank) < many {
            assert!(begun.elapsed() < LONG, "{} of {many} wait in line", self.waiting(rank));
            for future in &mut *futures {
                assert!(poll_immediate(future).await.is_none(), "it did not wait");
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until all that wait in line were taken, which they were before they have an answer.
    pub(super) async fn taken<F: Future>(&self, rank: Rank, futures: &mut [Pin<Box<F>>]) {
        while self.waiting(rank) > 0 {
            for future in &mut *futures {
                assert!(poll_immediate(future).await.is_none(), "it was not taken");
            }
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn waiting(&self, rank: Rank) -> usize {
        self.store.writer.gathered.line(rank).len()
    }

    pub(super) async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.store.pool()).await.unwrap();
    }
}

pub(super) fn end(mut turn: Turn) {
    turn.connection.give_back();
}

pub(super) fn granted(outcome: Result<ClaimOutcome, StoreError>) -> Claim {
    match outcome {
        Ok(ClaimOutcome::Granted(claim)) => claim,
        other => panic!("not granted: {other:?}"),
    }
}

pub(super) fn result() -> RecordedResult {
    RecordedResult::value(Verdict::Performed, CodecId::Json, b"1")
}

/// Counts the frames of a log that end a commit: <https://www.sqlite.org/fileformat2.html#walformat>.
fn commits(log: &Path) -> usize {
    let log = std::fs::read(log).unwrap();
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap()) as usize;
    let (page, salt) = (number(8), &log[16..24]);
    let frames = log[32..].chunks_exact(24 + page);
    let current = frames.take_while(|frame| frame[8..16] == *salt);
    current.filter(|frame| frame[4..8] != [0; 4]).count()
}
