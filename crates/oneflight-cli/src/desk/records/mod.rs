//! Records: which there are, what is known of one, and what a person may do about it.

mod erase;
mod hold;
mod list;
mod resolve;
mod show;

use clap::Subcommand;

use crate::exit::Failure;
use crate::output::Form;
use crate::store::Address;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List records
    List(list::Args),
    /// Show all that is known of a request: its record, its steps and its messages
    Show(show::Args),
    /// Settle a request that is in doubt, once you have found out what happened
    Resolve(Box<resolve::Args>),
    /// Erase the completed record of one request, or all of a scope, or their answers
    Erase(erase::Args),
    /// Have a request wait for a person once its lease is over, whatever the service's policy is
    Hold(hold::Args),
}

pub(crate) async fn run(store: &Address, form: Form, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(store, form, args).await,
        Command::Show(args) => show::run(store, form, args).await,
        Command::Resolve(args) => resolve::run(store, form, *args).await,
        Command::Erase(args) => erase::run(store, form, args).await,
        Command::Hold(args) => hold::run(store, form, args).await,
    }
}
