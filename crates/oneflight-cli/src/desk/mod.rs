//! The operator's desk: what is in a store, and what a person may change there.
//!
//! ```text
//! mod (which command) ─▶ records · doubts · steps · migrate · purge     a file each
//!                           └──────▶ identity (which request is meant)
//! ```
//!
//! A command reads first, says what it is about to change, asks once more ([`Consent`](crate::output::Consent)), changes it, and says
//! what became of it.

mod bench;
mod exec;
mod outbox;
mod purge;

use clap::Subcommand;

use crate::exit::Failure;
use crate::output::Form;
use crate::store::Address;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command that must not run twice, and repeat what it printed when it is asked for again
    Exec(Box<exec::Args>),
    /// Measure what a call costs on this store
    Bench(bench::Args),
    /// Look into the outbox, and change what becomes of its messages
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Delete records that are past their retention
    Purge(purge::Args),
}

pub(crate) async fn run(store: &Address, form: Form, command: Command) -> Result<(), Failure> {
    match command {
        Command::Exec(args) => exec::run(store, *args).await,
        Command::Bench(args) => bench::run(store, form, args).await,
        Command::Outbox(command) => outbox::run(store, form, command).await,
        Command::Purge(args) => purge::run(store, form, args).await,
    }
}
