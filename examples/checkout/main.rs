//! A checkout that takes each order once, and a storm to try it.
//!
//! ```text
//! cargo run --release --example checkout
//! cargo run --release --example checkout -- storm --keys 100 --duplicates 50
//! cargo run --release --example checkout -- storm --keys 100 --duplicates 50 --naive
//! cargo run --release --example checkout -- storm --keys 100 --duplicates 1000 --processes 4
//! ```
//!
//! With `--features postgres` or `--features redis` before the `--` it can take another store; without them no driver but that of
//! SQLite is built.
//!
//! The first starts a service on the loopback interface, with its orders in an SQLite file. The second sends each of
//! 100 orders 50 times, concurrently, and counts what the database then holds. The third does the same to the handler
//! that most people write, and the fourth to four services in processes of their own. All of them take a [`place`] for
//! what they keep. This file is the command line; [`service`] and [`handler`] are what is worth reading first.

#[cfg(feature = "redis")]
mod beside;
mod database;
mod fleet;
mod handler;
mod naive;
mod order;
mod page;
mod payment;
mod place;
#[cfg(feature = "postgres")]
mod postgres;
mod row;
mod service;
mod storm;

use std::error::Error;
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use axum::http::Uri;
use clap::{Args, Parser, Subcommand};

use crate::fleet::Fleet;
use crate::payment::Provider;
use crate::place::{Place, PlaceArgs};
use crate::service::{Config, Service};
use crate::storm::{Report, Shape, Storm};

type Failure = Box<dyn Error + Send + Sync>;

/// A storm may have so many requests.
const MAX_REQUESTS: u64 = 5_000_000;

/// A checkout that takes each order once, however often it is sent.
///
/// Without a subcommand it serves.
#[derive(Debug, Parser)]
#[command(name = "checkout", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a page and POST /orders on the loopback interface (the default).
    Serve(Serve),
    /// Send every order many times at once, then count the rows in the database.
    ///
    /// Service and clients run in this process unless said otherwise, over real TCP connections. Some handlers are slow, some clients hang up
    /// in mid-request and come back, some send again after they were answered. The exit status is 1 if there is not
    /// exactly one order per key, or if any request got an error or a wrong answer (with --naive it is 0: there, that
    /// is the point).
    Storm(StormArgs),
}

#[derive(Debug, Args)]
struct Serve {
    /// Listen on this port; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    #[command(flatten)]
    place: PlaceArgs,
    /// Serve the handler that most people write, without oneflight.
    #[arg(long)]
    naive: bool,
    /// How long the payment provider takes for an order if its key is a slow one, in milliseconds.
    #[arg(long, default_value_t = 300, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    delay_ms: u64,
    /// How many of 100 keys are slow ones.
    #[arg(long, default_value_t = 100, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    slow_percent: u8,
    /// Stop at the end of standard input, and log errors only: what starts several services uses it.
    #[arg(long, hide = true)]
    until_eof: bool,
}

#[derive(Debug, Args)]
struct StormArgs {
    /// How many different orders are sent, each under its own key.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: u32,
    /// How often each of them is sent.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    duplicates: u32,
    /// Storm the handler that most people write, without oneflight.
    #[arg(long, conflicts_with = "service")]
    naive: bool,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Make the same storm again: the order of requests, who hangs up, who repeats.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Start so many services on the store, each in a process of its own, and storm all of them at once.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=32))]
    processes: Option<u16>,
    /// How many clients send at the same time.
    #[arg(long, default_value_t = 64, value_name = "CLIENTS", value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// How many of 100 requests are first sent by a client that hangs up before it is answered.
    #[arg(long, default_value_t = 5, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    hang_up_percent: u8,
    /// How many of 100 requests are sent again after they were answered.
    #[arg(long, default_value_t = 10, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    repeat_percent: u8,
    /// How long the payment provider takes for an order if its key is a slow one, in milliseconds.
    #[arg(long, default_value_t = 5, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    delay_ms: u64,
    /// How many of 100 keys are slow ones.
    #[arg(long, default_value_t = 20, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    slow_percent: u8,
    /// After so many seconds, what is not answered counts as an error.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Storm a service that runs elsewhere on this machine, such as http://127.0.0.1:8080, and that keeps its orders where
    /// --db or --store says; may be given several times. Clients wait for a service that is away.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "processes", value_parser = loopback)]
    service: Vec<SocketAddr>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Serve(cli.serve));
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let ended = runtime.block_on(async {
        match command {
            Command::Serve(args) => serve(args).await.map(|()| ExitCode::SUCCESS),
            Command::Storm(args) => storm(args).await,
        }
    });
    ended.unwrap_or_else(|failure| complain(&*failure))
}

fn complain(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

async fn serve(args: Serve) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(match args.until_eof {
            true => tracing::Level::ERROR,
            false => tracing::Level::INFO,
        })
        .init();
    let place = args.place.place("checkout.db".into())?;
    let service = Service::start(Config {
        port: args.port,
        place: place.clone(),
        naive: args.naive,
        provider: Provider {
            delay: Duration::from_millis(args.delay_ms),
            slow_percent: args.slow_percent,
        },
    })
    .await?;
    let url = format!("http://{}", service.address());
    introduce(&url, &place, args.naive);
    match args.until_eof {
        true => end_of_input().await,
        false => stop_asked_for().await?,
    }
    println!("stopping: what is in flight is answered first");
    service.stop().await
}

