//! Promises 10 to 16 under faults: workers in processes of their own are killed, frozen, cut off and lied to, their
//! server is restarted, their disk filled, their connections misused by the application that shares them. Then the
//! database is read, and it must show every effect once, and no call left waiting.
//!
//! One program is all of it, so that a worker is there wherever the driver is:
//!
//! ```text
//! faults                     as `cargo test` starts it: a short selection, one test for each store
//! faults --long …            as `bin/faults` starts it
//! faults --as-worker …       as the driver starts its workers
//! ```
//!
//! What a round does stands in `round.rs`, what must hold after it in `check.rs`. A round is drawn from its seed: the keys, the
//! point and the manner of the fault. How the machine schedules the processes is not, so a failure that is tried again may take
//! several tries.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it is how a test program speaks")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use libtest_mimic::{Arguments, Failed, Trial};

#[path = "../../common/pgbouncer.rs"]
mod pgbouncer;
#[path = "../../common/postgres.rs"]
mod postgres;
#[path = "../../common/proxy.rs"]
mod proxy;
#[path = "../../common/redis.rs"]
mod redis_server;

mod backend;
mod check;
mod check_outbox;
mod crew;
mod disk;
mod kind;
mod ledger;
mod messages;
mod notes;
mod receiver;
mod relay;
mod round;
mod run;
mod site;
mod strike;
mod tally;
mod words;
mod work;
mod worker;
mod world;

use backend::StoreName;
use check::Finding;
use kind::Kind;
use messages::{Part, Sabotage};
use run::{Plan, Voice};
use tally::Tally;

const STORES: [StoreName; 3] = [StoreName::Sqlite, StoreName::Postgres, StoreName::Redis];
/// Short, because rounds wait for it; long against what a busy machine delays.
const LEASE: Duration = Duration::from_secs(1);
/// The machine may be busy.
const MARGIN: Duration = Duration::from_secs(8);

/// Breaks what workers rely on, and looks whether every effect is there once and every call has its answer.
#[derive(Parser)]
#[command(name = "bin/faults")]
struct Long {
    #[arg(long, hide = true)]
    long: bool,
    /// Only this store
    #[arg(long)]
    store: Option<StoreName>,
    /// Only this part
    #[arg(long)]
    part: Option<Part>,
    /// Only faults of this kind
    #[arg(long)]
    kind: Option<Kind>,
    /// Rounds of kills, and rounds of cuts and restarts; of the other kinds, a tenth as many
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// After how many seconds beyond the lease what has not ended is stuck: more on a machine that others keep busy
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    margin: u16,
    /// What the rounds are drawn from
    #[arg(long)]
    seed: Option<u64>,
    /// Only this round of the kind, as a failure tells
    #[arg(long, requires = "kind", requires = "part")]
    round: Option<usize>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("--as-worker") => {
            worker::main(&arguments.next().expect("the driver says what for"));
            ExitCode::SUCCESS
        }
        Some("--long") => long(),
        _ => short(),
    }
}

/// How many rounds of each kind are in every run of the tests.
const REQUESTS: &[(Kind, usize)] = &[
    (Kind::Kill, 5),
    (Kind::Cut, 6),
    (Kind::Restart, 2),
    (Kind::Freeze, 1),
    (Kind::Clock, 1),
    (Kind::Disk, 2),
    (Kind::Begin, 3),
    (Kind::Left, 3),
    (Kind::Settings, 3),
    (Kind::Exhaust, 1),
    (Kind::Disconnect, 2),
    (Kind::PoolSession, 2),
    (Kind::PoolTransaction, 2),
];
const OUTBOX: &[(Kind, usize)] = &[
    (Kind::Kill, 2),
    (Kind::Cut, 2),
    (Kind::Restart, 1),
    (Kind::Freeze, 1),
    (Kind::Exhaust, 1),
    (Kind::Target, 1),
];

