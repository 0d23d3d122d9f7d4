//! The comparison of the HTTP layer with a bare route and with its peers: `bin/bench http` runs it.

mod document;
mod facts;
mod measure;
mod tables;

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use clap::Parser;

/// Compares a route under `IdempotencyLayer` with the bare route and with other layers, prints the tables and writes the part
/// of docs/benchmarks.md about the HTTP layer.
///
/// Measured are: requests over loopback with keys of their own, with one key that is replayed, and without a key; the same
/// without sockets; heap allocations; 10,000 duplicates of one request whose answer has 1 MiB; and what happens when things go
/// wrong. It takes about two minutes. Leave the machine to it: the ratios stand some noise, the duplicates do not.
#[derive(Parser)]
#[command(name = "bin/bench http")]
struct Cli {
    /// Few rounds, to see that it works; writes nothing
    #[arg(long)]
    quick: bool,
    /// Print only; leave docs/benchmarks.md alone
    #[arg(long)]
    dry: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    let begun = Instant::now();
    let facts = facts::Facts::gather();
    let effort = match cli.quick {
        true => measure::Effort::Look,
        false => measure::Effort::Result,
    };
    let measured = measure::all(effort)?;
    let text = tables::text(&facts, &measured);
    println!("{text}");
    if !cli.quick && !cli.dry {
        document::write(Path::new("docs/benchmarks.md"), &text)?;
    }
    eprintln!("measured in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}
