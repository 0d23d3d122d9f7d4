//! What can be typed. Completions and the manual are made of this.

use clap::{Parser, Subcommand};

use crate::exit::{Code, Failure};
use crate::output::Form;
use crate::store::Address;
use crate::{dashboard, desk, proxy};

/// One key, one execution: a proxy, a desk for operators, and a dashboard
#[derive(Debug, Parser)]
#[command(name = "oneflight", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) store: Address,
    /// Print JSON in place of a table
    #[arg(long, global = true)]
    pub(crate) json: bool,
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
}

impl Cli {
    pub(crate) fn form(&self) -> Form {
        match self.json {
            true => Form::Json,
            false => Form::Table,
        }
    }
}

pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let form = cli.form();
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(Code::System, format!("no runtime could be started: {error}")))?;
    runtime.block_on(async {
        match cli.command {
            Command::Desk(command) => desk::run(&cli.store, form, command).await,
            Command::Proxy(args) => proxy::run(&cli.store, args).await,
            Command::Dashboard(args) => dashboard::run(&cli.store, args).await,
        }
    })
}
