//! A reverse proxy on the HTTP layer: any backend's requests happen once.
//!
//! ```text
//! client ─▶ serve ─▶ generation (which route) ─▶ layer (executed once) ─▶ forward ─▶ upstream ─▶ backend
//!                        ▲                          └── actions (around it, for an app of Next's)
//!        config ─▶ state ┘ ◀── reload ── admin (health, metrics)
//! ```

mod actions;
mod admin;
mod body;
mod config;
mod forward;
mod generation;
mod headers;
mod interim;
mod log;
mod policy;
mod protection;
mod run;
mod serve;
mod state;
mod telemetry;
mod tunnel;
mod upstream;

use std::path::PathBuf;

use crate::exit::{Code, Failure};
use crate::store;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "oneflight.toml")]
    config: PathBuf,
    /// Say whether the configuration is right, and end
    #[arg(long)]
    check: bool,
    /// Write a line for each request
    #[arg(long)]
    access_log: bool,
    /// How lines of the log are written
    #[arg(long, value_enum, default_value_t)]
    log_format: log::Format,
    /// What is logged: a level, or targets with their levels
    #[arg(long, value_name = "FILTER", env = "ONEFLIGHT_LOG", default_value = "info")]
    log: String,
}

pub(crate) async fn run(store: &store::Address, args: Args) -> Result<(), Failure> {
    let config = config::Config::read(&args.config)?;
    if args.check {
        run::address(store, &config.store)
            .described()
            .map_err(|why| match store.url {
                Some(_) => why,
                None => Failure::new(Code::Config, format!("{}: `store.url`: {why}", args.config.display())),
            })?;
        println!("{} is right", args.config.display());
        return Ok(());
    }
    let access = match args.access_log {
        true => log::Access::Logged,
        false => log::Access::Unlogged,
    };
    log::begin(&args.log, access, args.log_format)?;
    run::run(store, args.config, config).await
}
