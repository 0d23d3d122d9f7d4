//! What the outbox costs in PostgreSQL: the program behind `bin/outbox`.
//!
//! Everything runs on a server of its own, with its disk waited for, on the machine that the relay runs on. Peers run in
//! the same run. A message that is lost or out of order is a failure; a target that is missed is a figure.

#[path = "../../../common/postgres.rs"]
mod postgres;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use clap::Parser;
use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay, Target, TargetOptions};
use oneflight::store::outbox::OutboxStore;
use oneflight_postgres::PostgresStore;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::sleep;

use postgres::{Schema, Server};

type Failure = Box<dyn Error + Send + Sync>;

/// Measures what the outbox costs in PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "outbox")]
struct Cli {
    /// How many messages a backlog has.
    #[arg(long, default_value_t = 1_000_000)]
    backlog: usize,
    /// How many seconds each part with clients runs.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

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

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let cli = Cli::parse();
    let server = Server::start("-c shared_buffers=512MB -c max_wal_size=8GB -c checkpoint_timeout=30min");
    println!(
        "backlog of {} messages, {} s a part, {} cores",
        cli.backlog,
        cli.seconds,
        cores()
    );
    let bare = bare_loop(&server.schema().await, cli.backlog, false).await?;
    let unordered = drain(&server.schema().await, cli.backlog, None, false).await?;
    println!("unordered against the bare loop: {:.2} ×", unordered / bare);
    let ordered = drain(&server.schema().await, cli.backlog, Some(10_000), false).await?;
    let held = drain(&server.schema().await, cli.backlog, Some(10_000), true).await?;
    println!("ordered, with a snapshot held against without: {:.2} ×", held / ordered);
    let held = drain(&server.schema().await, cli.backlog, None, true).await?;
    println!(
        "unordered, with a snapshot held against without: {:.2} ×",
        held / unordered
    );
    let held = bare_loop(&server.schema().await, cli.backlog, true).await?;
    println!("bare loop, with a snapshot held against without: {:.2} ×", held / bare);
    commits(&server.schema().await, cli.seconds).await?;
    latency(&server.schema().await, true).await?;
    latency(&server.schema().await, false).await?;
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, Into::into)
}

async fn hold(pool: &PgPool) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, Failure> {
    let mut snapshot = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    sqlx::query("SELECT txid_current_snapshot()")
        .execute(&mut *snapshot)
        .await?;
    Ok(snapshot)
}

/// Tells how fast a backlog went, in all and in its first and last tenth.
async fn watch(what: &str, backlog: usize, arrived: &AtomicUsize) -> f64 {
    let begun = Instant::now();
    let (mut first, mut ninth) = (None, None);
    loop {
        let now = arrived.load(SeqCst);
        if first.is_none() && now >= backlog / 10 {
            first = Some(begun.elapsed());
        }
        if ninth.is_none() && now >= backlog / 10 * 9 {
            ninth = Some(begun.elapsed());
        }
        if now >= backlog {
            break;
        }
        sleep(Duration::from_millis(2)).await;
    }
    let (all, first) = (begun.elapsed(), first.unwrap_or_default());
    let last = all.saturating_sub(ninth.unwrap_or_default());
    let rate = backlog as f64 / all.as_secs_f64();
    println!(
        "{what}: {rate:.0}/s; the last tenth {:.2} × as fast as the first; {} MiB resident",
        first.as_secs_f64() / last.as_secs_f64(),
        resident() / 1024
    );
    rate
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

async fn drain(schema: &Schema, backlog: usize, keys: Option<usize>, held: bool) -> Result<f64, Failure> {
    let store = PostgresStore::from_pool(schema.pool(8)).await?;
    let snapshot = if held { Some(hold(store.pool()).await?) } else { None };
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
        if held { ", snapshot held" } else { "" }
    );
    let rate = watch(&what, backlog, &arrived).await;
    relay.stop().await;
    let dead =
        "SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = current_schema()";
    sleep(Duration::from_secs(1)).await;
    println!("  dead rows in all tables: {}", number(store.pool(), dead).await?);
    drop(snapshot);
    // Whatever is not in the current partition.
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
    Ok(rate)
}

async fn number(pool: &PgPool, sql: &str) -> Result<i64, Failure> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await?)
}

