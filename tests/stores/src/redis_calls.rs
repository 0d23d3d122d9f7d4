//! `run` on Redis against what most people write there, "get, work, set": time, and the processor time behind it.
//!
//! Every client is a task, as the requests of a service are. Redis does one thing at a time, so beside the time of a call
//! stands what it costs the server, by its own account, and what it costs this process.

use std::fmt::Write;
use std::future::Future;
use std::time::Instant;

use oneflight::idempotency::Idempotency;
use oneflight::identity::{RequestIdentity, Scope};
use oneflight_redis::RedisStore;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::task::JoinSet;

use crate::by_hand::get_set;
use crate::figures::Figure;
use crate::ours::run;
use crate::rounds::named;
use crate::{Extent, Failure, redis_server};

/// How many clients, how many calls of each way they make in a round, and the ratio that is aimed at.
const CROWDS: [(u64, u64, f64); 3] = [(1, 400, 1.2), (16, 4_000, 1.3), (64, 8_000, 1.3)];

/// What a round came to, for each call.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    time: f64,
    server: f64,
    here: f64,
}

/// The account of a server and of this process.
struct Accounts {
    connection: MultiplexedConnection,
}

impl Accounts {
    /// The server's processor time so far, in microseconds.
    async fn server(&mut self) -> Result<f64, Failure> {
        let info: String = cmd("INFO").arg("cpu").query_async(&mut self.connection).await?;
        let seconds = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|seconds| seconds.trim().parse::<f64>().ok())
        };
        let both = seconds("used_cpu_sys:").zip(seconds("used_cpu_user:"));
        let (system, user) = both.ok_or("the server does not say what it has used")?;
        Ok((system + user) * 1e6)
    }

    /// The processor time of this process so far, in microseconds.
    fn here() -> Result<f64, Failure> {
        let mut nanos = 0.0;
        for thread in std::fs::read_dir("/proc/self/task")? {
            // A thread may have ended meanwhile.
            if let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) {
                nanos += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
            }
        }
        Ok(nanos / 1e3)
    }

    /// What it costs that so many clients make so many calls, with numbers from this one on.
    async fn of<F, W>(&mut self, clients: u64, calls: u64, from: u64, call: F) -> Result<Cost, Failure>
    where
        F: Fn(u64) -> W + Clone + Send + 'static,
        W: Future<Output = Result<(), Failure>> + Send,
    {
        let (server, here, begun) = (self.server().await?, Self::here()?, Instant::now());
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let call = call.clone();
            tasks.spawn(async move {
                for number in (client..calls).step_by(usize::try_from(clients).unwrap_or(1)) {
                    call(from + number).await?;
                }
                Ok::<_, Failure>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
        let calls = calls as f64;
        Ok(Cost {
            time: begun.elapsed().as_secs_f64() * 1e6 / calls,
            here: (Self::here()? - here) / calls,
            server: (self.server().await? - server) / calls,
        })
    }
}

pub(crate) async fn measure(extent: Extent) -> Result<Vec<Figure>, Failure> {
    let server = redis_server::Server::start(&[]);
    let idem = Idempotency::builder(RedisStore::open(server.url()).await?).build();
    let connection = server.connection().await;
    let mut accounts = Accounts {
        connection: server.connection().await,
    };
    let mut figures = Vec::new();
    for (clients, calls, aim) in CROWDS {
        let key = move |number: u64| format!("{clients:08x}-0000-4000-8000-{number:012x}");
        let id = move |number| RequestIdentity::new(Scope::new("tenant-7").route("elsewhere"), key(number));
        let ours = run!(idem, id);
        let theirs = get_set!(connection, move |number| format!("elsewhere-{}", key(number)));
        let mut rounds = Vec::new();
        // The first round warms up, and is not counted.
        for round in 0..=extent.of(31, 9) {
            let from = round * calls;
            // Which goes first changes.
            let pair = if round % 2 == 0 {
                let ours = accounts.of(clients, calls, from, ours.clone()).await?;
                (ours, accounts.of(clients, calls, from, theirs.clone()).await?)
            } else {
                let theirs = accounts.of(clients, calls, from, theirs.clone()).await?;
                (accounts.of(clients, calls, from, ours.clone()).await?, theirs)
            };
            rounds.push(pair);
        }
        figures.push(figure(clients, aim, &rounds[1..]));
    }
    Ok(figures)
}

fn figure(clients: u64, aim: f64, rounds: &[(Cost, Cost)]) -> Figure {
    let middle = |of: &dyn Fn(&(Cost, Cost)) -> f64| {
        let mut all: Vec<_> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = write!(
        text,
        "{:.1} µs against {:.1} µs; processor time of the server {:.1} against {:.1}, of this process {:.1} against {:.1}",
        middle(&|it| it.0.time),
        middle(&|it| it.1.time),
        middle(&|it| it.0.server),
        middle(&|it| it.1.server),
        middle(&|it| it.0.here),
        middle(&|it| it.1.here),
    );
    let ratio = middle(&|it| it.0.time / it.1.time);
    let of = named(clients);
    let case = format!("Redis, `run` with work elsewhere, {of}: time against \"get, work, set\"");
    Figure::ratio_at_most(case, &[ratio], aim, &text)
}
