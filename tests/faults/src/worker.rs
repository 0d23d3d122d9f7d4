//! A worker: a process of a service, which calls for the keys that it is told, as often as it is told, until each has an
//! answer. It may die at any point. It ends with its standard input, and is killed with the thread that started it.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use oneflight::idempotency::{Effect, Error, ErrorKind, Idempotency, Recovery, Reply, Resolution, StepError};
use oneflight::identity::RequestIdentity;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::backend::{Backend, Postgres, Redis, Sqlite, StoreName};
use crate::messages::{Key, Known, Manner, Order, Part, Post, Role, Sabotage, Said};
use crate::work::{Marks, Sending, Work};
use crate::world;

/// How long a call waits for one that is in progress elsewhere, before it fails and is made again.
const WAIT: Duration = Duration::from_secs(3);

/// How often a relay says how it is.
const HEALTH: Duration = Duration::from_millis(500);

pub fn say(said: &Said) {
    let mut line = serde_json::to_vec(said).expect("it can be written");
    line.push(b'\n');
    // The process that listened may be gone, and this process is about to be.
    let _ = std::io::stdout().lock().write_all(&line);
}

pub fn main(post: &str) {
    set_parent_process_death_signal(Some(Signal::KILL)).expect("it can be asked for");
    let post: Post = serde_json::from_str(post).expect("the driver writes what we read");
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("there is a runtime");
    match post.store {
        StoreName::Sqlite => runtime.block_on(serve::<Sqlite>(post)),
        StoreName::Postgres => runtime.block_on(serve::<Postgres>(post)),
        StoreName::Redis => runtime.block_on(serve::<Redis>(post)),
    }
}