/// What is to be beaten: rows that are taken and deleted, by two connections.
async fn bare_loop(schema: &Schema, backlog: usize, held: bool) -> Result<f64, Failure> {
    let pool = schema.pool(4);
    sqlx::raw_sql("CREATE TABLE jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload text NOT NULL)")
        .execute(&pool)
        .await?;
    sqlx::query(
        "INSERT INTO jobs (payload) SELECT 'a payload of some forty bytes, as ids are' FROM generate_series(1, $1)",
    )
    .bind(i64::try_from(backlog)?)
    .execute(&pool)
    .await?;
    let snapshot = if held { Some(hold(&pool).await?) } else { None };
    let arrived = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let (pool, arrived) = (pool.clone(), Arc::clone(&arrived));
        tokio::spawn(async move {
            let take = "DELETE FROM jobs WHERE id IN (
                            SELECT id FROM jobs ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED) RETURNING id, payload";
            loop {
                let rows = sqlx::query(take).fetch_all(&pool).await.map_or(0, |rows| rows.len());
                if rows == 0 {
                    return;
                }
                arrived.fetch_add(rows, SeqCst);
            }
        });
    }
    let what = if held { "bare loop, snapshot held" } else { "bare loop" };
    let rate = watch(what, backlog, &arrived).await;
    drop(snapshot);
    Ok(rate)
}

/// Commits of eight clients, with a message and without one, in turns.
async fn commits(schema: &Schema, seconds: u64) -> Result<(), Failure> {
    let store = PostgresStore::from_pool(schema.pool(10)).await?;
    sqlx::raw_sql("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)")
        .execute(store.pool())
        .await?;
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..6 {
        let with = round % 2 == 1;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..8).map(|_| {
            let (store, stop, done) = (store.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let outbox = Outbox::new(store.clone());
                while !stop.load(SeqCst) {
                    let mut tx = store.pool().begin().await?;
                    sqlx::query("INSERT INTO orders (item) VALUES ('tea')")
                        .execute(&mut *tx)
                        .await?;
                    if with {
                        let _ = outbox.send(&mut tx, Message::text("mail.receipt", "order 7")).await?;
                    }
                    tx.commit().await?;
                    done.fetch_add(1, SeqCst);
                }
                Ok::<(), Failure>(())
            })
        });
        let clients: Vec<_> = clients.collect();
        sleep(Duration::from_secs(seconds)).await;
        stop.store(true, SeqCst);
        for client in clients {
            client.await??;
        }
        rates[usize::from(with)].push(done.load(SeqCst) as f64 / seconds as f64);
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let [without, with] = &mut rates;
    let (without, with) = (median(without), median(with));
    println!(
        "commits of 8 clients: {without:.0}/s without a message, {with:.0}/s with one: {:.2} ×",
        with / without
    );
    Ok(())
}

/// From the commit to the target, on an idle system.
async fn latency(schema: &Schema, same_process: bool) -> Result<(), Failure> {
    let store = PostgresStore::from_pool(schema.pool(4)).await?;
    // Another store has another bell, as another process has.
    let sender = match same_process {
        true => store.clone(),
        false => PostgresStore::from_pool(schema.pool(4)).await?,
    };
    let (arrives, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let target = move |_: Delivery| {
        let _ = arrives.send(Instant::now());
        async { Ok::<(), DeliveryError>(()) }
    };
    let relay = Relay::builder(store).target("*", target).build()?.spawn();
    sleep(Duration::from_secs(2)).await;
    let outbox = Outbox::new(sender.clone());
    let mut times = Vec::new();
    for _ in 0..if same_process { 300 } else { 30 } {
        let mut tx = sender.pool().begin().await?;
        let _ = outbox.send(&mut tx, Message::text("bench", "x")).await?;
        tx.commit().await?;
        let committed = Instant::now();
        outbox.wake();
        let arrived = arrivals.recv().await.ok_or("the relay ended")?;
        times.push(arrived.saturating_duration_since(committed));
        sleep(Duration::from_millis(if same_process { 20 } else { 300 })).await;
    }
    times.sort();
    let of = if same_process {
        "in the process that committed"
    } else {
        "across processes"
    };
    println!(
        "commit to target {of}: p50 {:?}, p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    relay.stop().await;
    Ok(())
}
