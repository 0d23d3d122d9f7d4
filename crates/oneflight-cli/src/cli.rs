//! What can be typed. Completions and the manual are made of this.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::exit::{Code, Failure};
use crate::output::Form;
use crate::store::Address;
use crate::{dashboard, desk, manual, proxy};

/// One key, one execution: a proxy, a desk for operators, and a dashboard
#[derive(Debug, Parser)]
#[command(name = "oneflight", version, propagate_version = true, max_term_width = 120)]
pub(crate) struct Cli {
    #[command(flatten)]
    store: Address,
    /// Print JSON in place of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Desk(desk::Command),
    /// Forward requests to a backend, and execute each key once
    Proxy(proxy::Args),
    /// Serve a page on what is in the store
    Dashboard(dashboard::Args),
    /// Print what a shell completes commands by
    Completions(manual::CompletionsArgs),
    /// Print the manual, in the form of man(7)
    Man(manual::ManArgs),
}

/// Reads what was typed. Help, the version, and what is wrong with it are printed here.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        // Nobody may be there to read it.
        let _ = error.print();
        match error.use_stderr() {
            true => ExitCode::from(Code::Usage as u8),
            false => ExitCode::SUCCESS,
        }
    })
}

pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let form = match cli.json {
        true => Form::Json,
        false => Form::Table,
    };
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(Code::System, format!("no runtime could be started: {error}")))?;
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Desk(command) => desk::run(&cli.store, form, command).await,
            Command::Proxy(args) => proxy::run(&cli.store, args).await,
            Command::Dashboard(args) => dashboard::run(&cli.store, args).await,
            Command::Completions(args) => manual::completions(Cli::command(), &args),
            Command::Man(args) => manual::man(Cli::command(), &args),
        }
    });
    // A thread that still waits for a name or a disk is not waited for.
    runtime.shutdown_background();
    ended
}
