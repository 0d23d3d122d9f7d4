//! The stores, as workers use them and as the checker looks into them.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use fastrand::Rng;
use futures::FutureExt;
use oneflight::idempotency::{Completer, Error, Idempotency, Reply, Steps, Stopped};
use oneflight::identity::RequestIdentity;
use oneflight::outbox::{Cancelled, Outbox, RelayHandle};
use oneflight::store::{Store, StoreError};
use oneflight_postgres::PostgresStore;
use oneflight_redis::RedisStore;
use oneflight_sqlite::SqliteStore;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Connection};
use tokio::time::timeout;

use crate::messages::{Misuse, Pool, Post};
use crate::notes::Note;
use crate::relay;
use crate::words::{POSTGRES, SELECT, SQLITE};
use crate::work::{InTransaction, Recorded, Sending, Work};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum StoreName {
    Sqlite,
    Postgres,
    Redis,
}

impl StoreName {
    pub fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }
}

/// How long a process waits for a connection, and for the answer to a commit.
const PATIENCE: Duration = Duration::from_secs(10);

/// A message that has not ended.
pub struct LeftOver {
    pub note: Note,
    pub is_dead: bool,
}

/// What an operator does about a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Redriven,
    Discarded,
}

pub trait Backend: Clone + Send + Sync + Sized + 'static {
    type Store: Store + Clone;
    const TRANSACTIONS: bool;

    fn open(url: &str, pool: Pool) -> impl Future<Output = Self> + Send;

    fn store(&self) -> Self::Store;

    /// Executes a request in a transaction of the store.
    fn in_transaction(
        idem: &Idempotency<Self::Store>,
        id: RequestIdentity,
        work: InTransaction,
    ) -> impl Future<Output = Result<Reply<String>, Error>> + Send;

    /// Executes a request in a transaction that sends messages.
    fn sending(
        idem: &Idempotency<Self::Store>,
        id: RequestIdentity,
        work: Sending,
    ) -> impl Future<Output = Result<Reply<String>, Error>> + Send;

    /// Delivers messages, for as long as the process lives.
    fn relay(&self, post: &Post) -> RelayHandle;

    /// The messages of a round that have not ended, and which of them are dead letters.
    fn left_over(&self, round: &str) -> impl Future<Output = Result<Vec<LeftOver>, String>> + Send;

    /// Has a dead letter tried again, or discards it.
    fn settle_dead(&self, note: &Note, how: Settled) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Executes a request in steps: one outside, one in a transaction, one outside.
    fn in_steps(
        idem: &Idempotency<Self::Store>,
        id: RequestIdentity,
        work: Work,
        world: PathBuf,
    ) -> impl Future<Output = Result<Reply<String>, Error>> + Send;

    /// Goes on with requests in steps that nobody asks for any more.
    fn completer(idem: &Idempotency<Self::Store>, world: PathBuf) -> Option<Completer>;

    /// Does to a connection of the pool what an application should not do, and says what. With a key for rows that are never
    /// committed.
    fn misuse(&self, misuse: Misuse, stray: &str, random: &mut Rng) -> impl Future<Output = Option<String>> + Send;

    /// Makes the table of effects.
    fn prepare(&self) -> impl Future<Output = ()> + Send;

    /// The effects of a round's transactions: keys and marks.
    fn effects(&self, round: &str) -> impl Future<Output = Vec<(String, String)>> + Send;
}

/// The steps of a request, for each database.
macro_rules! steps_on_database {
    ($backend:ty, $store:ty, $words:expr) => {
        impl $backend {
            async fn steps(work: Work, world: PathBuf, steps: Steps<$store>) -> Result<String, Stopped> {
                work.told(steps.run("reserve", |step| work.step(&world, step)).await)?;
                let (key, times, pauses) = (work.key.clone(), work.times, work.pauses);
                let book = steps.run_in_tx("book", move |mut tx| async move {
                    let work = Work::from(Recorded { key, times, pauses });
                    let mark = work.begin(tx.context()).await;
                    for _ in 0..work.times {
                        let insert = sqlx::query($words.insert)
                            .persistent(false)
                            .bind(work.key.text())
                            .bind(&mark);
                        insert.execute(&mut *tx).await?;
                    }
                    work.end().await;
                    Ok(mark)
                });
                let mark = work.told(book.await)?;
                work.told(steps.run("mail", |step| work.step(&world, step)).await)?;
                Ok(mark)
            }
        }
    };
}

steps_on_database!(Sqlite, SqliteStore, SQLITE);
steps_on_database!(Postgres, PostgresStore, POSTGRES);

