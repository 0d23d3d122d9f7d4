//! What a message adds to a commit, and how long it takes to arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use oneflight::outbox::{Delivery, DeliveryError, Message, Outbox, Relay};
use oneflight_postgres::PostgresStore;
use tokio::time::{interval_at, sleep};

use crate::Failure;
use crate::postgres::Schema;

const CLIENTS: u32 = 8;
/// How many transactions a second are begun where a rate is given.
const OFFERED: u32 = 1_000;

/// Commits of eight clients, with a message and without one, in turns: first at the rate that is offered, then as fast as they
/// come.
pub async fn commits(schema: &Schema, seconds: u64) -> Result<(), Failure> {
    let store = PostgresStore::from_pool(schema.pool(10)).await?;
    sqlx::raw_sql("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)")
        .execute(store.pool())
        .await?;
    for (pace, of) in [
        (Some(Duration::from_secs(1) * CLIENTS / OFFERED), "offered 1,000/s"),
        (None, "as fast as they come"),
    ] {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..6 {
            let with = round % 2 == 1;
            rates[usize::from(with)].push(rate(&store, with, pace, seconds).await?);
        }
        let median = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let [without, with] = &mut rates;
        let (without, with) = (median(without), median(with));
        println!(
            "commits of {CLIENTS} clients, {of}: {without:.0}/s without a message, {with:.0}/s with one: {:.2} ×",
            with / without
        );
    }
    Ok(())
}

/// How many transactions a second are committed, each begun when it is time, or at once if that has passed.
async fn rate(store: &PostgresStore, with: bool, pace: Option<Duration>, seconds: u64) -> Result<f64, Failure> {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = (0..CLIENTS).map(|client| {
        let (store, stop, done) = (store.clone(), Arc::clone(&stop), Arc::clone(&done));
        let begin = tokio::time::Instant::now() + pace.map_or(Duration::ZERO, |pace| pace * client / CLIENTS);
        tokio::spawn(async move {
            let outbox = Outbox::new(store.clone());
            let mut ticks = pace.map(|pace| interval_at(begin, pace));
            while !stop.load(SeqCst) {
                if let Some(ticks) = &mut ticks {
                    ticks.tick().await;
                }
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
    Ok(done.load(SeqCst) as f64 / seconds as f64)
}

/// From the commit to the target, on an idle system.
pub async fn latency(schema: &Schema, same_process: bool) -> Result<(), Failure> {
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
    for _ in 0..300 {
        let mut tx = sender.pool().begin().await?;
        let _ = outbox.send(&mut tx, Message::text("bench", "x")).await?;
        tx.commit().await?;
        let committed = Instant::now();
        outbox.wake();
        let arrived = arrivals.recv().await.ok_or("the relay ended")?;
        times.push(arrived.saturating_duration_since(committed));
        sleep(Duration::from_millis(if same_process { 20 } else { 100 })).await;
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
