//! What the outbox costs in PostgreSQL: the program behind `bin/outbox`.
//!
//! Everything runs on a server of its own, with its disk waited for, on the machine that the relay runs on. Peers run in
//! the same run. A message that is lost or out of order is a failure; a target that is missed is a figure.

#[path = "../../../tests/common/postgres.rs"]
mod postgres;

mod curve;
mod peers;
mod picture;
mod relay;
mod sending;

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use postgres::Server;

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
    /// How old, in seconds, a snapshot that is held open becomes while backlogs are delivered.
    #[arg(long, default_value_t = 300)]
    age: u64,
    /// Only the parts whose names begin like this: backlog, held, sending, latency.
    #[arg(long, default_value = "")]
    only: String,
    /// Where to draw how fast the backlogs went over time.
    #[arg(long)]
    picture: Option<PathBuf>,
}

impl Cli {
    fn wants(&self, part: &str) -> bool {
        part.starts_with(&self.only)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let cli = Cli::parse();
    let server = Server::start("-c shared_buffers=512MB -c max_wal_size=8GB -c checkpoint_timeout=30min");
    println!("backlogs of {} messages, {} cores", cli.backlog, cores());
    let mut curves = Vec::new();
    let schema = async || server.schema().await;
    if cli.wants("backlog") {
        let bare = peers::bare(&schema().await, cli.backlog, false).await?;
        let unordered = relay::drain(&schema().await, cli.backlog, None).await?;
        // A tenth of it: it would take as long as all others together.
        let graphile = peers::graphile(&schema().await, cli.backlog / 10).await?;
        let ordered = relay::drain(&schema().await, cli.backlog, Some(10_000)).await?;
        println!("relay, unordered / bare loop: {:.2} ×", unordered.rate / bare.rate);
        println!(
            "relay, unordered / graphile_worker: {:.2} ×",
            unordered.rate / graphile.rate
        );
        curves.extend([bare, unordered, ordered, graphile]);
    }
    if cli.wants("held") {
        let age = Duration::from_secs(cli.age);
        for keys in [None, Some(10_000)] {
            let (without, held) = relay::drain_held(&schema().await, cli.backlog, keys, age).await?;
            println!("{} / not: {:.2} ×", held.name, held.rate / without.rate);
            curves.push(held);
        }
        let bare = peers::bare(&schema().await, cli.backlog, false).await?;
        let held = peers::bare(&schema().await, cli.backlog, true).await?;
        println!("{} / not: {:.2} ×", held.name, held.rate / bare.rate);
        curves.push(held);
    }
    if cli.wants("sending") {
        sending::commits(&schema().await, cli.seconds).await?;
    }
    if cli.wants("latency") {
        sending::latency(&schema().await, true).await?;
        sending::latency(&schema().await, false).await?;
    }
    if let Some(path) = &cli.picture {
        picture::draw(path, &curves)?;
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, Into::into)
}
