//! One page over the desk.

use crate::exit::{Code, Failure};
use crate::store::Address;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:7878")]
    listen: std::net::SocketAddr,
}

pub(crate) async fn run(_store: &Address, args: Args) -> Result<(), Failure> {
    Err(Failure::new(
        Code::Config,
        format!("nothing listens on {} yet", args.listen),
    ))
}