/// What is the same for any database of `sqlx`, which has no type for that: written once, and compiled for each.
macro_rules! on_database {
    ($store:ty, $words:expr) => {
        async fn in_transaction(
            idem: &Idempotency<$store>,
            id: RequestIdentity,
            work: InTransaction,
        ) -> Result<Reply<String>, Error> {
            idem.run_in_tx(id, move |mut tx| async move {
                let mark = work.begin(tx.context()).await;
                for _ in 0..work.times {
                    let insert = sqlx::query($words.insert)
                        .persistent(false)
                        .bind(work.key.text())
                        .bind(&mark);
                    insert.execute(&mut *tx).await?;
                }
                work.end().await;
                Ok(mark)
            })
            .await
        }

        async fn sending(
            idem: &Idempotency<$store>,
            id: RequestIdentity,
            work: Sending,
        ) -> Result<Reply<String>, Error> {
            idem.run_in_tx(id, move |mut tx| async move {
                let mark = work.begin(tx.context()).await;
                let insert = sqlx::query($words.insert)
                    .persistent(false)
                    .bind(work.key().text())
                    .bind(&mark);
                insert.execute(&mut *tx).await?;
                let mut notes = work.notes(&mark);
                for note in &mut notes {
                    if let Some(lane) = &note.lane {
                        let number = sqlx::query_scalar($words.number).persistent(false).bind(lane);
                        note.number = number.fetch_one(&mut *tx).await?;
                    }
                }
                let _ = tx.send_all(work.messages(&notes)).await?;
                work.end(mark).await
            })
            .await
        }

        fn relay(&self, post: &Post) -> RelayHandle {
            relay::start(self.0.clone(), post)
        }

        async fn left_over(&self, round: &str) -> Result<Vec<LeftOver>, String> {
            let rows = sqlx::query_as($words.left_over)
                .persistent(false)
                .fetch_all(self.0.pool());
            let rows: Vec<(Vec<u8>, bool)> = rows.await.map_err(|error| error.to_string())?;
            let left = rows.into_iter().filter_map(|(payload, is_dead)| {
                let note: Note = serde_json::from_slice(&payload).ok()?;
                (note.key.round == round).then_some(LeftOver { note, is_dead })
            });
            Ok(left.collect())
        }

        async fn settle_dead(&self, note: &Note, how: Settled) -> Result<bool, StoreError> {
            let outbox = Outbox::new(self.0.clone());
            let letters = outbox.dead_letters(1000, None).await?;
            let mut is_settled = false;
            for letter in letters {
                if serde_json::from_slice::<Note>(&letter.payload).is_ok_and(|it| it == *note) {
                    is_settled |= match how {
                        Settled::Redriven => outbox.redrive(letter.id).await?,
                        Settled::Discarded => outbox.cancel(letter.id).await? == Cancelled::Cancelled,
                    };
                }
            }
            Ok(is_settled)
        }

        async fn in_steps(
            idem: &Idempotency<$store>,
            id: RequestIdentity,
            work: Work,
            world: PathBuf,
        ) -> Result<Reply<String>, Error> {
            let (key, times, pauses) = (work.key.clone(), work.times, work.pauses);
            let idem = idem.with_workflow("effects");
            let recorded = Recorded { key, times, pauses };
            idem.run_steps(id, &recorded, |steps| Self::steps(work, world, steps))
                .await
        }

        fn completer(idem: &Idempotency<$store>, world: PathBuf) -> Option<Completer> {
            let completer = idem
                .completer()
                .handler("effects", move |recorded: Recorded, steps| {
                    Self::steps(Work::from(recorded), world.clone(), steps)
                });
            let often = Duration::from_millis(100);
            let completer = completer.every(often).pauses(often, often).max_tries(1_000);
            Some(completer.spawn().expect("there is a runtime"))
        }

        async fn misuse(&self, misuse: Misuse, stray: &str, random: &mut Rng) -> Option<String> {
            let pool = self.0.pool();
            if let Misuse::Begin = misuse {
                if random.bool() {
                    let mut connection = pool.acquire().await.ok()?;
                    let _ = connection.begin().now_or_never();
                    return Some("a `begin` that was polled once".to_owned());
                }
                let given_up = timeout(Duration::from_micros(random.u64(..2000)), pool.begin()).await;
                return given_up.err().map(|_| "a `begin` that was given up".to_owned());
            }
            if let Misuse::Exhaust = misuse {
                let mut all = Vec::new();
                while let Ok(Ok(connection)) = timeout(Duration::from_millis(20), pool.acquire()).await {
                    all.push(connection);
                }
                tokio::time::sleep(Duration::from_millis(random.u64(20..250))).await;
                return Some(format!(
                    "{} connections, all that were free, for a while",
                    all.len()
                ));
            }
            let statements = match misuse {
                Misuse::Left => $words.left,
                _ => $words.settings,
            };
            let sql = random.choice(statements)?.replace("{stray}", stray);
            let mut connection = pool.acquire().await.ok()?;
            let _ = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                .execute(&mut *connection)
                .await;
            Some(sql)
        }

        async fn prepare(&self) {
            sqlx::raw_sql($words.prepare)
                .execute(self.0.pool())
                .await
                .expect("the table can be made");
        }

        async fn effects(&self, round: &str) -> Vec<(String, String)> {
            let effects = sqlx::query_as(SELECT).bind(round).fetch_all(self.0.pool()).await;
            effects.expect("the effects can be read")
        }
    };
}

