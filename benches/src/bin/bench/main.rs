//! The comparison of `Group` with its peers: `bin/bench` runs it.

mod document;
mod facts;
mod measure;
mod pictures;
mod quick;
mod row;
mod rows;
mod terminal;

use clap::{Args, Parser, Subcommand};
use document::Part;
use facts::Facts;
use oneflight_benches::semantics;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

/// Compares `oneflight::Group` with its peers, prints the tables and writes docs/benchmarks.md.
#[derive(Parser)]
#[command(name = "bin/bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Task>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Options {
    /// Measure a lone leader and followers only, in less than a minute, and write nothing
    #[arg(long)]
    quick: bool,
    /// With --quick: print the ratios to the best peer as JSON
    #[arg(long, requires = "quick")]
    json: bool,
    /// Print only; leave docs/benchmarks.md alone
    #[arg(long)]
    dry: bool,
}

#[derive(Subcommand)]
enum Task {
    /// Try on everybody what happens when things go wrong
    Semantics {
        /// Print only; leave docs/benchmarks.md alone
        #[arg(long)]
        dry: bool,
    },
    /// Measure followers as tasks on two workers only, and how long their end keeps another task waiting; writes nothing
    Tasks {
        /// Interleaved rounds
        #[arg(long, default_value_t = measure::ROUNDS)]
        rounds: usize,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    let Cli { command, options } = Cli::parse();
    match command {
        Some(Task::Semantics { dry }) => try_semantics(dry),
        Some(Task::Tasks { rounds }) => {
            let facts = Facts::gather();
            let rows = rows::of_crowds(&measure::crowds(rounds));
            print!("{}", terminal::facts(&facts));
            println!("{}\n\n{}", terminal::comparison(&rows), terminal::details(&rows));
            Ok(())
        }
        None if options.quick => quick::run(options.json),
        None => {
            compare(options.dry)?;
            try_semantics(options.dry)
        }
    }
}

/// The page, from the root of the workspace.
fn page() -> PathBuf {
    PathBuf::from("docs/benchmarks.md")
}

fn compare(dry: bool) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let facts = Facts::gather();
    let measured = measure::all()?;
    let rows = rows::rows(&measured);
    println!(
        "{}{}\n\n{}",
        terminal::facts(&facts),
        terminal::comparison(&rows),
        terminal::details(&rows)
    );
    if !dry {
        let pictures = pictures::draw(&page().with_extension(""), &measured)?;
        document::write(
            &page(),
            Part::Comparison,
            &document::comparison(&facts, &rows, &pictures),
        )?;
    }
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    println!(
        "compared in {:.0} s: {} aims met, {} missed\n",
        start.elapsed().as_secs_f64(),
        count(row::Verdict::Met),
        count(row::Verdict::Missed)
    );
    Ok(())
}

fn try_semantics(dry: bool) -> Result<(), Box<dyn Error>> {
    let facts = Facts::gather();
    let conducts = semantics::try_all(&mut |conduct| eprintln!("tried: {}", conduct.name));
    println!("{}{}", terminal::facts(&facts), terminal::semantics(&conducts));
    if !dry {
        document::write(&page(), Part::Semantics, &document::semantics(&facts, &conducts))?;
    }
    Ok(())
}
