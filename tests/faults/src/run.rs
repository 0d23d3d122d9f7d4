//! A run over one store: rounds of each kind, on one private server or file.

use std::time::Duration;

use oneflight::idempotency::{Idempotency, Recovery};

use crate::backend::{Backend, Postgres, Redis, Sqlite, StoreName};
use crate::crew::{Crew, Place};
use crate::disk::Disk;
use crate::kind::Kind;
use crate::messages::{Part, Pool, Post, Role, Sabotage};
use crate::proxy::Proxy;
use crate::receiver::Receiver;
use crate::round::{Round, Scene};
use crate::site::Site;
use crate::tally::Tally;

/// How far the clocks of clients are off.
const HOUR: i64 = 60 * 60;

pub struct Plan {
    pub part: Part,
    pub store: StoreName,
    pub seed: u64,
    pub lease: Duration,
    /// So many rounds of each kind.
    pub kinds: Vec<(Kind, usize)>,
    /// The number of the first round: not 0 if one is to be repeated.
    pub first: usize,
    pub voice: Voice,
    /// How long after the fault and a lease every call has to have its answer: the machine may be busy.
    pub margin: Duration,
    pub sabotage: Option<Sabotage>,
}

/// How much is said while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Voice {
    Nothing,
    Findings,
    Progress,
}

pub async fn run(plan: &Plan) -> Tally {
    match plan.store {
        StoreName::Sqlite => all::<Sqlite>(plan).await,
        StoreName::Postgres => all::<Postgres>(plan).await,
        StoreName::Redis => all::<Redis>(plan).await,
    }
}

async fn all<B: Backend>(plan: &Plan) -> Tally {
    let mut tally = Tally::new(plan.store, plan.part, plan.seed, plan.lease);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut site = Site::start(plan.store, folder.path().to_owned());
    for &(kind, rounds) in plan
        .kinds
        .iter()
        .filter(|(kind, _)| kind.concerns(plan.store, plan.part))
    {
        let disk = match kind {
            Kind::Disk => match Disk::mount() {
                Ok(disk) => Some(disk),
                Err(why) => {
                    tally.leave_out(kind, &why);
                    continue;
                }
            },
            _ => None,
        };
        let proxy = match (kind, site.port()) {
            (Kind::Cut, Some(port)) => Some(Proxy::before(port).await),
            _ => None,
        };
        let mode = match kind {
            Kind::PoolSession => Some("session"),
            Kind::PoolTransaction => Some("transaction"),
            _ => None,
        };
        let pooler = mode.map(|mode| site.pooler(mode));
        let at = match &disk {
            Some(disk) => Site::on(disk),
            None => site,
        };
        let backend = B::open(&at.url(None), Pool::Own).await;
        backend.prepare().await;
        let world = folder.path().join(kind.word());
        std::fs::create_dir(&world).expect("the directory is new");
        let scene = Scene {
            kind,
            operator: Idempotency::builder(backend.store()).recovery(Recovery::Hold).build(),
            backend,
            site: at,
            proxy,
            pooler,
            disk,
            part: plan.part,
            receiver: Receiver::start().await,
            lease: plan.lease,
            margin: plan.margin,
            world,
        };
        rounds_of(plan, &scene, rounds, &mut tally).await;
        site = match scene.disk {
            Some(_) => Site::start(plan.store, folder.path().to_owned()),
            None => scene.site,
        };
    }
    tally
}

async fn rounds_of<B: Backend>(plan: &Plan, scene: &Scene<B>, rounds: usize, tally: &mut Tally) {
    let kind = scene.kind;
    let post = Post {
        part: plan.part,
        role: Role::Service,
        receiver: scene.receiver.url().to_owned(),
        store: plan.store,
        url: scene.site.url(scene.port()),
        pool: match kind {
            Kind::Begin | Kind::Left | Kind::Settings | Kind::Exhaust => Pool::Lent,
            Kind::PoolTransaction => Pool::Shared,
            _ => Pool::Own,
        },
        world: scene.world.clone(),
        lease: plan.lease,
        sabotage: plan.sabotage,
    };
    let (service, relay) = (Role::Service, Role::Relay);
    let places: &[(Role, i64)] = match (plan.part, kind) {
        (Part::Requests, Kind::Clock) => &[(service, HOUR), (service, -HOUR), (service, 0)],
        (Part::Requests, _) => &[(service, 0), (service, 0)],
        (Part::Outbox, Kind::Clock) => &[(service, HOUR), (service, -HOUR), (relay, -HOUR), (relay, HOUR)],
        (Part::Outbox, _) => &[(service, 0), (service, 0), (relay, 0), (relay, 0)],
    };
    let places: Vec<Place> = places.iter().map(|&(role, off)| Place { role, off }).collect();
    let mut crew = Crew::start(post, &places);
    let mut struck = 0;
    // A fault may come too late to strike anything; such a round is checked all the same, and does not count.
    for number in (plan.first..).take(rounds * 3 + 5) {
        if struck == rounds {
            break;
        }
        let name = match plan.part {
            Part::Requests => format!("{}-{number}", kind.word()),
            Part::Outbox => format!("outbox-{}-{number}", kind.word()),
        };
        let mut round = Round::new(scene, &mut crew, &name, seed(plan.seed, kind, number));
        let hit = round.run().await;
        struck += usize::from(hit);
        tally.add(kind, hit, &round);
        if !round.findings.found.is_empty() && plan.voice >= Voice::Findings {
            report(plan, kind, number, &round);
        }
        if plan.voice == Voice::Progress && struck % 20 == 0 && hit {
            let (store, part) = (plan.store.word(), plan.part.word());
            println!("{store} {part} {}: {struck} of {rounds}", kind.word());
        }
    }
    if struck < rounds {
        tally.too_few(kind);
    }
}

fn report<B: Backend>(plan: &Plan, kind: Kind, number: usize, round: &Round<'_, B>) {
    let (store, part) = (plan.store.word(), plan.part.word());
    println!("{store} {part} {} round {number}:", kind.word());
    for (finding, text) in &round.findings.found {
        println!("  {finding:?}: {text}");
    }
    let failed = round.ledger.failed.iter().map(|failed| &failed.why);
    let mut reasons: Vec<&String> = failed.collect();
    reasons.sort();
    reasons.dedup();
    for reason in reasons.iter().take(20) {
        println!("  a caller was told: {reason}");
    }
    let mut misuses = round.ledger.misuses.clone();
    misuses.sort();
    misuses.dedup();
    for misuse in misuses {
        println!("  an application left behind: {misuse}");
    }
    for (number, health) in &round.ledger.health {
        println!("  relay {number}: {health}");
    }
    println!(
        "  again: bin/faults --store {store} --part {part} --kind {} --seed {} --round {number}",
        kind.word(),
        plan.seed
    );
}

/// A round's own seed, so that it can be repeated without those before it.
fn seed(seed: u64, kind: Kind, number: usize) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed ^ ((kind as u64) << 56) ^ number as u64);
    random.u64(..)
}
