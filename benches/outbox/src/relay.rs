//! Our relay, with a backlog.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay, RelayHandle, Target, TargetOptions};
use oneflight::store::outbox::OutboxStore;
use oneflight_postgres::PostgresStore;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::Failure;
use crate::curve::{self, Curve};
use crate::postgres::Schema;

/// Longer than it takes to send a backlog.
const LONG: Duration = Duration::from_secs(600);

/// A target that counts, as long as its gate is open, and does nothing else.
struct Counts {
    arrived: Arc<AtomicUsize>,
    gate: watch::Receiver<bool>,
}

impl Counts {
    async fn take(&self, messages: usize) -> Result<(), DeliveryError> {
        let mut gate = self.gate.clone();
        gate.wait_for(|is_open| *is_open).await.map_err(DeliveryError::retry)?;
        self.arrived.fetch_add(messages, SeqCst);
        Ok(())
    }
}

impl Target for Counts {
    async fn deliver(&self, _delivery: Delivery) -> Result<(), DeliveryError> {
        self.take(1).await
    }

    async fn deliver_batch(&self, deliveries: Vec<Delivery>) -> Option<Vec<Result<(), DeliveryError>>> {
        let taken = self.take(deliveries.len()).await;
        taken.ok().map(|()| deliveries.iter().map(|_| Ok(())).collect())
    }
}

/// Opens a snapshot that sees nothing of what is written from now on.
pub async fn hold(pool: &PgPool) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, Failure> {
    let mut snapshot = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    sqlx::query("SELECT txid_current_snapshot()")
        .execute(&mut *snapshot)
        .await?;
    Ok(snapshot)
}

/// A relay, and the backlogs that it is given: each is sent while its target takes nothing.
struct Backlogs {
    store: PostgresStore,
    size: usize,
    keys: Option<usize>,
    arrived: Arc<AtomicUsize>,
    gate: watch::Sender<bool>,
    relay: RelayHandle,
}

/// Sends a backlog, and has a relay deliver it. With `keys` ordering keys, or without.
pub async fn drain(schema: &Schema, size: usize, keys: Option<usize>) -> Result<Curve, Failure> {
    let backlogs = Backlogs::new(schema, size, keys).await?;
    let curve = backlogs.next("").await?;
    backlogs.end().await?;
    Ok(curve)
}

/// The same again and again by one relay: twice, and then with a snapshot that is held open, until it is so old. Returns how
/// the last one went without it, and how the last one of all.
pub async fn drain_held(
    schema: &Schema,
    size: usize,
    keys: Option<usize>,
    age: Duration,
) -> Result<(Curve, Curve), Failure> {
    let backlogs = Backlogs::new(schema, size, keys).await?;
    backlogs.next("").await?;
    let without = backlogs.next(", once more").await?;
    let snapshot = hold(backlogs.store.pool()).await?;
    let opened = Instant::now();
    let held = loop {
        let curve = backlogs.next(", snapshot held").await?;
        println!("  the snapshot is {} s old", opened.elapsed().as_secs());
        if opened.elapsed() >= age {
            break curve;
        }
    };
    drop(snapshot);
    backlogs.end().await?;
    Ok((without, held))
}

impl Backlogs {
    async fn new(schema: &Schema, size: usize, keys: Option<usize>) -> Result<Self, Failure> {
        let store = PostgresStore::from_pool(schema.pool(8)).await?;
        let (gate, open) = watch::channel(false);
        let arrived = Arc::new(AtomicUsize::new(0));
        let counts = Counts {
            arrived: Arc::clone(&arrived),
            gate: open,
        };
        let options = TargetOptions::new().batch(500).in_flight(4000).time_limit(LONG);
        let relay = Relay::builder(store.clone())
            .target_with("*", counts, options)
            .build()?
            .spawn();
        Ok(Self {
            store,
            size,
            keys,
            arrived,
            gate,
            relay,
        })
    }

    /// Sends one, and tells how it went.
    async fn next(&self, how: &str) -> Result<Curve, Failure> {
        self.gate.send_replace(false);
        self.arrived.store(0, SeqCst);
        let outbox = Outbox::new(self.store.clone());
        let begun = Instant::now();
        for batch in 0..self.size / 1000 {
            let messages = (0..1000).map(|number| {
                let message = Message::text("bench", "a payload of some forty bytes, as ids are");
                match self.keys {
                    Some(keys) => message.ordering_key(format!("key-{}", (batch * 1000 + number) % keys)),
                    None => message,
                }
            });
            let mut tx = self.store.pool().begin().await?;
            outbox.send_all(&mut tx, messages).await?;
            tx.commit().await?;
        }
        println!("  sent at {:.0}/s", self.size as f64 / begun.elapsed().as_secs_f64());
        let order = match self.keys {
            Some(keys) => format!("{keys} ordering keys"),
            None => "unordered".to_owned(),
        };
        self.gate.send_replace(true);
        Ok(curve::watch(format!("relay, {order}{how}"), self.size, &self.arrived).await)
    }

    async fn end(self) -> Result<(), Failure> {
        self.relay.stop().await;
        let dead =
            "SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = current_schema()";
        sleep(Duration::from_secs(1)).await;
        println!("  dead rows in all tables: {}", number(self.store.pool(), dead).await?);
        give_back(&self.store).await
    }
}

/// Tells how long it takes to drop what was delivered; and until its room is free, with the look whether all have ended,
/// whatever is not in the current partition.
async fn give_back(store: &PostgresStore) -> Result<(), Failure> {
    let mut dropping = store.pool().begin().await?;
    let begun = Instant::now();
    sqlx::query("TRUNCATE oneflight_messages")
        .execute(&mut *dropping)
        .await?;
    println!("  dropped in {:?}, and rolled back", begun.elapsed());
    dropping.rollback().await?;
    let begun = Instant::now();
    let mut rounds = 0;
    while number(
        store.pool(),
        "SELECT count(*) FROM (SELECT FROM oneflight_messages LIMIT 1) m",
    )
    .await?
        > 0
        && rounds < 4
    {
        let round = Instant::now();
        store.keep_house().await?;
        rounds += 1;
        println!("  house kept in {:?}", round.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    println!("  the room is free after {:?}", begun.elapsed());
    Ok(())
}

async fn number(pool: &PgPool, sql: &str) -> Result<i64, Failure> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await?)
}
