//! Mutations of steps: which wait, how far one has come, and how a person has it go on.

mod change;
mod find;
mod fork;
mod list;
mod settle;
mod view;

use super::request::Named;
use super::view::Bodies;
use crate::exit::Failure;
use crate::output::{self, Form};
use crate::store::{Address, Tables};
use clap::Subcommand;

use find::find;
pub(super) use find::recorded;
pub(super) use view::StepsView;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List mutations with which nobody goes on, the longest first
    List(list::Args),
    /// Show how far a mutation has come
    Show(ShowArgs),
    /// Let a mutation that is held go on, behind its last recorded step
    Resume(change::Args),
    /// Have a mutation with which nobody goes on wait for a person
    Hold(change::Args),
    /// Say what became of a step that has not told
    Settle(settle::Args),
    /// Start a mutation anew under another key, with the steps that it has before one that went wrong
    Fork(fork::Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    request: Named,
    /// Show the answers of the steps themselves
    #[arg(long)]
    body: bool,
}

pub(crate) async fn run(store: &Address, form: Form, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(args) => list::run(store, form, args).await,
        Command::Show(args) => show(store, form, args).await,
        Command::Resume(args) => change::resume(store, form, args).await,
        Command::Hold(args) => change::hold(store, form, args).await,
        Command::Settle(args) => settle::run(store, form, args).await,
        Command::Fork(args) => fork::run(store, form, args).await,
    }
}

async fn show(store: &Address, form: Form, args: ShowArgs) -> Result<(), Failure> {
    let store = store.open(Tables::Leave).await?;
    let (id, known) = find(&store, &args.request).await?;
    let bodies = match args.body {
        true => Bodies::Shown,
        false => Bodies::Hidden,
    };
    let view = StepsView::of(&id, &known, bodies);
    output::either(form, &view, || view.text())
}
