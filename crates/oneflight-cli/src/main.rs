//! The command `oneflight`: a proxy, a desk for operators, and a dashboard.
//!
//! ```text
//! main ─▶ cli (what was typed) ─▶ desk        records, doubts, outbox, steps, schema, checks
//!                              ├▶ proxy       a reverse proxy on the HTTP layer
//!                              └▶ dashboard   one page over the same desk
//!                                   └── all of these ─▶ store (any of the three), output, exit
//! ```

mod cli;
mod dashboard;
mod desk;
mod exit;
mod output;
mod proxy;
mod store;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    exit::report(cli::run(cli::Cli::parse()))
}
