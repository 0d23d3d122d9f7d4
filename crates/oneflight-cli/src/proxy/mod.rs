//! A reverse proxy on the HTTP layer.

use crate::exit::{Code, Failure};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "oneflight.toml")]
    config: std::path::PathBuf,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    Err(Failure::new(
        Code::Config,
        format!("{} is not read yet", args.config.display()),
    ))
}