async fn serve<B: Backend>(post: Post) {
    let mut orders = orders();
    let backend = B::open(&post.url, post.pool).await;
    if post.role == Role::Relay {
        let relay = backend.relay(&post);
        ready();
        loop {
            tokio::time::sleep(HEALTH).await;
            let health = format!("{:?}", relay.health());
            say(&Said::Health { health });
        }
    }
    let store = backend.store();
    let with = |recovery| {
        Idempotency::builder(store.clone())
            .lease(post.lease)
            .wait(WAIT)
            .recovery(recovery)
            .build()
    };
    let world = post.world.clone();
    let ask = Recovery::ask(move |doubt| {
        let key = doubt.id.key().to_owned();
        let round = key.split('.').next().expect("the first part").to_owned();
        let done = world::done(&world, &round, &key);
        async move {
            match done {
                Some(mark) => Resolution::completed(&mark).unwrap_or(Resolution::Hold),
                None => Resolution::Rerun,
            }
        }
    });
    let service = Arc::new(Service::<B> {
        refuse: with(Recovery::Hold),
        rerun: with(Recovery::Rerun),
        ask: with(ask),
        post,
    });
    // It ends with the process.
    let _completer = match service.post.part {
        Part::Requests => B::completer(&service.refuse, service.post.world.clone()),
        Part::Outbox => None,
    };
    ready();
    while let Some(order) = orders.recv().await {
        let mut random = Rng::with_seed(order.seed);
        let mut calls: Vec<Key> = Vec::new();
        for _ in 0..order.duplicates {
            calls.extend_from_slice(&order.keys);
        }
        random.shuffle(&mut calls);
        let application = tokio::spawn(misuse(backend.clone(), order.clone(), random.fork()));
        let mut running = JoinSet::new();
        for key in calls {
            let (service, random, pace) = (Arc::clone(&service), random.fork(), order.pace);
            let is_left = key.manner == Manner::Unattended && order.phase == 1;
            running.spawn(async move {
                match is_left {
                    true => service.leave(key, random, pace).await,
                    false => service.call(key, random, pace).await,
                }
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.expect("a call does not panic");
        }
        application.abort();
        say(&Said::Done { phase: order.phase });
    }
}

fn ready() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    say(&Said::Ready {
        clock: since.expect("after 1970").as_secs(),
    });
}

/// What the application does to its connections while calls run.
async fn misuse<B: Backend>(backend: B, order: Order, mut random: Rng) {
    let Some((misuse, times)) = order.misuse else { return };
    let stray = format!("{}.stray", order.keys[0].round);
    for _ in 0..times {
        tokio::time::sleep(Duration::from_micros(random.u64(..15_000))).await;
        if let Some(how) = backend.misuse(misuse, &stray, &mut random).await {
            say(&Said::Misused { how });
        }
    }
}

/// Reads orders, on a thread of its own.
fn orders() -> mpsc::UnboundedReceiver<Order> {
    let (give, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let order = serde_json::from_str(&line).expect("the driver writes what we read");
            if give.send(order).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    orders
}

struct Service<B: Backend> {
    refuse: Idempotency<B::Store>,
    rerun: Idempotency<B::Store>,
    ask: Idempotency<B::Store>,
    post: Post,
}

impl<B: Backend> Service<B> {
    /// Asks until there is an answer. That it comes in time is the driver's business.
    async fn call(&self, key: Key, mut random: Rng, pace: Duration) {
        let id = key.id();
        let sabotage = self.post.sabotage.filter(|_| key.number == 0);
        if sabotage == Some(Sabotage::Hang) {
            return std::future::pending().await;
        }
        let times = match sabotage {
            Some(Sabotage::Forget) => 0,
            Some(Sabotage::Double) => 2,
            _ => 1,
        };
        loop {
            let marks = Marks::default();
            let work = Work {
                key: key.clone(),
                marks: Arc::clone(&marks),
                times,
                pauses: [pace.mul_f64(random.f64()), pace.mul_f64(random.f64())],
            };
            let fails = key.manner == Manner::Outbox && random.u8(..8) == 0;
            let error = match self.try_call(id.clone(), work, fails).await {
                Ok(reply) => {
                    return say(&Said::Answered {
                        key,
                        mark: reply.value().clone(),
                        attempt: reply.attempt(),
                        origin: reply.origin(),
                    });
                }
                Err(error) => match error.kind() {
                    &ErrorKind::InDoubt { attempt } if key.manner == Manner::Refuse => {
                        return say(&Said::InDoubt { key, attempt });
                    }
                    _ => error,
                },
            };
            let marks = marks.lock().unwrap().clone();
            say(&Said::Failed {
                key: key.clone(),
                known: match error.effect() {
                    Effect::Nothing => Known::Nothing,
                    Effect::Done => Known::Done,
                    _ => Known::Unknown,
                },
                marks,
                unrecorded: is_unrecorded(&error),
                why: explained(&error),
            });
            tokio::time::sleep(Duration::from_millis(random.u64(5..40))).await;
        }
    }

    /// Asks once, goes away in the middle, and does not come back.
    async fn leave(&self, key: Key, mut random: Rng, pace: Duration) {
        let times = match self.post.sabotage.filter(|_| key.number == 0) {
            Some(Sabotage::Hang) => return std::future::pending().await,
            Some(Sabotage::Forget) => 0,
            Some(Sabotage::Double) => 2,
            _ => 1,
        };
        let work = Work {
            key: key.clone(),
            marks: Marks::default(),
            times,
            pauses: [pace.mul_f64(random.f64()), pace.mul_f64(random.f64())],
        };
        let longest = (pace * 8).mul_f64(random.f64());
        let _ = tokio::time::timeout(longest, self.try_call(key.id(), work, false)).await;
        say(&Said::Left { key });
    }

    async fn try_call(&self, id: RequestIdentity, work: Work, fails: bool) -> Result<Reply<String>, Error> {
        let idem = match work.key.manner {
            Manner::InTransaction => return B::in_transaction(&self.refuse, id, work).await,
            Manner::Refuse => &self.refuse,
            Manner::Rerun => &self.rerun,
            Manner::Ask => &self.ask,
            Manner::Outbox => {
                let sabotage = self.post.sabotage;
                let sending = Sending { work, fails, sabotage };
                return B::sending(&self.refuse, id, sending).await;
            }
            Manner::Steps | Manner::Unattended => {
                let world = self.post.world.clone();
                return B::in_steps(&self.refuse, id, work, world).await;
            }
        };
        let world = self.post.world.clone();
        idem.run(id, move |context| work.outside(world, context)).await
    }
}

/// An error with its causes.
fn explained(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Whether something was done and may not be recorded.
fn is_unrecorded(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::LeaseLost
            | ErrorKind::Unrecorded(_)
            | ErrorKind::Stopped(StepError::LeaseLost | StepError::Unrecorded { .. })
    )
}
