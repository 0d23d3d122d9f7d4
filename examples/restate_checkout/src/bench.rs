//! How long one order takes: in steps over SQLite, in steps over PostgreSQL, and through Restate. Run by `bin/restate bench`.
//!
//! One order at a time, each way in turn, so that what the machine does meanwhile hits all of them. Beside them stands the order without
//! any protection: the three calls and the row, which is what the others add to.

#[expect(dead_code, reason = "what only the service needs")]
mod order;
#[expect(dead_code, reason = "what only the service needs")]
mod restate;
#[expect(dead_code, reason = "what only the service needs")]
mod steps;

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use oneflight::idempotency::{Steps, Stopped};
use oneflight::{Idempotency, RequestIdentity, Scope};
use oneflight_postgres::PostgresStore;
use oneflight_sqlite::SqliteStore;

use crate::order::{Intent, Order, Outside, Placed};
use crate::restate::Restate;
use crate::steps::InSteps;

/// So many orders in each way are not counted: connections are opened, and caches filled.
const WARM_UP: u32 = 30;

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    db: PathBuf,
    #[arg(long)]
    outside: String,
    #[arg(long)]
    restate: String,
    #[arg(long)]
    postgres: String,
    /// How many orders are measured in each way
    #[arg(long, default_value_t = 500)]
    orders: u32,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let client = reqwest::Client::new();
    let restate = Restate {
        ingress: args.restate,
        client: client.clone(),
    };
    let outside = Outside {
        url: args.outside,
        client,
    };
    let sqlite = SqliteStore::open(&args.db).await?;
    order::create(sqlite.pool()).await?;
    let postgres = PostgresStore::open(&args.postgres).await?;
    sqlx::query("CREATE TABLE orders (id BIGSERIAL PRIMARY KEY, key TEXT NOT NULL UNIQUE, item TEXT NOT NULL)")
        .execute(postgres.pool())
        .await?;
    let pool = sqlite.pool().clone();
    let over_sqlite = InSteps::new(&Idempotency::builder(sqlite).build(), outside.clone());
    let over_postgres = Idempotency::builder(postgres).build();

    let mut times = [const { Vec::<Duration>::new() }; 4];
    for at in 0..WARM_UP + args.orders {
        let mut took = Vec::new();
        let mut began = Instant::now();
        let mut lap = || took.push(std::mem::replace(&mut began, Instant::now()).elapsed());

        unprotected(&pool, &outside, intent("bare", at)).await?;
        lap();
        over_sqlite
            .place(identity("sqlite", at)?, &intent("sqlite", at))
            .await?;
        lap();
        let (to, own) = (outside.clone(), intent("postgres", at));
        let placed = over_postgres.run_steps(identity("postgres", at)?, &own.clone(), |steps| {
            in_steps(to, own, steps)
        });
        let _ = placed.await?;
        lap();
        let handed = restate.place(&format!("order-{at}"), &intent("restate", at)).await;
        handed.map_err(|reason| format!("{reason:?}"))?;
        lap();
        if at >= WARM_UP {
            times.iter_mut().zip(took).for_each(|(times, took)| times.push(took));
        }
    }

    println!("{} orders in each way, one at a time, in turn\n", args.orders);
    println!("{:<40}{:>10}{:>10}{:>10}", "one order, ms", "p50", "p90", "p99");
    let names = [
        "without protection",
        "in steps, SQLite",
        "in steps, PostgreSQL",
        "through Restate",
    ];
    for (name, mut times) in names.into_iter().zip(times) {
        times.sort_unstable();
        let at = |percent: usize| {
            times
                .get(times.len() * percent / 100)
                .map_or(0.0, Duration::as_secs_f64)
                * 1_000.0
        };
        println!("{name:<40}{:>10.2}{:>10.2}{:>10.2}", at(50), at(90), at(99));
    }
    Ok(())
}

fn intent(way: &str, at: u32) -> Intent {
    let order = Order {
        item: format!("tea {at}"),
    };
    Intent::new(order, |step| format!("{way} {step} {at}"))
}

fn identity(way: &'static str, at: u32) -> Result<RequestIdentity, Box<dyn Error>> {
    let id = RequestIdentity::new(Scope::new("shop").route(way), format!("order-{at}"))?;
    Ok(id.with_fingerprint(format!("tea {at}")))
}

async fn unprotected(pool: &sqlx::SqlitePool, outside: &Outside, intent: Intent) -> Result<(), Box<dyn Error>> {
    let Intent { order, keys } = intent.clone();
    outside.ask("reserve", keys.reserve, order.clone()).await?;
    outside.ask("charge", keys.charge, order.clone()).await?;
    order::book(&mut *pool.acquire().await?, intent).await?;
    outside.ask("mail", keys.mail, order).await?;
    Ok(())
}

/// As `steps` has it over SQLite.
async fn in_steps(outside: Outside, intent: Intent, steps: Steps<PostgresStore>) -> Result<Placed, Stopped> {
    let Intent { order, keys } = intent;
    steps
        .run("reserve", |_| outside.ask("reserve", keys.reserve, order.clone()))
        .await?;
    steps
        .run("charge", |_| outside.ask("charge", keys.charge, order.clone()))
        .await?;
    let item = order.item.clone();
    let booked = steps.run_in_tx("book", |mut tx| async move {
        let book = "INSERT INTO orders (key, item) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET key = excluded.key RETURNING id";
        Ok(sqlx::query_scalar(book)
            .bind(keys.book)
            .bind(item)
            .fetch_one(&mut *tx)
            .await?)
    });
    let placed = booked.await?;
    steps.run("mail", |_| outside.ask("mail", keys.mail, order)).await?;
    Ok(Placed { order: placed })
}