/// The selection for every run of the tests. `FAULTS_WITHOUT_CLOCK=1` leaves those out that need libfaketime, which cannot be
/// loaded beside a sanitizer.
fn short() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![Trial::test("what_is_wrong_is_found", what_is_wrong_is_found)];
    for (part, kinds) in [(Part::Requests, REQUESTS), (Part::Outbox, OUTBOX)] {
        for store in STORES.into_iter().filter(|&store| Kind::Kill.concerns(store, part)) {
            let name = format!("{}_{}_under_faults", store.word(), part.word());
            trials.push(Trial::test(name, move || {
                let mut kinds = kinds.to_vec();
                if std::env::var_os("FAULTS_WITHOUT_CLOCK").is_some() {
                    kinds.retain(|&(kind, _)| kind != Kind::Clock);
                }
                let tally = drive(&plan(part, store, fastrand::u64(..), kinds));
                match tally.is_clean() {
                    true => Ok(()),
                    false => Err(Failed::from(tally.line())),
                }
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn plan(part: Part, store: StoreName, seed: u64, kinds: Vec<(Kind, usize)>) -> Plan {
    Plan {
        part,
        store,
        seed,
        lease: LEASE,
        kinds,
        first: 0,
        voice: Voice::Findings,
        margin: MARGIN,
        sabotage: None,
    }
}

/// A checker that finds nothing is worth nothing: workers do wrong what it is to find.
fn what_is_wrong_is_found() -> Result<(), Failed> {
    let wrongs = [
        (Part::Requests, Sabotage::Forget, Finding::Lost),
        (Part::Requests, Sabotage::Double, Finding::Doubled),
        (Part::Requests, Sabotage::Hang, Finding::Stuck),
        (Part::Outbox, Sabotage::Forget, Finding::Lost),
        (Part::Outbox, Sabotage::Double, Finding::Doubled),
        (Part::Outbox, Sabotage::Astray, Finding::Doubled),
        (Part::Outbox, Sabotage::Disorder, Finding::Disordered),
    ];
    for (part, sabotage, finding) in wrongs {
        let tally = drive(&Plan {
            voice: Voice::Nothing,
            // What is sent is late on a busy machine, and what hangs is waited for in vain.
            margin: match part {
                Part::Requests => Duration::ZERO,
                Part::Outbox => MARGIN,
            },
            sabotage: Some(sabotage),
            ..plan(part, StoreName::Sqlite, fastrand::u64(..), vec![(Kind::Kill, 1)])
        });
        if tally.found(finding) == 0 {
            return Err(format!("{sabotage:?} of {} was not found", part.word()).into());
        }
    }
    Ok(())
}

fn long() -> ExitCode {
    let long = Long::parse();
    let seed = long.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut clean = true;
    let mut lines = Vec::new();
    let parts = Part::ALL
        .into_iter()
        .filter(|&part| long.part.is_none_or(|only| only == part));
    let all = parts.flat_map(|part| STORES.map(|store| (part, store)));
    for (part, store) in
        all.filter(|&(part, store)| Kind::Kill.concerns(store, part) && long.store.is_none_or(|only| only == store))
    {
        let kinds = Kind::ALL
            .into_iter()
            .filter(|&kind| long.kind.is_none_or(|only| only == kind));
        let rounds = usize::from(long.rounds);
        let kinds = kinds.map(|kind| match long.round {
            Some(_) => (kind, 1),
            None => (kind, kind.rounds(rounds)),
        });
        let tally = drive(&Plan {
            first: long.round.unwrap_or(0),
            margin: Duration::from_secs(long.margin.into()),
            voice: Voice::Progress,
            ..plan(part, store, seed, kinds.collect())
        });
        clean &= tally.is_clean();
        lines.push(tally.line());
    }
    println!();
    lines.iter().for_each(|line| println!("{line}"));
    match clean {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn drive(plan: &Plan) -> Tally {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("there is a runtime");
    if plan.voice == Voice::Progress {
        println!("{} {}: seed {}", plan.store.word(), plan.part.word(), plan.seed);
    }
    let tally = runtime.block_on(run::run(plan));
    if plan.voice == Voice::Findings {
        println!("{}", tally.line());
    }
    tally
}
