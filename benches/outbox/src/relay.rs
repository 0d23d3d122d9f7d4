//! Our relay, with a backlog.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay, Target, TargetOptions};
use oneflight::store::outbox::OutboxStore;
use oneflight_postgres::PostgresStore;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::sleep;

use crate::Failure;
use crate::curve::{Curve, watch};
use crate::postgres::Schema;

/// A target that counts, and does nothing else.
struct Counts {
    arrived: Arc<AtomicUsize>,
}

impl Target for Counts {
    async fn deliver(&self, _delivery: Delivery) -> Result<(), DeliveryError> {
        self.arrived.fetch_add(1, SeqCst);
        Ok(())
    }

    async fn deliver_batch(&self, deliveries: Vec<Delivery>) -> Option<Vec<Result<(), DeliveryError>>> {
        self.arrived.fetch_add(deliveries.len(), SeqCst);
        Some(deliveries.iter().map(|_| Ok(())).collect())
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

/// Sends a backlog, and has a relay deliver it to a target that does nothing. With `keys` ordering keys, or without. With
/// a snapshot that is held open, that again and again until the snapshot is so old; what is returned is how the last one went.
pub async fn drain(
    schema: &Schema,
    backlog: usize,
    keys: Option<usize>,
    held: Option<Duration>,
) -> Result<Curve, Failure> {
    let store = PostgresStore::from_pool(schema.pool(8)).await?;
    let snapshot = match held {
        Some(_) => Some(hold(store.pool()).await?),
        None => None,
    };
    let opened = Instant::now();
    let mut curve = round(&store, backlog, keys, held.map(|_| opened)).await?;
    while held.is_some_and(|age| opened.elapsed() < age) {
        curve = round(&store, backlog, keys, Some(opened)).await?;
    }
    let dead =
        "SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = current_schema()";
    sleep(Duration::from_secs(1)).await;
    println!("  dead rows in all tables: {}", number(store.pool(), dead).await?);
    drop(snapshot);
    give_back(&store).await?;
    Ok(curve)
}

async fn round(
    store: &PostgresStore,
    backlog: usize,
    keys: Option<usize>,
    held: Option<Instant>,
) -> Result<Curve, Failure> {
    let outbox = Outbox::new(store.clone());
    let begun = Instant::now();
    for batch in 0..backlog / 1000 {
        let messages = (0..1000).map(|number| {
            let message = Message::text("bench", "a payload of some forty bytes, as ids are");
            match keys {
                Some(keys) => message.ordering_key(format!("key-{}", (batch * 1000 + number) % keys)),
                None => message,
            }
        });
        let mut tx = store.pool().begin().await?;
        outbox.send_all(&mut tx, messages).await?;
        tx.commit().await?;
    }
    println!("  sent at {:.0}/s", backlog as f64 / begun.elapsed().as_secs_f64());
    let arrived = Arc::new(AtomicUsize::new(0));
    let options = TargetOptions::new().batch(500).in_flight(4000);
    let counts = Counts {
        arrived: Arc::clone(&arrived),
    };
    let relay = Relay::builder(store.clone())
        .target_with("*", counts, options)
        .build()?
        .spawn();
    let what = format!(
        "relay, {}{}",
        keys.map_or_else(|| "unordered".to_owned(), |keys| format!("{keys} ordering keys")),
        held.map_or_else(String::new, |opened| format!(
            ", snapshot held for {} s",
            opened.elapsed().as_secs()
        ))
    );
    let curve = watch(what, backlog, &arrived).await;
    relay.stop().await;
    Ok(curve)
}

/// Tells how long it takes until the room of what was delivered is free, whatever is not in the current partition.
async fn give_back(store: &PostgresStore) -> Result<(), Failure> {
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
