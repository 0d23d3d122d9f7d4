//! One round: new keys for a crew, a fault at a random point, and then what must hold.
//!
//! ```text
//! ordered ─▶ struck ─▶ healed ─▶ all answered, within lease + margin ─▶ doubts settled ─▶ all asked again ─▶ checked
//! ```
//!
//! Where messages are sent, "all answered" includes that each of them has ended. What the faults are is in `strike.rs`.

use std::collections::HashSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use fastrand::Rng;
use oneflight::idempotency::{ErrorKind, Idempotency, Resolution};
use tokio::time::timeout_at;

use crate::backend::{Backend, Settled};
use crate::check::{self, Finding, Findings};
use crate::check_outbox;
use crate::crew::Crew;
use crate::disk::Disk;
use crate::kind::Kind;
use crate::ledger::Ledger;
use crate::messages::{Key, Manner, Misuse, Order, Part};
use crate::notes::{self, SENDERS, Topic};
use crate::pgbouncer::Bouncer;
use crate::proxy::Proxy;
use crate::receiver::{Receiver, Seen};
use crate::site::Site;
use crate::world;

/// How long a crew may take to start, and to say a part of what it has to say.
const PATIENCE: Duration = Duration::from_secs(60);
const DUPLICATES: usize = 2;

/// What the rounds of a kind share.
pub struct Scene<B: Backend> {
    pub part: Part,
    pub kind: Kind,
    pub site: Site,
    pub proxy: Option<Proxy>,
    pub pooler: Option<Bouncer>,
    pub disk: Option<Disk>,
    /// Where messages are delivered to.
    pub receiver: Receiver,
    /// The driver's own way to the store, past the proxy.
    pub backend: B,
    pub operator: Idempotency<B::Store>,
    pub lease: Duration,
    /// How long after the fault and a lease every call has to have its answer.
    pub margin: Duration,
    pub world: PathBuf,
}

impl<B: Backend> Scene<B> {
    /// What workers connect to, if it is not the server.
    pub fn port(&self) -> Option<u16> {
        let proxy = self.proxy.as_ref().map(Proxy::port);
        proxy.or(self.pooler.as_ref().map(Bouncer::port))
    }
}

/// How many holders a round took away, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Struck {
    pub killed: usize,
    pub frozen: usize,
}

pub struct Round<'a, B: Backend> {
    pub(crate) scene: &'a Scene<B>,
    pub(crate) crew: &'a mut Crew,
    pub(crate) random: Rng,
    pub ledger: Ledger,
    pub order: Order,
    pub struck: Struck,
    /// How many effects its messages have in all.
    pub deliveries: usize,
    /// What the receiver of messages saw.
    pub seen: Seen,
    /// How many dead letters an operator had tried again, and how many are left.
    pub redriven: usize,
    pub dead: usize,
    /// Those that an operator let run again.
    pub settled: HashSet<Key>,
    /// How long after the fault the last call of it was answered.
    pub longest: Duration,
    pub findings: Findings,
}

impl<'a, B: Backend> Round<'a, B> {
    pub fn new(scene: &'a Scene<B>, crew: &'a mut Crew, name: &str, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut keys = Vec::new();
        let manners: &[(Manner, usize)] = match B::TRANSACTIONS {
            _ if scene.part == Part::Outbox => &[(Manner::Outbox, SENDERS)],
            true => &[
                (Manner::InTransaction, 4),
                (Manner::Refuse, 2),
                (Manner::Rerun, 3),
                (Manner::Ask, 3),
                (Manner::Steps, 3),
                (Manner::Unattended, 3),
            ],
            false => &[(Manner::Refuse, 4), (Manner::Rerun, 4), (Manner::Ask, 4)],
        };
        for &(manner, count) in manners {
            keys.extend((0..count).map(|number| Key {
                round: name.to_owned(),
                manner,
                number,
            }));
        }
        let misuse = match scene.kind {
            Kind::Begin => Some(Misuse::Begin),
            Kind::Left => Some(Misuse::Left),
            Kind::Settings => Some(Misuse::Settings),
            Kind::Exhaust => Some(Misuse::Exhaust),
            // A session that many share has no settings that are one's own to change.
            Kind::PoolTransaction => [None, Some(Misuse::Begin), Some(Misuse::Left)][random.usize(..3)],
            Kind::PoolSession => {
                let misuses = [Misuse::Begin, Misuse::Left, Misuse::Settings];
                misuses.get(random.usize(..4)).copied()
            }
            _ => None,
        };
        // A frozen worker is to be in the middle of its work.
        let pace = if scene.kind == Kind::Freeze { 80 } else { 6 };
        let deliveries = notes::deliveries(&keys);
        scene.receiver.begin(random.u64(..));
        let order = Order {
            keys,
            duplicates: DUPLICATES,
            seed: random.u64(..),
            pace: Duration::from_millis(pace),
            phase: 1,
            misuse: misuse.map(|misuse| (misuse, random.usize(4..12))),
        };
        Self {
            scene,
            crew,
            random,
            ledger: Ledger::default(),
            order,
            struck: Struck::default(),
            deliveries,
            seen: Seen::default(),
            redriven: 0,
            dead: 0,
            settled: HashSet::new(),
            longest: Duration::ZERO,
            findings: Findings::default(),
        }
    }

