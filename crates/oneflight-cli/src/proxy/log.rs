//! What the proxy logs, and how.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use crate::exit::{Code, Failure};

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

/// Whether each request has a line in the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    Logged,
    Unlogged,
}

/// Begins to log, to the standard error.
pub(super) fn begin(filter: &str, access: Access, format: Format) -> Result<(), Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::new(Code::Usage, format!("--log {filter}: {error}"));
    let access = match access {
        Access::Logged => "oneflight::access=info",
        Access::Unlogged => "oneflight::access=off",
    };
    let access: Directive = access.parse().map_err(|error| wrong(&error))?;
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| wrong(&error))?
        .add_directive(access);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let begun = match format {
        Format::Text => lines.with_ansi(false).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    begun.map_err(|error| Failure::new(Code::Software, error.to_string()))
}
