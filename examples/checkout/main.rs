//! A checkout that takes each order once, and a storm to try it.
//!
//! ```text
//! cargo run -p oneflight-examples --example checkout
//! cargo run --release -p oneflight-examples --example checkout -- storm --keys 100 --duplicates 50
//! cargo run --release -p oneflight-examples --example checkout -- storm --keys 100 --duplicates 50 --naive
//! cargo run --release -p oneflight-examples --example checkout -- storm --keys 100 --duplicates 1000 --processes 4 --kills 20
//! ```
//!
//! With `--features postgres` or `--features redis` before the `--` it can take another store; without them no driver but that of
//! SQLite is built.
//!
//! The first starts a service on the loopback interface, with its orders in an SQLite file, and stand-ins of a payment API and a
//! mail server. The second sends each of 100 orders 50 times, concurrently, and counts the orders, the charges and the mails.
//! The third does the same to the handler that most people write, and the fourth to four services in processes of their
//! own, of which one after the other is killed, and so are their relay and the stand-ins. All of them take a [`place`] for
//! what they keep. This file starts what the [command line](cli) says; [`service`], [`handler`] and [`outward`] are what is
//! worth reading first.

#[cfg(feature = "redis")]
mod beside;
mod cli;
mod database;
mod fleet;
mod handler;
mod naive;
mod order;
mod outside;
mod outward;
mod page;
mod payment;
mod place;
#[cfg(feature = "postgres")]
mod postgres;
mod row;
mod running;
mod service;
mod storm;

use std::error::Error;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::cli::{Cli, Command, RelayArgs, Serve, StandInArgs, StormArgs};
use crate::fleet::Fleet;
use crate::handler::Handler;
use crate::outside::ledger::Ledger;
use crate::outside::{StandIn, StandIns};
use crate::payment::Provider;
use crate::place::{Kind, Place};
use crate::service::{Config, Service};
use crate::storm::{Report, Shape, Storm, progress_bar};

type Failure = Box<dyn Error + Send + Sync>;

/// A storm may have so many requests.
const MAX_REQUESTS: u64 = 5_000_000;

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
            Command::Relay(args) => relay(args).await.map(|()| ExitCode::SUCCESS),
            Command::Payments(args) => payments(args).await.map(|()| ExitCode::SUCCESS),
            Command::Mail(args) => mail(args).await.map(|()| ExitCode::SUCCESS),
        }
    });
    ended.unwrap_or_else(|failure| complain(&*failure))
}

