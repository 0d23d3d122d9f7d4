//! The operator's desk: what is in a store, and what a person may change there.
//!
//! ```text
//! mod (which command) ─▶ records · doubts · steps · migrate (─▶ locks) · purge     a file or a folder each
//!                           ├──────▶ request (which one is meant), typed and answered (what a person says that it answered)
//!                           └──────▶ view (how it is printed), failure (why it was not changed)
//! ```
//!
//! Beside them are jobs and messages:
//!
//! ```text
//! outbox ─▶ explain, topic, overview ─▶ life (which relays are alive) ◀─ doctor ─▶ server (what is behind the store) ◀─ bench
//! exec
//! ```
//!
//! A command reads first, says what it is about to change, asks once more ([`Consent`](crate::output::Consent)), changes it, and says
//! what became of it.

pub(crate) mod answered;
mod bench;
mod doctor;
mod doubts;
mod exec;
mod explain;
mod failure;
mod letter;
mod life;
mod locks;
mod migrate;
mod outbox;
mod overview;
mod purge;
mod records;
mod request;
mod server;
mod steps;
mod topic;
mod typed;
mod view;

use clap::Subcommand;

pub(crate) use exec::job;
pub(crate) use typed::{AsTyped, lasting};

use crate::exit::Failure;
use crate::output::Form;
use crate::store::Address;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at records, and settle, hold or erase them
    #[command(subcommand)]
    Records(records::Command),
    /// List what is in doubt, the oldest first
    Doubts(doubts::Args),
    /// Look at mutations of steps, and have them go on
    #[command(subcommand)]
    Steps(steps::Command),
    /// Look at the schema of the store, and upgrade it
    #[command(subcommand)]
    Migrate(migrate::Command),
    /// Delete records that are past their retention
    Purge(purge::Args),
    /// Look into the outbox, and change what becomes of its messages
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Run a command that must not run twice, and repeat what it printed when it is asked for again
    Exec(Box<exec::Args>),
    /// Measure what a call costs on this store
    Bench(bench::Args),
    /// Look for what would break a promise here: settings, clocks, relays, doubts
    Doctor(doctor::Args),
}

pub(crate) async fn run(store: &Address, form: Form, command: Command) -> Result<(), Failure> {
    match command {
        Command::Records(command) => records::run(store, form, command).await,
        Command::Doubts(args) => doubts::run(store, form, args).await,
        Command::Steps(command) => steps::run(store, form, command).await,
        Command::Migrate(command) => migrate::run(store, form, command).await,
        Command::Purge(args) => purge::run(store, form, args).await,
        Command::Outbox(command) => outbox::run(store, form, command).await,
        Command::Exec(args) => exec::run(store, *args).await,
        Command::Bench(args) => bench::run(store, form, args).await,
        Command::Doctor(args) => doctor::run(store, form, args).await,
    }
}
