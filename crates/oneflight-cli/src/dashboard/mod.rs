//! One page over the desk: what a store holds, how requests fare, and the changes that an operator makes.
//!
//! ```text
//! serve ─▶ guard (host, origin, session) ─▶ api ─▶ source ─▶ store
//!                                            │  └▶ story, rows
//!                                            ├▶ change, steps ─▶ typed, source
//!                                            └▶ rates ◀─ scrape ─▶ the Prometheus endpoints of services
//! ```
//!
//! Without a token it listens on loopback addresses only, and changes nothing. It shows no payload and no body of an answer.

mod access;
mod api;
mod attempts;
mod change;
mod exposition;
mod guard;
mod hosts;
mod limits;
mod page;
mod problem;
mod rates;
mod rows;
mod scrape;
mod serve;
mod shared;
mod source;
mod steps;
mod story;
mod typed;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;

use crate::desk::lasting;
use crate::exit::{Code, Failure, not_listening};
use crate::store::{Address, Tables};

use access::{Access, Token};
use hosts::Hosts;
use scrape::Scraper;
use shared::Shared;
use source::Source;

/// The variable that has the token, where no file has it.
const TOKEN: &str = "ONEFLIGHT_DASHBOARD_TOKEN";

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Without a token, the dashboard listens on loopback addresses only, and changes nothing. The token comes from a file, or from \
ONEFLIGHT_DASHBOARD_TOKEN: never from the command line, which every user of the machine can read. The first line of the \
output is the address of the page.")]
pub(crate) struct Args {
    /// Where to listen: port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7878")]
    listen: SocketAddr,
    /// A Prometheus endpoint of a service or proxy, such as http://10.0.0.7:9090/metrics (may be given again)
    #[arg(long = "metrics", value_name = "URL")]
    metrics: Vec<http::Uri>,
    /// How often these are asked: rates are means of so long
    #[arg(long, value_name = "TIME", default_value = "5s")]
    metrics_every: humantime::Duration,
    /// A file with the token that lets in: at least 16 bytes. Whitespace around it does not count
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How long an answer is kept that is recorded on the page: that of the service, so that it is replayed as long as any other
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lasting)]
    retention: Duration,
    /// A name under which browsers reach the page, beside those of this machine (may be given again)
    #[arg(long, value_name = "HOST")]
    public_host: Vec<String>,
}

pub(crate) async fn run(store: &Address, args: Args) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // There is one already, if this runs inside of something else.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .try_init();
    let token = token(args.token_file.as_deref())?;
    if token.is_none() && !args.listen.ip().is_loopback() {
        let advice = format!(
            "{} can be reached from other machines, so it takes a token: name a file with one by --token-file, or listen on \
             127.0.0.1",
            args.listen
        );
        return Err(Failure::new(Code::Config, advice));
    }
    let scraper = Arc::new(
        Scraper::new(args.metrics, args.metrics_every.into()).map_err(|what| Failure::new(Code::Usage, what))?,
    );
    let source = Source::new(store.open(Tables::Leave).await?, args.retention);
    let hosts = Hosts::new(&args.public_host, args.listen.ip()).map_err(|what| Failure::new(Code::Usage, what))?;
    let failed = |error| not_listening(args.listen, &error);
    let listener = TcpListener::bind(args.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    crate::output::line(&format!("http://{address}/"))?;
    let scraping = tokio::spawn(Arc::clone(&scraper).run());
    let shared = Arc::new(Shared {
        source,
        access: Access::new(token),
        hosts,
        scraper,
        page: page::Page::new(),
        changes: TaskTracker::new(),
        port: address.port(),
    });
    let changes = shared.changes.clone();
    serve::until_stopped(listener, api::router(shared), changes).await;
    scraping.abort();
    Ok(())
}

/// Reads the token, if there is one.
fn token(file: Option<&std::path::Path>) -> Result<Option<Token>, Failure> {
    let (text, from) = match (file, std::env::var(TOKEN)) {
        (Some(file), _) => {
            let failed = |error| Failure::new(Code::NoInput, format!("the token: {}: {error}", file.display()));
            (
                std::fs::read_to_string(file).map_err(failed)?,
                file.display().to_string(),
            )
        }
        (None, Ok(text)) => (text, TOKEN.to_owned()),
        (None, Err(std::env::VarError::NotPresent)) => return Ok(None),
        (None, Err(error)) => return Err(Failure::new(Code::Config, format!("{TOKEN}: {error}"))),
    };
    let token = Token::new(text.trim()).map_err(|what| Failure::new(Code::Config, format!("{from}: {what}")))?;
    Ok(Some(token))
}