fn complain(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Where everything is unless the arguments say otherwise.
const FILE: &str = "checkout.db";

async fn serve(args: Serve) -> Result<(), Failure> {
    args.end.log();
    let ledger = args.place.ledger(FILE.into());
    let place = args.place.place(FILE.into())?;
    let own = args.outside.addresses().is_none();
    let service = Service::start(Config {
        port: args.port,
        place: place.clone(),
        naive: args.naive,
        provider: Provider {
            delay: Duration::from_millis(args.delay_ms),
            slow_percent: args.slow_percent,
        },
        stand_ins: StandIns::new(args.outside.addresses(), ledger.clone()),
    })
    .await?;
    let url = format!("http://{}", service.address());
    introduce(&url, &place, args.naive, own.then_some(&*ledger));
    args.end.asked_for().await?;
    println!("stopping: what is in flight is answered first");
    service.stop().await
}

async fn relay(args: RelayArgs) -> Result<(), Failure> {
    args.end.log();
    let ledger = args.place.ledger(FILE.into());
    let place = args.place.place(FILE.into())?;
    let orders = place.open().await?;
    let handler = Handler::over(&place, &orders).await?;
    let (outside, outward) = StandIns::new(args.outside.addresses(), ledger).reach().await?;
    let relay = handler.relay(&outward)?.ok_or("there is no outbox in Redis")?;
    println!("The relay delivers the messages of the orders in {place} (Ctrl-C stops it).");
    args.end.asked_for().await?;
    relay.stop().await;
    drop(outside);
    handler.close().await;
    orders.close().await;
    Ok(())
}

async fn payments(args: StandInArgs) -> Result<(), Failure> {
    args.end.log();
    let stand_in = StandIn::payments(args.port, Ledger::open(&args.ledger).await?).await?;
    let ledger = args.ledger.display();
    println!(
        "The payment API is at http://{} (Ctrl-C stops it), its ledger is {ledger}.",
        stand_in.address
    );
    Ok(args.end.asked_for().await?)
}

async fn mail(args: StandInArgs) -> Result<(), Failure> {
    args.end.log();
    let stand_in = StandIn::mail(args.port, Ledger::open(&args.ledger).await?).await?;
    let ledger = args.ledger.display();
    println!(
        "The mail server is at smtp://{} (Ctrl-C stops it), its ledger is {ledger}.",
        stand_in.address
    );
    Ok(args.end.asked_for().await?)
}

/// Says where the service is and what to try. The keys are new each time: under an old one the answer would be old too.
fn introduce(url: &str, place: &Place, naive: bool, ledger: Option<&Path>) {
    let key = format!("try-{:08x}", fastrand::u32(..));
    let curl = |what: &str, body: &str| {
        println!(
            "  # {what}\n  curl -i {url}/orders -H 'Idempotency-Key: \"{key}\"' -H 'Content-Type: application/json' -d '{body}'"
        );
    };
    println!("The checkout is at {url} (Ctrl-C stops it), its orders are in {place}.");
    match ledger {
        _ if !naive && place.kind() == Kind::Redis => {
            println!("Orders are not charged and not mailed: Redis has no outbox.")
        }
        Some(ledger) => println!(
            "Each order is charged and mailed, at a payment API and a mail server that stand in for real ones; what they did is in {}.",
            ledger.display()
        ),
        None => {}
    }
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
    // A service that runs already has the ledger that it says when it starts.
    let file = match (args.service.is_empty(), args.place.db.is_none()) {
        (false, true) => FILE.into(),
        _ => temporary.path().join("storm.db"),
    };
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
        ledger: args.place.ledger(file),
        place: args.place.clone().place(temporary.path().join("storm.db"))?,
        kills: args.kills,
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
    if storm.sends() {
        Ledger::look_into(&storm.ledger).await?.close().await;
    }
    let aftermath = storm.run(services, &progress_bar()).await?;
    aftermath.settled().await?;
    aftermath.count().await
}

async fn in_processes(storm: Storm, processes: u16, args: &StormArgs) -> Result<Report, Failure> {
    let mut serve: Vec<OsString> = vec!["--delay-ms".into(), args.delay_ms.to_string().into()];
    serve.extend(["--slow-percent".into(), args.slow_percent.to_string().into()]);
    if args.naive {
        serve.push("--naive".into());
    }
    let mut fleet = Fleet::start(processes, &storm, &serve).await?;
    let (addresses, bar) = (fleet.addresses(), progress_bar());
    let (kills, seed) = (storm.kills, storm.shape.seed);
    let stormed = storm.run(addresses, &bar);
    let (aftermath, killed) = tokio::join!(stormed, fleet.kill_at_random(kills, seed, &bar));
    let settled = match &aftermath {
        Ok(aftermath) => aftermath.settled().await,
        Err(_) => Ok(()),
    };
    // As below.
    fleet.stop().await?;
    killed?;
    settled?;
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
        stand_ins: StandIns::new(None, storm.ledger.clone()),
    })
    .await?;
    let aftermath = storm.run(vec![service.address()], &progress_bar()).await;
    let settled = match &aftermath {
        Ok(aftermath) => aftermath.settled().await,
        Err(_) => Ok(()),
    };
    // Orders of clients that hung up may still be on their way. They count as well.
    service.stop().await?;
    settled?;
    aftermath?.count().await
}
