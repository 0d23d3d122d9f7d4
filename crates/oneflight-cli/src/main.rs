//! The command `oneflight`: a proxy, a desk for operators, and a dashboard.
//!
//! ```text
//! main ─▶ cli (what was typed) ─▶ desk        records, doubts, outbox, steps, schema, checks
//!                              ├▶ proxy       a reverse proxy on the HTTP layer
//!                              ├▶ dashboard   one page over the same desk
//!                              └▶ manual      completions and the manual, made of what can be typed
//!                                   └── all of these ─▶ store (any of the three), output, exit ─▶ terminal
//! ```

mod cli;
mod dashboard;
mod desk;
mod exit;
mod manual;
mod output;
mod proxy;
mod store;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse() {
        Ok(cli) => exit::report(cli::run(cli)),
        Err(code) => code,
    }
}
