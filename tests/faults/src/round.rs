//! One round: new keys for a crew, a fault at a random point, and then what must hold.
//!
//! ```text
//! ordered ─▶ struck ─▶ healed ─▶ all answered, within lease + margin ─▶ doubts settled ─▶ all asked again ─▶ checked
//! ```
//!
//! The point is drawn as "after so many lines of a worker", so it lies in the middle of its calls however slow the machine is.

use std::collections::HashSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use fastrand::Rng;
use oneflight::idempotency::{ErrorKind, Idempotency, Resolution};
use rustix::process::Signal;
use tokio::time::timeout_at;

use crate::backend::Backend;
use crate::check::{self, Finding, Findings};
use crate::crew::{Crew, Number};
use crate::disk::Disk;
use crate::kind::Kind;
use crate::ledger::Ledger;
use crate::messages::{Key, Manner, Misuse, Order};
use crate::pgbouncer::Bouncer;
use crate::proxy::{Cut, Proxy};
use crate::site::{Site, Stop};
use crate::world;

/// How long a crew may take to start, and to say a part of what it has to say.
const PATIENCE: Duration = Duration::from_secs(60);
const DUPLICATES: usize = 2;

/// What the rounds of a kind share.
pub struct Scene<B: Backend> {
    pub kind: Kind,
    pub site: Site,
    pub proxy: Option<Proxy>,
    pub pooler: Option<Bouncer>,
    pub disk: Option<Disk>,
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
    scene: &'a Scene<B>,
    crew: &'a mut Crew,
    random: Rng,
    pub ledger: Ledger,
    pub order: Order,
    pub struck: Struck,
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
        self.completers(healed).await;
        self.order.phase = 2;
        self.order.misuse = None;
        self.give_orders().await;
        self.finish(Instant::now()).await;
        check::round(self, self.scene).await;
        struck
    }

    async fn give_orders(&mut self) {
        self.ledger.begin(self.order.phase);
        for number in self.crew.numbers() {
            self.ledger.expect(number);
            self.order.seed = self.random.u64(..);
            self.crew.order(number, &self.order).await;
        }
    }

    async fn strike(&mut self) -> bool {
        match self.scene.kind {
            Kind::Kill | Kind::Clock => self.kill().await,
            Kind::Freeze => self.freeze().await,
            Kind::Cut => self.cut().await,
            Kind::Restart => self.restart().await,
            Kind::Disk => self.fill().await,
            Kind::Disconnect => self.disconnect().await,
            Kind::Begin | Kind::Left | Kind::Settings => self.misuse().await,
            Kind::PoolSession | Kind::PoolTransaction => match self.order.misuse {
                Some(_) => self.misuse().await,
                None if self.random.bool() => self.kill().await,
                None => self.disconnect().await,
            },
        }
    }

    async fn kill(&mut self) -> bool {
        let Some(first) = self.moment().await else {
            return false;
        };
        let all = self.scene.kind == Kind::Kill && self.random.u8(..4) == 0;
        let mut victims = vec![first];
        if all {
            victims.extend(self.crew.numbers().into_iter().filter(|&number| number != first));
        }
        let mut started = Vec::new();
        for victim in victims {
            self.struck.killed += usize::from(self.ledger.is_open(victim));
            self.ledger.dismiss(victim);
            let new = self.crew.replace(victim).await;
            self.hear_until(|ledger| ledger.is_gone(victim)).await;
            self.ledger.expect(new);
            self.crew.order(new, &self.order).await;
            started.push(new);
        }
        self.hear_until(|ledger| started.iter().all(|&new| ledger.is_ready(new)))
            .await;
        true
    }

    async fn freeze(&mut self) -> bool {
        let Some(victim) = self.moment().await else {
            return false;
        };
        self.struck.frozen += 1;
        self.crew.signal(victim, Signal::STOP);
        let longer = self.scene.lease.mul_f64(1.5 + self.random.f64());
        self.meanwhile(tokio::time::sleep(longer)).await;
        self.crew.signal(victim, Signal::CONT);
        true
    }

    async fn cut(&mut self) -> bool {
        let scene = self.scene;
        let proxy = scene.proxy.as_ref().expect("there is a proxy to be cut");
        let before = proxy.cuts();
        let cuts = [Cut::Before, Cut::Middle, Cut::After, Cut::AfterAnswer];
        let cut = cuts[self.random.usize(..cuts.len())];
        let at_commit = B::TRANSACTIONS && self.random.bool();
        if at_commit {
            proxy.cut_after(self.random.usize(..4), "COMMIT", cut);
        } else if self.random.u8(..3) == 0 {
            // Whatever is under way, on all connections.
            let moment = self.moment().await;
            proxy.cut_all();
            return moment.is_some();
        } else {
            // An order takes more messages than this.
            proxy.cut_after(self.random.usize(..30), "", cut);
        }
        self.hear_until(|ledger| proxy.cuts() > before || ledger.is_over())
            .await;
        proxy.cuts() > before
    }

    async fn restart(&mut self) -> bool {
        let moment = self.moment().await;
        let stop = match self.random.bool() {
            true => Stop::AsACrash,
            false => Stop::InGoodOrder,
        };
        let site = &self.scene.site;
        // What workers say meanwhile is stamped as it comes, and taken in later.
        tokio::task::block_in_place(|| site.restart(stop));
        moment.is_some()
    }

    async fn fill(&mut self) -> bool {
        let moment = self.moment().await;
        let scene = self.scene;
        let disk = scene.disk.as_ref().expect("there is a disk to be filled");
        disk.fill();
        let longer = Duration::from_millis(self.random.u64(50..1500));
        self.meanwhile(tokio::time::sleep(longer)).await;
        disk.clear();
        moment.is_some()
    }

    async fn disconnect(&mut self) -> bool {
        let moment = self.moment().await;
        let scene = self.scene;
        for _ in 0..self.random.usize(1..4) {
            self.meanwhile(scene.site.disconnect()).await;
            let pause = Duration::from_millis(self.random.u64(..30));
            self.meanwhile(tokio::time::sleep(pause)).await;
        }
        moment.is_some()
    }

    /// Waits until the applications have misused all that they were told to, or have no calls left.
    async fn misuse(&mut self) -> bool {
        let numbers = self.crew.numbers();
        let (_, times) = self.order.misuse.expect("they were told what to misuse");
        let over = |ledger: &Ledger, number| ledger.misused(number) >= times || !ledger.is_open(number);
        self.hear_until(|ledger| numbers.iter().all(|&number| over(ledger, number)))
            .await;
        numbers.iter().any(|&number| self.ledger.misused(number) > 0)
    }

    /// Waits for a random point in the calls of a random worker; `None` if they were over before.
    async fn moment(&mut self) -> Option<Number> {
        let numbers = self.crew.numbers();
        let victim = numbers[self.random.usize(..numbers.len())];
        let lines = self.random.usize(..self.order.calls());
        let ready_line = usize::from(!self.ledger.is_ready(victim));
        self.hear_until(|ledger| ledger.heard_of(victim) >= lines + ready_line || !ledger.is_open(victim))
            .await;
        let more = Duration::from_micros(self.random.u64(..4000));
        self.meanwhile(tokio::time::sleep(more)).await;
        self.ledger.is_open(victim).then_some(victim)
    }

    /// Takes in what workers say until something is over.
    async fn meanwhile<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return done,
                heard = self.crew.next() => self.ledger.take(heard),
            }
        }
    }

    /// Takes in what workers say until it comes to this, or for a long time.
    async fn hear_until(&mut self, enough: impl Fn(&Ledger) -> bool) {
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
        for number in std::mem::take(&mut self.ledger.vanished) {
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
