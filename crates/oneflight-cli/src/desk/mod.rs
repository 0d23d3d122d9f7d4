//! The operator's desk.

use clap::Subcommand;

use crate::exit::Failure;
use crate::output::Form;
use crate::store::{Address, Tables, unreachable, with_store};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Delete records that are past their retention
    Purge {
        /// How many are deleted at a time
        #[arg(long, default_value_t = 500)]
        batch: usize,
    },
}

pub(crate) async fn run(store: &Address, _form: Form, command: Command) -> Result<(), Failure> {
    match command {
        Command::Purge { batch } => {
            let store = store.open(Tables::Leave).await?;
            let purged = with_store!(&store, |store| oneflight::store::Store::purge(store, batch).await);
            purged.map(|_| ()).map_err(unreachable)
        }
    }
}