    /// Says whether the fault struck while there were calls to strike.
    pub async fn run(&mut self) -> bool {
        self.give_orders().await;
        let struck = self.strike().await;
        let healed = Instant::now();
        if let Some(proxy) = &self.scene.proxy {
            proxy.disarm();
        }
        self.finish(healed).await;
        if let Some(last) = self.ledger.last {
            self.longest = last.saturating_duration_since(healed);
        }
        self.settle().await;
        match self.scene.part {
            Part::Requests => self.completers(healed).await,
            Part::Outbox => self.relays(healed).await,
        }
        self.order.phase = 2;
        self.order.misuse = None;
        self.give_orders().await;
        self.finish(Instant::now()).await;
        self.seen = self.scene.receiver.end();
        check::round(self, self.scene).await;
        if self.scene.part == Part::Outbox {
            if let Some(last) = self.seen.last {
                self.longest = self.longest.max(last.saturating_duration_since(healed));
            }
            check_outbox::round(self, self.scene).await;
        }
        struck
    }

    async fn give_orders(&mut self) {
        self.ledger.begin(self.order.phase);
        for number in self.crew.services() {
            self.ledger.expect(number);
            self.order.seed = self.random.u64(..);
            self.crew.order(number, &self.order).await;
        }
    }

    /// Takes in what workers say until something is over.
    pub(crate) async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return done,
                heard = self.crew.next() => self.ledger.take(heard),
            }
        }
    }

    /// Takes in what workers say until it comes to this, or for a long time.
    pub(crate) async fn hear_until(&mut self, enough: impl Fn(&Ledger) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !enough(&self.ledger) && Instant::now() < until {
            let look = Instant::now() + Duration::from_millis(20);
            if let Ok(heard) = timeout_at(look.into(), self.crew.next()).await {
                self.ledger.take(heard);
            }
        }
    }

    /// Waits until every call has its answer. A worker that has none in time is stuck, and killed.
    async fn finish(&mut self, healed: Instant) {
        let until = healed + self.scene.lease + self.scene.margin;
        while !self.ledger.is_over() {
            match timeout_at(until.into(), self.crew.next()).await {
                Ok(heard) => self.ledger.take(heard),
                Err(_) => break,
            }
        }
        let relays = self.crew.numbers().into_iter();
        let relays = relays.filter(|&number| !self.crew.is_service(number) && self.ledger.is_gone(number));
        let mut vanished: Vec<_> = relays.collect();
        vanished.append(&mut self.ledger.vanished);
        for number in vanished {
            self.findings
                .add(Finding::Wrong, format!("worker {number} ended by itself"));
            self.crew.replace(number).await;
        }
        for (worker, key) in self.ledger.unanswered(&self.order) {
            let text = format!("worker {worker} has no answer for {}", key.text());
            self.findings.add(Finding::Stuck, text);
        }
        for number in self.crew.numbers() {
            if self.ledger.is_open(number) {
                self.ledger.dismiss(number);
                self.crew.replace(number).await;
            }
        }
    }

    /// Waits until completers have gone on with what nobody asks for.
    async fn completers(&mut self, healed: Instant) {
        let until = healed + self.scene.lease + self.scene.margin;
        let keys = self.order.keys.clone();
        for key in keys.into_iter().filter(|key| key.manner == Manner::Unattended) {
            loop {
                match self.scene.operator.status(&key.id()).await {
                    Ok(Some(record)) if record.result().is_some() => break,
                    // It never began.
                    Ok(None) => {
                        self.settled.insert(key.clone());
                        break;
                    }
                    _ if Instant::now() >= until => {
                        let text = format!("nobody goes on with {}", key.text());
                        self.findings.add(Finding::Stuck, text);
                        break;
                    }
                    _ => {}
                }
                self.meanwhile(tokio::time::sleep(Duration::from_millis(20))).await;
            }
        }
    }

    /// Waits until relays have brought every message to its end, as an operator who has dead letters tried again whose reason
    /// is mended.
    async fn relays(&mut self, healed: Instant) {
        let until = healed + self.scene.lease + self.scene.margin;
        let round = self.order.keys[0].round.clone();
        loop {
            let left = match self.scene.backend.left_over(&round).await {
                Ok(left) => left,
                // A connection that was lost is noticed when it is used.
                Err(_) if Instant::now() < until => continue,
                Err(why) => {
                    let text = format!("what is left of the outbox cannot be read: {why}");
                    return self.findings.add(Finding::Stuck, text);
                }
            };
            let mut waits = 0;
            for it in left {
                match it.is_dead && it.note.is_refused {
                    true if it.note.topic == Topic::Charge => {
                        waits += 1;
                        self.scene.receiver.mend(&it.note);
                        let redriven = self.scene.backend.settle_dead(&it.note, Settled::Redriven).await;
                        self.redriven += usize::from(redriven.is_ok_and(|was_dead| was_dead));
                    }
                    true => {}
                    false => waits += 1,
                }
            }
            if waits == 0 {
                return;
            }
            if Instant::now() >= until {
                let text = format!("{waits} messages have not ended in time");
                return self.findings.add(Finding::Stuck, text);
            }
            self.meanwhile(tokio::time::sleep(Duration::from_millis(20))).await;
        }
    }

    /// Does what an operator does about requests in doubt: looks whether they were done, and says so.
    async fn settle(&mut self) {
        for key in self.ledger.in_doubt.clone() {
            let answer = match world::done(&self.scene.world, &key.round, &key.text()) {
                Some(mark) => Resolution::completed(&mark).expect("it can be written"),
                None => {
                    self.settled.insert(key.clone());
                    Resolution::Rerun
                }
            };
            let mut settled = self.scene.operator.resolve(&key.id(), answer.clone()).await;
            // A connection that was lost is noticed when it is used.
            if let Err(error) = &settled
                && let ErrorKind::Store(_) = error.kind()
            {
                settled = self.scene.operator.resolve(&key.id(), answer).await;
            }
            if let Err(error) = settled {
                let text = format!("{} cannot be settled: {error}", key.text());
                self.findings.add(Finding::Stuck, text);
            }
        }
    }
}
