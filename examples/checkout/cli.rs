//! The command line: what can be typed, and what it means.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use axum::http::Uri;
use clap::{Args, Parser, Subcommand};

use crate::outside::Addresses;
use crate::place::PlaceArgs;

/// A checkout that takes each order once, however often it is sent.
///
/// Without a subcommand it serves.
#[derive(Debug, Parser)]
#[command(name = "checkout", args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a page and POST /orders on the loopback interface (the default).
    Serve(Serve),
    /// Send every order many times at once, then count the orders, the charges and the mails.
    ///
    /// Service and clients run in this process unless said otherwise, over real TCP connections. Some handlers are slow, some clients hang up
    /// in mid-request and come back, some send again after they were answered. The exit status is 1 if there is not
    /// exactly one order, one charge and one mail per key, or if any request got an error or a wrong answer (with --naive it
    /// is 0: there, that is the point).
    Storm(StormArgs),
    /// Deliver what is in the outbox, and serve nothing.
    Relay(RelayArgs),
    /// Serve the stand-in of the payment API, which keeps idempotency keys as Stripe's does.
    Payments(StandInArgs),
    /// Serve the stand-in of the mail server.
    Mail(StandInArgs),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Listen on this port; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Serve the handler that most people write, without oneflight.
    #[arg(long)]
    pub(crate) naive: bool,
    /// How long the payment provider takes for an order if its key is a slow one, in milliseconds.
    #[arg(long, default_value_t = 300, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub(crate) delay_ms: u64,
    /// How many of 100 keys are slow ones.
    #[arg(long, default_value_t = 100, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) slow_percent: u8,
    #[command(flatten)]
    pub(crate) outside: OutsideArgs,
    #[command(flatten)]
    pub(crate) end: End,
}

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) outside: OutsideArgs,
    #[command(flatten)]
    pub(crate) end: End,
}

/// Where the payment API and the mail server are.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutsideArgs {
    /// Charge at the payment API at this address. Without it, stand-ins of it and of a mail server run in this process.
    #[arg(long, value_name = "IP:PORT", requires = "mail")]
    payments: Option<SocketAddr>,
    /// Mail by the server at this address.
    #[arg(long, value_name = "IP:PORT", requires = "payments")]
    mail: Option<SocketAddr>,
}

impl OutsideArgs {
    pub(crate) fn addresses(self) -> Option<Addresses> {
        let (payments, mail) = self.payments.zip(self.mail)?;
        Some(Addresses { payments, mail })
    }
}

#[derive(Debug, Args)]
pub(crate) struct StandInArgs {
    /// Listen on this port; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Keep what was done in this SQLite file, which is made if need be.
    #[arg(long, value_name = "FILE", default_value = "checkout.outside.db")]
    pub(crate) ledger: PathBuf,
    #[command(flatten)]
    pub(crate) end: End,
}

/// How a process that serves is ended.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct End {
    /// Stop at the end of standard input, and log errors only: what starts several processes uses it.
    #[arg(long, hide = true)]
    pub(crate) until_eof: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StormArgs {
    /// How many different orders are sent, each under its own key.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) keys: u32,
    /// How often each of them is sent.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) duplicates: u32,
    /// Storm the handler that most people write, without oneflight.
    #[arg(long, conflicts_with = "service")]
    pub(crate) naive: bool,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Make the same storm again: the order of requests, who hangs up, who repeats.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// Start so many services on the store, each in a process of its own, and storm all of them at once. A further relay, the
    /// payment API and the mail server get a process each as well.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) processes: Option<u16>,
    /// Kill so many of these processes while it storms, and start each again: a service, the relay, the payment API, the mail
    /// server, in random order.
    #[arg(long, default_value_t = 0, value_name = "NUMBER", requires = "processes", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(crate) kills: u16,
    /// How many clients send at the same time.
    #[arg(long, default_value_t = 64, value_name = "CLIENTS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) concurrency: u16,
    /// How many of 100 requests are first sent by a client that hangs up before it is answered.
    #[arg(long, default_value_t = 5, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) hang_up_percent: u8,
    /// How many of 100 requests are sent again after they were answered.
    #[arg(long, default_value_t = 10, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) repeat_percent: u8,
    /// How long the payment provider takes for an order if its key is a slow one, in milliseconds.
    #[arg(long, default_value_t = 5, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub(crate) delay_ms: u64,
    /// How many of 100 keys are slow ones.
    #[arg(long, default_value_t = 20, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) slow_percent: u8,
    /// After so many seconds, what is not answered counts as an error.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
    /// Storm a service that runs elsewhere on this machine, such as http://127.0.0.1:8080, and that keeps its orders where
    /// --db or --store says; may be given several times. Clients wait for a service that is away.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "processes", value_parser = loopback)]
    pub(crate) service: Vec<SocketAddr>,
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
