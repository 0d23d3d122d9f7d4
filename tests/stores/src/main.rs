//! What the stores cost: the program behind `bin/stores`.
//!
//! Each part measures one thing on servers or files of its own, and hands back [`figures`]. Whatever is a time is a ratio
//! of two ways of doing the same, taken in turns in the same run. This file knows which parts there are, and prints.

#[path = "../../common/postgres.rs"]
mod postgres;
#[path = "../../common/proxy.rs"]
mod proxy;
#[path = "../../common/redis.rs"]
mod redis_server;

mod burst;
mod by_hand;
mod curves;
mod figures;
mod fill;
mod machine;
mod ours;
mod picture;
mod purge;
mod racy;
mod redis_calls;
mod rounds;
mod size;
mod storm;
mod transactions;
mod trips;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::figures::{Figure, Written};

/// The page about it.
const PAGE: &str = "docs/stores.md";

type Failure = Box<dyn Error + Send + Sync>;

/// Measures what the stores cost.
#[derive(Debug, Parser)]
#[command(name = "stores")]
struct Cli {
    /// Fewer rounds and records: a look, not a result.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// Put the table into docs/stores.md.
    #[arg(long)]
    write: bool,
    /// Only calls a second against clients, on each store: prints a table, draws it into docs/benchmarks, and puts both into docs/stores.md.
    #[arg(long, conflicts_with_all = ["only", "write"])]
    curves: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Round trips, counted on the wire or by the server.
    Trips,
    /// Against "get, work, set" on the same store.
    Racy,
    /// The same on Redis, with the processor time behind it.
    Redis,
    /// SQLite, against the bare transaction.
    Transactions,
    /// Four processes, and every order sent a thousand times.
    Storm,
    /// Many callers over few keys on a small pool.
    Burst,
    /// Claims among many records and among few.
    Size,
    /// Claims while what has expired is deleted.
    Purge,
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Full,
    Quick,
}

impl Extent {
    /// One of two numbers.
    fn of<N>(self, full: N, quick: N) -> N {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let cli = Cli::parse();
    let extent = match cli.quick {
        true => Extent::Quick,
        false => Extent::Full,
    };
    if cli.write && (cli.quick || !cli.only.is_empty()) {
        return Err("only a whole run, and not a quick one, is written down: leave --quick and --only out".into());
    }

    let load = machine::load();
    if cli.curves {
        let all = curves::measure(extent).await?;
        let text = format!("{}\n{}", curves::table(&all), machine::describe(&load).await?);
        println!("{text}");
        if extent == Extent::Full {
            let picture = picture::draw(Path::new("docs/benchmarks"), &all)?;
            figures::write(Path::new(PAGE), Written::Curves, &format!("{picture}\n{text}"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut figures = Vec::new();
    for part in Part::value_variants() {
        if cli.only.is_empty() || cli.only.contains(part) {
            eprintln!("measuring: {part:?}");
            figures.extend(measure(*part, extent).await?);
        }
    }

    let machine = machine::describe(&load).await?;
    let text = format!("{}\n{machine}", figures::table(&figures));
    println!("{text}");
    if cli.write {
        figures::write(Path::new(PAGE), Written::Write, &text)?;
    }
    let met = figures.iter().filter(|figure| figure.is_met()).count();
    println!("stores: {met} of {} targets met", figures.len());
    Ok(ExitCode::SUCCESS)
}

async fn measure(part: Part, extent: Extent) -> Result<Vec<Figure>, Failure> {
    match part {
        Part::Trips => trips::measure().await,
        Part::Racy => racy::measure(extent).await,
        Part::Redis => redis_calls::measure(extent).await,
        Part::Transactions => transactions::measure(extent).await,
        Part::Storm => storm::measure(extent).await,
        Part::Burst => Ok(vec![burst::measure(extent).await?]),
        Part::Size => size::measure(extent).await,
        Part::Purge => purge::measure(extent).await,
    }
}