/// Says where the service is and what to try. The keys are new each time: under an old one the answer would be old too.
fn introduce(url: &str, place: &Place, naive: bool) {
    let key = format!("try-{:08x}", fastrand::u32(..));
    let curl = |what: &str, body: &str| {
        println!(
            "  # {what}\n  curl -i {url}/orders -H 'Idempotency-Key: \"{key}\"' -H 'Content-Type: application/json' -d '{body}'"
        );
    };
    println!("The checkout is at {url} (Ctrl-C stops it), its orders are in {place}.");
    if naive {
        println!("It runs the naive handler: click fast, and see double.");
    }
    println!("Open the page and click, or try:\n");
    curl("an order", r#"{"item": "tea", "quantity": 2}"#);
    curl(
        "the same again: no new order, \"cached\": true",
        r#"{"item": "tea", "quantity": 2}"#,
    );
    curl(
        "another order under the same key: 422",
        r#"{"item": "cake", "quantity": 9}"#,
    );
    println!();
}

/// Ends when the process is asked to stop, by Ctrl-C or SIGTERM.
async fn stop_asked_for() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// Ends when standard input does: with the process that holds its other end, in whichever way that ends.
async fn end_of_input() {
    let (over, ended) = tokio::sync::oneshot::channel::<()>();
    // A thread that is not waited for: a read from standard input cannot be called off.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(over);
    });
    // Never sent to: what is heard is that it was dropped.
    let _ = ended.await;
}

async fn storm(args: StormArgs) -> Result<ExitCode, Failure> {
    let requests = u64::from(args.keys) * u64::from(args.duplicates);
    if requests > MAX_REQUESTS {
        return Err(format!(
            "{requests} requests are more than a storm may have ({MAX_REQUESTS}): take fewer --keys or --duplicates"
        )
        .into());
    }
    if !args.service.is_empty() && !args.place.names_the_orders() {
        return Err(
            "say where the service keeps its orders, which are counted in the end: --db FILE, or --store postgres \
                    and --url"
                .into(),
        );
    }
    // Kept until the end: the directory goes when it is dropped.
    let temporary = tempfile::tempdir()?;
    let storm = Storm {
        shape: Shape {
            keys: args.keys,
            duplicates: args.duplicates,
            seed: args.seed.unwrap_or_else(|| u64::from(fastrand::u32(..))),
            hang_up_percent: args.hang_up_percent,
            repeat_percent: args.repeat_percent,
        },
        concurrency: args.concurrency.into(),
        time: Duration::from_secs(args.timeout),
        handler: match (args.service.is_empty(), args.naive) {
            (false, _) => "remote",
            (true, false) => "oneflight",
            (true, true) => "naive",
        },
        place: args.place.clone().place(temporary.path().join("storm.db"))?,
    };
    let report = match (args.processes, args.service.is_empty()) {
        (_, false) => elsewhere(storm, args.service).await?,
        (Some(processes), true) => in_processes(storm, processes, &args).await?,
        (None, true) => in_this_process(storm, &args).await?,
    };

    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if args.naive || report.is_right() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn elsewhere(storm: Storm, services: Vec<SocketAddr>) -> Result<Report, Failure> {
    // A name that is mistyped is to be told before the storm, not after.
    storm.place.look_into().await?.close().await;
    storm.run(services).await?.count().await
}

async fn in_processes(storm: Storm, processes: u16, args: &StormArgs) -> Result<Report, Failure> {
    let mut arguments = storm.place.arguments();
    arguments.extend(["--delay-ms".into(), args.delay_ms.to_string().into()]);
    arguments.extend(["--slow-percent".into(), args.slow_percent.to_string().into()]);
    if args.naive {
        arguments.push("--naive".into());
    }
    let fleet = Fleet::start(processes, &arguments).await?;
    let aftermath = storm.run(fleet.addresses.clone()).await;
    // As below.
    fleet.stop().await?;
    aftermath?.count().await
}

async fn in_this_process(storm: Storm, args: &StormArgs) -> Result<Report, Failure> {
    let service = Service::start(Config {
        port: 0,
        place: storm.place.clone(),
        naive: args.naive,
        provider: Provider {
            delay: Duration::from_millis(args.delay_ms),
            slow_percent: args.slow_percent,
        },
    })
    .await?;
    let aftermath = storm.run(vec![service.address()]).await;
    // Orders of clients that hung up may still be on their way. They count as well.
    service.stop().await?;
    aftermath?.count().await
}

/// The address in `http://127.0.0.1:8080`. A storm never leaves this machine.
fn loopback(url: &str) -> Result<SocketAddr, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().unwrap_or_default();
    let ip = match host {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        host => host
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| "give the service's IP address on this machine".to_owned())?,
    };
    match (uri.scheme_str(), ip.is_loopback(), uri.port_u16()) {
        (Some("http"), true, Some(port)) => Ok(SocketAddr::from((ip, port))),
        (Some("http"), false, _) => Err("a storm is for this machine only: give a loopback address".to_owned()),
        _ => Err("give it as http://127.0.0.1:PORT".to_owned()),
    }
}