#[derive(Clone)]
pub struct Sqlite(SqliteStore);

impl Backend for Sqlite {
    type Store = SqliteStore;
    const TRANSACTIONS: bool = true;

    async fn open(url: &str, pool: Pool) -> Self {
        // Some applications take the pool of the store, and some bring their own.
        if pool == Pool::Own || fastrand::bool() {
            return Self(SqliteStore::open(url).await.expect("the file can be opened"));
        }
        let options = SqliteConnectOptions::new().filename(url);
        let pool = SqlitePoolOptions::new().max_connections(6);
        let pool = pool.connect_lazy_with(options.journal_mode(SqliteJournalMode::Wal));
        let store = SqliteStore::from_pool(pool).await;
        Self(store.expect("the file can be opened"))
    }

    fn store(&self) -> SqliteStore {
        self.0.clone()
    }

    on_database!(SqliteStore, SQLITE);
}

#[derive(Clone)]
pub struct Postgres(PostgresStore);

impl Backend for Postgres {
    type Store = PostgresStore;
    const TRANSACTIONS: bool = true;

    async fn open(url: &str, pool: Pool) -> Self {
        let mut options = PostgresStore::options().patience(PATIENCE);
        if pool == Pool::Shared {
            options = options.without_prepared_statements();
        }
        let pool = PgPoolOptions::new().max_connections(6).acquire_timeout(PATIENCE);
        let pool = pool.connect_lazy(url).expect("it is a URL");
        // While the server is away, opening fails; a service would be started again.
        for _ in 0..100 {
            if let Ok(store) = options.clone().from_pool(pool.clone()).await {
                return Self(store);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the store cannot be opened")
    }

    fn store(&self) -> PostgresStore {
        self.0.clone()
    }

    on_database!(PostgresStore, POSTGRES);
}

#[derive(Clone)]
pub struct Redis(RedisStore);

impl Backend for Redis {
    type Store = RedisStore;
    const TRANSACTIONS: bool = false;

    async fn open(url: &str, _: Pool) -> Self {
        for _ in 0..100 {
            if let Ok(store) = RedisStore::options().patience(PATIENCE).open(url).await {
                return Self(store);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the store cannot be opened")
    }

    fn store(&self) -> RedisStore {
        self.0.clone()
    }

    async fn in_transaction(
        _: &Idempotency<RedisStore>,
        _: RequestIdentity,
        _: InTransaction,
    ) -> Result<Reply<String>, Error> {
        unreachable!("Redis has no transactions that work could run in")
    }

    async fn sending(_: &Idempotency<RedisStore>, _: RequestIdentity, _: Sending) -> Result<Reply<String>, Error> {
        unreachable!("Redis has no outbox")
    }

    fn relay(&self, _: &Post) -> RelayHandle {
        unreachable!("Redis has no outbox")
    }

    async fn left_over(&self, _: &str) -> Result<Vec<LeftOver>, String> {
        unreachable!("Redis has no outbox")
    }

    async fn settle_dead(&self, _: &Note, _: Settled) -> Result<bool, StoreError> {
        unreachable!("Redis has no outbox")
    }

    async fn in_steps(
        _: &Idempotency<RedisStore>,
        _: RequestIdentity,
        _: Work,
        _: PathBuf,
    ) -> Result<Reply<String>, Error> {
        unreachable!("Redis keeps no steps")
    }

    fn completer(_: &Idempotency<RedisStore>, _: PathBuf) -> Option<Completer> {
        None
    }

    async fn misuse(&self, _: Misuse, _: &str, _: &mut Rng) -> Option<String> {
        unreachable!("nobody shares our connection")
    }

    async fn prepare(&self) {}

    async fn effects(&self, _: &str) -> Vec<(String, String)> {
        Vec::new()
    }
}
