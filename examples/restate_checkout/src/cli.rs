//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// An order service that has outgrown the library: Restate carries its orders out, under the same keys.
#[derive(Debug, Parser)]
pub(crate) struct Cli {
    /// The SQLite file of the orders, and of the front's records
    #[arg(long, global = true, default_value = "orders.db")]
    pub(crate) db: PathBuf,
    /// Where to listen, on the loopback interface; 0 takes a free port
    #[arg(long, global = true, default_value_t = 0)]
    pub(crate) port: u16,
    /// Where the warehouse, the payment provider and the mail server are
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    pub(crate) outside: String,
    #[command(subcommand)]
    pub(crate) part: Part,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Takes orders from clients
    Front(FrontArgs),
    /// Carries orders out for Restate, which has to be told where it is
    Service,
}

#[derive(Debug, Args)]
pub(crate) struct FrontArgs {
    /// Restate's ingress
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) restate: String,
    /// Who carries new orders out
    #[arg(long, value_enum, default_value_t = By::Restate)]
    pub(crate) by: By,
    /// Which keys it hands on: random ones show what the derived ones are for
    #[arg(long, value_enum, default_value_t = Keys::Derived)]
    pub(crate) keys: Keys,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum By {
    /// The front itself, in steps of the library's: before the move
    Steps,
    /// Restate
    Restate,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Keys {
    /// From the client's key: the same in every attempt
    Derived,
    /// New in every attempt
    Random,
}
